"""Every study at smoke size: its rows, files and page, what its columns mean, and that what is
there is not fitted again.
"""

import csv
import dataclasses
import math
import re

import pytest

from benchmarks import studies
from benchmarks.report import pages
from sae_gap.analysis import tables
from sae_gap.encoders.lasso import Lasso
from sae_gap.study import program
from tests.conftest import FEW, SMALL, smoke_flags, succeed

STUDIES = studies.found()
CERTIFIED = 1e-6


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def preset_of(name):
    preset = STUDIES[name].presets["smoke"]
    return dataclasses.replace(preset, num_latents=(20,)) if name in SMALL else preset


def methods_of(name):
    """The methods of a study that its smoke run shows, in the first of its settings."""
    one, preset = STUDIES[name], preset_of(name)
    found = one.methods(one.sources(preset)[0], preset)
    return [method for method in found if name not in FEW or method.name in FEW[name].split(",")]


def names_of(name):
    return tuple(dict.fromkeys(method.name for method in methods_of(name)))


SIZES = ("seed", "num_latents", "sparsity", "num_samples", "input_dim")
# Studies of which every SAE has its own codes, its support and the lasso.
DECOMPOSED = ("amortisation_gap", "frozen_decoder", "support_recovery")


@pytest.mark.parametrize("name", STUDIES)
def test_a_row_for_every_method_seed_and_coordinate(smokes, name):
    rows, one = smokes(name).rows, STUDIES[name]
    sources, methods = one.sources(preset_of(name)), methods_of(name)
    columns = {method.name: sorted(method.coordinates) for method in methods}
    wanted = [
        [getattr(source, column) for column in SIZES]
        + [method.name, step, *(method.coordinates[c] for c in columns[method.name])]
        for source in sources
        for method in methods
        for step in method.at or (None,)
    ]
    found = [
        [row[column] for column in SIZES]
        + [row["method"], row.get("step"), *(row[c] for c in columns[row["method"]])]
        for row in rows
    ]
    assert sorted(map(repr, found)) == sorted(map(repr, wanted)) and len(sources) >= 2
    assert len({row["key"] for row in rows}) == len(rows)
    assert {row["study"] for row in rows} == {name}


@pytest.mark.parametrize(
    "name", [name for name, one in STUDIES.items() if one.options.get("optimum", True)]
)
def test_certified_codes_have_no_gap_at_their_own_weight(smokes, name):
    methods = {method.name for method in methods_of(name) if is_certified(method.encoder)}
    rows = [row for row in smokes(name).rows if row["method"] in methods]
    assert {row["method"] for row in rows} == methods and (methods or name == "warmstart_encoder")
    for row in rows:
        assert row["lam"] == row["encoder"]["lam"]
        for split in ("id", "ood"):
            assert -CERTIFIED <= row[f"relative_gap_{split}"] <= 2 * CERTIFIED
            assert row[f"certificate_{split}"] <= 2 * CERTIFIED


def is_certified(encoder):
    return isinstance(encoder, Lasso) and encoder.tol is not None


@pytest.mark.parametrize("name", STUDIES)
def test_what_it_leaves(smokes, name):
    smoke, one = smokes(name), STUDIES[name]
    names = {path.name for path in smoke.page.iterdir()}
    pictures, prints = (
        {path for path in names if path.endswith(kind)} for kind in (".png", ".pdf")
    )
    assert {path.replace(".png", ".pdf") for path in pictures} == prints
    files = {"summary.csv", "README.md", "report.html", "page.json"}
    assert files <= names <= files | pictures | prints | {"decomposition.csv"}
    assert "decomposition.csv" in names or name not in DECOMPOSED
    page = pages.read(smoke.page).page
    assert page.study == name
    assert page.command.startswith(f"python -m sae_gap {name} ")
    assert page.title == one.title
    assert {figure.file for figure in page.figures} == pictures
    assert all(figure.caption for figure in page.figures)
    assert {"seconds", "peak memory", "compilations", "models", "versions"} <= set(page.notes)
    assert pictures or not one.figures
    lines = read(smoke.page / "summary.csv")
    columns = list(lines[0])
    assert columns[: 4 + len(one.varies)] == [*tables.BY, *one.varies]
    assert lines[0]["method"] == names_of(name)[0]
    assert {line["method"] for line in lines} == set(names_of(name))
    keys = [tuple(line[column] for column in columns[: 4 + len(one.varies)]) for line in lines]
    assert len(set(keys)) == len(keys)


# Of models along their fit and on a base, and of models alone and on the host. Those with others
# beside them are stored in tests/learners/test_amortised.py.
@pytest.mark.parametrize("name", ["warmstart_decoder", "dictionary_challenge"])
def test_a_second_run_fits_nothing_and_prints_the_same(smokes, name, monkeypatch, tmp_path):
    smoke = smokes(name)
    fitted, run = [], program.Program.run

    def counted(self, *given, **options):
        fitted.append(self._num_steps)
        return run(self, *given, **options)

    monkeypatch.setattr(program.Program, "run", counted)
    options = (*smoke_flags(name), f"--results_dir={tmp_path}", f"--models_dir={smoke.models}")
    out = succeed(name, *options)
    assert not any(fitted)
    # Other results from the same models: all but the seconds.
    numbers = re.compile(r"[0-9.]+(e-[0-9]+)?( ± [0-9.]+(e-[0-9]+)?)?$", re.MULTILINE)
    told = (numbers.sub("", text).splitlines()[:3] for text in (out, smoke.printed))
    assert next(told) == next(told)


def test_more_iterations_leave_less_of_the_gap_and_none_leave_the_start(smokes):
    rows = [row for row in smokes("warmstart_encoder").rows if row["seed"] == 0]
    gaps = {(row["method"], row["iterations"]): row["relative_gap_id"] for row in rows}
    own = {row["method"]: row for row in smokes("amortisation_gap").rows if row["seed"] == 0}
    assert gaps["cold_topk", 500] < 1e-3 * gaps["cold_topk", 0]
    begun = own["sae_topk"]["relative_gap_id"]
    assert gaps["warm_topk", 0] == pytest.approx(begun, rel=1e-4)
    zero = next(row for row in rows if (row["method"], row["iterations"]) == ("cold_topk", 0))
    assert zero["l0_above_id"] == 0 and zero["mcc_id"] == 0


def test_a_warm_start_begins_at_the_dictionary_of_its_sae(smokes):
    rows = smokes("warmstart_decoder").rows
    own = {
        (row["method"], row["seed"]): row.get("cosine") for row in smokes("amortisation_gap").rows
    }
    warm = [row for row in rows if row["start"] == "warm" and row["method"] != "fista_oracle"]
    begun = [row for row in warm if row.get("step") == 0]
    assert len(begun) == 8
    for row in begun:
        assert row["cosine"] == pytest.approx(own[f"sae_{row['base']}", row["seed"]], abs=1e-6)
    later = {(row["method"], row["seed"]): row["cosine"] for row in rows if row.get("step") == 5}
    assert later != {(row["method"], row["seed"]): row["cosine"] for row in begun}


def test_lengths_of_atoms_change_nothing_where_the_weight_counts_on_unit_atoms(smokes):
    rows = {
        (row["method"], row["num_latents"], row["seed"]): row for row in smokes("dict_quality").rows
    }
    for (method, *cell), row in rows.items():
        if method.startswith("renormed_"):
            other = rows[(method.replace("renormed", "frozen"), *cell)]
            assert row["mcc_ood"] == pytest.approx(other["mcc_ood"], abs=1e-3)
            assert row["norm_ratio"] == pytest.approx(1, abs=1e-5)


def test_a_phase_has_the_dimensions_of_its_ratios(smokes):
    rows = smokes("phase_transition").rows
    dims = {row["input_dim"] for row in rows}
    assert dims == {math.ceil(c * 3 * math.log(20 / 3)) for c in (1.0, 2.0, 3.0)}
    oracle = {
        row["input_dim"]: row["mcc_ood"]
        for row in rows
        if row["method"] == "fista_oracle" and row["seed"] == 0
    }
    assert oracle[min(dims)] < oracle[max(dims)]


def test_a_dry_run_says_what_is_missing_and_touches_nothing(smoke, call, tmp_path):
    options = ("--preset=smoke", "--dry_run")
    out = succeed("amortisation_gap", *options, f"--results_dir={tmp_path / 'empty'}")
    assert not (tmp_path / "empty").exists()
    assert len(re.findall(r": [0-9]+/[0-9]+ rows there, 2 to fit\n", out)) == 6
    # The probe and the oracle take no fit.
    assert out.count("nothing to fit") == 2 and out.endswith("8 jobs, 12 models to fit\n")
    there = (f"--results_dir={smoke.directory.parent}", f"--models_dir={smoke.models}")
    code, out, _ = call("amortisation_gap", *options, *there)
    assert code == 0 and "8 jobs, 0 models to fit" in out and out.count("2/2 rows there") == 4
