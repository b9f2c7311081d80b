"""What holds of every study by its declaration alone."""

import dataclasses
import importlib

import pytest
from absl.testing import flagsaver

from benchmarks import all as every
from benchmarks.harness import bench as grammar
from benchmarks.harness import command
from benchmarks.report import published
from sae_gap.encoders.lasso import Lasso
from sae_gap.figures import labels


def bench(name):
    return importlib.import_module(f"benchmarks.{name}").BENCH


def methods(name, preset="paper", **changes):
    one = bench(name)
    sizes = dataclasses.replace(one.presets.get(preset, one.presets["quick"]), **changes)
    return one.methods(one.sources(sizes)[0], sizes)


@pytest.mark.parametrize("protocol", ["strict", "paper"])
@pytest.mark.parametrize("name", every.STUDIES)
def test_every_stored_fit_keeps_the_models_that_any_study_scores(name, protocol):
    for method in methods(name, protocol=protocol):
        assert set(method.at) <= {*method.learner.landmarks, method.learner.num_steps}


@pytest.mark.parametrize("name", every.STUDIES)
def test_only_what_the_paper_published_is_held_against_it(name, tmp_path):
    one = bench(name)
    preset = dataclasses.replace(one.presets["quick"], protocol="paper")
    read = command.Read(preset, one.sources(preset), one.names, one.names, tmp_path, tmp_path, (0, 1), False, None, "")
    assert grammar.is_comparable(read, one) == (name in (*published.STUDIES, "amortisation_gap"))
    for change in ({"protocol": "strict"}, {"epochs": 3}, {"seeds": (0,)}, {"noise_db": (20.0,)}):
        other = dataclasses.replace(read, preset=dataclasses.replace(preset, **change))
        assert not grammar.is_comparable(other, one)


# Studies whose sizes or SAEs are others than the headline's; so may be those of a new one.
OWN = (
    "dictionary_challenge",
    "warmstart_decoder",
    "dict_quality",
    "large_latents",
    "vary_sparsity",
    "phase_transition",
    "worlds",
)


@pytest.mark.parametrize("name", every.STUDIES)
def test_methods_of_a_study_share_their_learners(name):
    """The dictionaries of a study are those of the headline: none of them is trained again for it."""
    headline = {repr(method.learner) for method in methods("amortisation_gap", "quick")}
    learners = {repr(method.learner) for method in methods(name, "quick") if method.family in ("sae", "frozen", "refined")}
    if name not in OWN:
        assert learners <= headline


@pytest.mark.parametrize("name", every.STUDIES)
def test_everything_has_a_label_and_learned_dictionaries_a_colour_of_their_own(name):
    found = {method.coordinates["dictionary"] for method in methods(name, "quick")}
    # A name that is listed nowhere ranks behind all that are.
    assert [one for one in found if labels.rank(one)[0] > 0] == [], "give these a label and a colour"
    assert len({labels.colour(one) for one in found}) == len(found)
    assert labels.label(name, "study") != name


@pytest.mark.parametrize("name", every.STUDIES)
def test_every_column_that_is_printed_has_a_label(name):
    columns = {labels._split(column)[0] for table in bench(name).tables.values() for column in table}
    assert columns - labels._metrics().keys() - labels._OTHERS.keys() == set(), "give these a label in their metric"


@pytest.mark.parametrize("name", every.STUDIES)
def test_a_study_is_a_declaration(name):
    source = importlib.import_module(f"benchmarks.{name}").__file__
    with open(source) as file:
        text = file.read()
    assert "flags.DEFINE" not in text and "argparse" not in text and "_read_flags" not in text


@pytest.mark.parametrize("name", every.STUDIES)
def test_the_weight_of_the_command_line_is_that_of_codes_and_of_what_they_are_held_against(name):
    one = bench(name)
    saved = flagsaver.save_flag_values(one.flags)
    try:
        one.flags([name, "--preset=smoke", "--lam=0.3"])
        read = command.read_study(one)
    finally:
        flagsaver.restore_flag_values(saved, one.flags)
    study = one.study(read.preset, names=read.names)
    encoders = [method.encoder for method in study.methods(study.sources[0])]
    weights = {encoder.lam for encoder in encoders if isinstance(encoder, Lasso)}
    assert read.preset.lam == (0.3,) and 0.3 in weights and study.lam == (0.1 if "lam" in one.varies else 0.3)


def test_own_codes_are_held_against_the_usual_weight_where_the_weight_varies(smokes):
    rows = [row for row in smokes("lambda_sensitivity").rows if row["inference"] == "own"]
    assert len(rows) == 8 and {row["lam"] for row in rows} == {0.1}
    headline = {(row["method"], row["seed"]): row for row in smokes("amortisation_gap").rows}
    for row in rows:
        assert row["relative_gap_id"] == headline[row["method"], row["seed"]]["relative_gap_id"]


def test_all_takes_a_dry_run_as_a_study_does(call, tmp_path):
    code, out, err = call("all", "--studies=vary_latents", "--preset=smoke", "--dry_run", f"--results_dir={tmp_path / 'none'}")
    assert (code, err) == (0, "") and "to fit, about" in out and not (tmp_path / "none").exists()


@pytest.mark.parametrize("flag", ["--noise_db=none,20", "--input_dim=10,12"])
def test_conditions_of_one_size_have_lines_and_figures_of_their_own(flag, call, smokes, tmp_path):
    options = ("--preset=smoke", "--methods=linear_probe,raw,fista_oracle", f"--results_dir={tmp_path}")
    code, out, err = call("vary_latents", *options, "--num_latents=20", flag)
    assert (code, err) == (0, "")
    column = flag[2:].partition("=")[0]
    lines = (tmp_path / "vary_latents" / "summary.csv").read_text().splitlines()
    assert column in lines[0].split(",") and len(lines) == 1 + 3 * 2 and {"raw", "fista_oracle"} < set(out.split())
