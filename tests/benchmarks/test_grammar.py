"""What holds of every study by its declaration alone, and how a command line changes it."""

import dataclasses
import itertools
import json
import pathlib
import re

import numpy as np
import pytest

from benchmarks import options, studies
from benchmarks.harness import command, learners
from benchmarks.harness.outcome import is_comparable
from benchmarks.harness.preset import Preset, grid
from benchmarks.studies import attribution
from sae_gap import Setting
from sae_gap.analysis import published
from sae_gap.core import describe
from sae_gap.encoders import Lasso
from sae_gap.learners import SparseAutoencoder
from sae_gap.storage import results
from sae_gap.study import PROTOCOLS, jobs
from tests.conftest import flags_of

STUDIES = studies.found()
RECORD = pathlib.Path(__file__).with_name("studies.json")


def methods(name, preset="paper", **changes):
    one = STUDIES[name]
    sizes = dataclasses.replace(one.presets.get(preset, one.presets["quick"]), **changes)
    return one.methods(one.sources(sizes)[0], sizes)


def read(name, *arguments):
    """What a study reads from a command line."""
    kind = command.options_of(STUDIES[name])
    return command.read(STUDIES[name], options.parse(kind, [name, *arguments]))


def test_studies_are_named_after_their_files_and_have_a_title():
    assert len(STUDIES) >= 16 and len({one.title for one in STUDIES.values()}) == len(STUDIES)
    for name, one in STUDIES.items():
        module = __import__(f"benchmarks.studies.{name}", fromlist=["BENCH"])
        assert module.BENCH is one
        assert one.about == module.__doc__
        assert one.about.count("python -m sae_gap " + name)


def digests(name):
    """What its presets make of a study in each protocol: the first source and all methods."""
    found = {}
    for preset, protocol in itertools.product(STUDIES[name].presets, PROTOCOLS):
        sizes = dataclasses.replace(STUDIES[name].presets[preset], protocol=protocol)
        source = STUDIES[name].sources(sizes)[0]
        parts = [
            [one.name, one.family, one.at, describe(one.learner), describe(one.encoder), one.row]
            for one in STUDIES[name].methods(source, sizes)
        ]
        text = json.dumps([source.asdict(), parts], sort_keys=True)
        plain = re.sub(r'"version": \d+', "", text)
        found[f"{preset} {protocol}"] = results.key([plain])
    return found


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_has_the_methods_that_its_stored_rows_are_known_by(name):
    """Where they are meant to change, `python -m tests.benchmarks.test_grammar` records them anew;
    a study that was just dropped in passes.
    """
    assert json.loads(RECORD.read_text()).get(name) in (None, digests(name))


def test_every_stored_fit_keeps_the_models_that_any_study_scores():
    for name, protocol in itertools.product(STUDIES, PROTOCOLS):
        for method in methods(name, protocol=protocol):
            assert {*method.at} <= {*method.learner.snapshots, method.learner.num_steps}


def test_only_what_the_paper_published_is_held_against_it():
    for name in {line["study"] for line in published.published()}:
        assert is_comparable(read(name, "--protocol=paper"))
    assert is_comparable(read(name, "--protocol=paper", "--num_latents=50,70"))
    for change in (
        *("protocol=strict", "epochs=3", "rounds=3", "seeds=0", "noise_db=20", "width=70"),
        *("input_dim=47", "stream", "lam=0.2", "world=synthsae"),
    ):
        flags = [] if "protocol" in change else ["--protocol=paper"]
        assert not is_comparable(read("vary_latents", *flags, f"--{change}")), change


# Studies that score the headline's own SAEs at its sizes.
SHARED = ["vary_latents", "vary_samples", "frozen_decoder", "support_recovery", "warmstart_encoder"]


@pytest.mark.parametrize("name", [*SHARED, "lambda_sensitivity", "learning_dynamics"])
def test_the_dictionaries_of_a_study_are_those_of_the_headline(name):
    """None of them is trained again for it."""
    headline = {repr(method.learner) for method in methods("amortisation_gap", "quick")}
    for one in methods(name, "quick"):
        assert one.family not in ("sae", "frozen", "refined") or repr(one.learner) in headline


@pytest.mark.parametrize("name", STUDIES)
def test_the_weight_of_the_command_line_is_that_of_codes_and_of_what_they_are_held_against(name):
    found = read(name, "--preset=smoke", "--lam=0.3")
    study = found.study
    weights = {
        one.encoder.lam for one in study.methods(study.sources[0]) if isinstance(one.encoder, Lasso)
    }
    varies = name == "lambda_sensitivity"
    # Where λ varies, own codes are held against the optimum at the suite's usual one.
    shares = attribution.WEIGHTS if name == "attribution" else (1.0,)
    assert weights == {0.3 * share for share in shares}
    assert (found.preset.lam, study.lam) == ((0.1, 0.1) if varies else (0.3, 0.3))
    assert not varies or found.preset.weights == (0.3,)


def test_the_true_dictionary_has_a_width_of_its_own():
    with pytest.raises(ValueError, match="--width is of a dictionary that is learned"):
        read("encoder_budget", "--width=40")
    assert read("encoder_budget", "--width=40", "--dictionary=online_dl")


def test_options_of_a_preset_are_those_of_its_learners():
    preset = Preset(families="num_slots=8", sae_steps=9)
    assert learners.pruned(preset).num_slots == learners.families(preset).num_slots == 8
    # Of four steps each, whole epochs.
    source = Setting(20, 3, 8 * SparseAutoencoder.batch_size)
    assert learners.tuned_sae("topk", source, preset).num_steps == 3


# Two values of each flag that are not the default, beside those with which a run goes.
FLAGS = {
    "vary_latents": "num_latents=40/50 sparsity=2/4 num_samples=100/300 input_dim=9/10 "
    "noise_db=20/none,20 width=30/40 seeds=3/4 stream=true lam=0.2/0.3 protocol=paper epochs=6/7 "
    "rounds=6/7 visits=5/6 blocks=3/4 methods=raw/topk:omp,raw world=correlated/synthsae",
    "worlds": "law=roots=1/most=0.3",
    "dictionary_challenge": "sae_steps=300/400 peer_steps=12/13",
    "encoder_budget": "dictionary=dl_fista/online_dl",
    "phase_transition": "ratios=1/2,3",
    "warmstart_encoder": "tuned=relu/topk",
    "lambda_sensitivity": "lam=0.2/0.3",
}
# How and where a run goes, and files.
OTHERS = "preset shard dry_run data world_file distributed coordinator num_processes process_id"


def test_each_value_of_a_flag_is_another_run():
    tested = {*OTHERS.split(), "models_dir", "results_dir"}
    for name, table in FLAGS.items():
        given = dict(pair.split("=", 1) for pair in table.split())
        tested |= {*given}
        flags = [f"--{flag}={value}" for flag in given for value in given[flag].split("/")]
        found = set()
        for flag in ("--methods=all", *flags):
            every = () if "methods" in flag else ("--methods=all",)
            study = read(name, "--preset=smoke", flag, *every).study
            found.add(frozenset(line.key for job in jobs(study) for line in job.lines))
        assert len(found) == 1 + len(flags), name
    for name, one in STUDIES.items():
        assert {*flags_of(name)} - {"help"} <= tested, one.name


def test_a_page_has_a_folder_for_each_choice_of_flags(arrays, tmp_path, monkeypatch):
    def folder(*arguments):
        found = read("vary_latents", *arguments)
        return str(found.page).removeprefix(str(found.store.folder))

    # Where results go, and how they are made, decide nothing that a page shows.
    elsewhere = ("--results_dir=x", "--models_dir=y", "--shard=1/2", "--dry_run")
    assert folder() == folder(*elsewhere) == ""
    assert folder("--seeds=0", "--preset=smoke") == "/preset=smoke_seeds=0"
    assert folder("--preset=smoke", "--seeds=0") == "/preset=smoke_seeds=0"
    assert folder("--methods=topk:omp") == "/methods=topk-omp"
    assert folder("--noise_db=none,-5.0") == "/noise_db=none,-5.0"
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", **arrays)
    assert folder("--data=mine.npz") == "/data=mine.npz"
    # What is long is cut, and told apart by a hash.
    pairs = itertools.product(("oracle", "topk", "relu"), ("omp", "lasso", "relu", "topk"))
    crossings = [":".join(pair) for pair in pairs]
    one, other = (folder(f"--methods={','.join(order)}") for order in (crossings, crossings[::-1]))
    assert one != other and len(one) <= 101 and len(other) <= 101


def test_a_grid_has_a_setting_for_each_cell_and_seed():
    found = grid(Preset((20, 30), (3,), (200,), width=(None, 40), seeds=(0, 1)))
    assert found[0] == Setting(20, 3, 200, 0) and found[2] == Setting(20, 3, 200, 0, width=40)
    assert len(found) == 8 == len(set(found)) and found[-1] == Setting(30, 3, 200, 1, width=40)


def test_methods_run_in_the_order_of_the_study_and_crossings_behind_them():
    names = read("amortisation_gap", "--methods=oracle:omp,fista_oracle,linear_probe").names
    assert names == ["linear_probe", "fista_oracle", "oracle:omp"]


# Of options that are wrong alone, tests/benchmarks/test_options.py.
BAD_FLAGS = {
    "--methods=sae_relu,nope": "--methods has 'nope'",
    "--num_latents=3": "sparsity must be below num_latents",
    "--width=3": "sparsity must be below width",
    "--input_dim=21": "input_dim 21 is above num_latents 20",
    "--shard=2/2": "--shard must read i/N",
    "--num_latents=none": "--num_latents=none is for a world of its own size",
    "--world_file=there --law=roots=2": "--law and --world_file exclude each other",
    "--data=x.npz --noise_db=20": "--noise_db and --data exclude each other",
    "results": "'results' is not a flag",
    "--dictionary=oracle": "Unknown command line flag 'dictionary'",
}


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_a_bad_flag_is_refused_in_one_sentence(flag):
    with pytest.raises(ValueError, match=r"^[^\n]+\.$") as stop:
        read("amortisation_gap", "--preset=smoke", *flag.split())
    assert BAD_FLAGS[flag] in str(stop.value)


if __name__ == "__main__":
    RECORD.write_text(json.dumps({name: digests(name) for name in STUDIES}, indent=1) + "\n")
