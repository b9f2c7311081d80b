"""The speed benchmark at smoke size: every solver scored, the files it leaves, and one sentence for whatever is wrong."""

import csv
import re
import sys

import numpy as np
import pytest
from matplotlib import image

from benchmarks.speed import problems
from benchmarks.speed import solver_speed as binary

SMOKE = ("--num_latents=30", "--sparsity=3", "--num_samples=12", "--lam=0.1", "--repeats=1")


def test_table_rows_and_figure(call, tmp_path):
    solvers = "--solvers=working_set,fista,plain_fista,paper_fista,spams,sklearn_cd"
    code, out, err = call("solver_speed", *SMOKE, solvers, f"--results_dir={tmp_path}")
    assert (code, err) == (0, "")
    folder = tmp_path / "solver_speed"
    with (folder / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["num_latents"] for row in rows} == {"30"}
    assert {row["method"] for row in rows} == {"working_set", "fista", "plain_fista", "paper_fista", "spams", "sklearn_cd"}
    for row in rows:
        assert float(row["seconds"]) > 0 and float(row["relative_gap_max"]) >= 0
        if row["method"] in ("working_set", "fista"):
            assert float(row["relative_gap_max"]) <= 2 * float(row["effort"])
            assert float(row["suboptimality"]) <= 2 * float(row["effort"])
    assert "working_set" in out and "max gap" in out
    assert image.imread(folder / "time_accuracy.png").std() > 0.01


def test_absent_peers_are_named(monkeypatch):
    for peer in ("spams", "jaxopt"):
        monkeypatch.setitem(sys.modules, peer, None)
    cell = problems.Cell(num_latents=20, sparsity=3, num_samples=6, lam=0.1)
    rows, skipped = binary.measure(cell, ["plain_fista", "spams", "jaxopt"], 1, 60.0)
    assert {row["method"] for row in rows} == {"plain_fista"}
    assert ["spams" in note and "not installed" in note for note in skipped] == [True, False]
    assert "jaxopt" in skipped[1]


def test_slow_peers_are_skipped_with_the_time_they_would_take():
    cell = problems.Cell(num_latents=20, sparsity=3, num_samples=binary.PROBE, lam=0.1)
    rows, skipped = binary.measure(cell, ["working_set", "paper_fista"], 1, 0.0)
    assert {row["method"] for row in rows} == {"working_set"}
    assert "paper_fista skipped" in skipped[0]


@pytest.mark.parametrize(
    "flag",
    ["--num_latents=many", "--lam=-1", "--lam=x", "--solvers=lars", "--num_samples=0", "--sparsity=2000"],
)
def test_bad_flags_are_one_sentence(flag, call, tmp_path):
    code, out, err = call("solver_speed", flag, f"--results_dir={tmp_path / 'results'}")
    assert (code, out) == (2, "") and re.fullmatch(r"[^\n]+\.\n", err) and not (tmp_path / "results").exists()


def test_a_folder_that_cannot_be_used_is_one_sentence(call, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, out, err = call("solver_speed", *SMOKE, f"--results_dir={tmp_path / 'file'}")
    assert (code, out) == (2, "") and re.fullmatch(r"[^\n]+\.\n", err) and "results cannot be written to" in err


def test_weights_are_fractions_of_the_largest(call, tmp_path):
    flags = ("--world=coherent", "--input_dim=20", "--lam_fraction=0.5,0.1", "--solvers=working_set")
    code, _, err = call("solver_speed", *SMOKE, *flags, f"--results_dir={tmp_path}")
    assert (code, err) == (0, "")
    with (tmp_path / "solver_speed" / "summary.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if float(row["effort"]) == 1e-6]
    given = problems.draw(problems.Cell(30, 3, 12, 0.0, world="coherent", input_dim=20))
    largest = np.median((given.signals @ given.dictionary).max(axis=1))
    np.testing.assert_allclose([float(row["lam"]) for row in rows], [0.5 * largest, 0.1 * largest], rtol=1e-6)
    assert float(rows[0]["l0"]) < float(rows[1]["l0"])


def test_files_of_your_own(call, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "d.npy", 3 * rng.normal(size=(6, 9)))
    np.save(tmp_path / "y.npy", rng.normal(size=(20, 6)))
    files = (f"--dictionary={tmp_path / 'd.npy'}", f"--activations={tmp_path / 'y.npy'}")
    flags = ("--num_samples=15", "--lam=0.1", "--repeats=1", "--solvers=working_set", f"--results_dir={tmp_path / 'results'}")
    code, _, err = call("solver_speed", *files, *flags)
    assert (code, err) == (0, "")
    with (tmp_path / "results" / "solver_speed" / "summary.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert [row[name] for name in ("num_samples", "num_latents", "input_dim", "world")] == ["15", "9", "6", "own"]


BAD_FILES = {
    "alone": (None, np.ones((3, 4)), "--dictionary and --activations go together"),
    "of two widths": (np.ones((5, 4)), np.ones((3, 4)), "--activations has rows of 4 numbers and --dictionary columns of 5"),
    "with a NaN": (np.full((4, 4), np.nan), np.ones((3, 4)), "has NaN or infinite entries"),
    "not a matrix": (np.ones(4), np.ones((3, 4)), "must be a non-empty matrix"),
    "of integers": (np.ones((4, 4), int), np.ones((3, 4)), "does not hold one array of real numbers"),
    "an atom of zeros": (np.eye(4)[:, [0, 0]] * [1, 0], np.ones((3, 4)), "--dictionary has 1 columns of zeros"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_refused(call, tmp_path, case):
    dictionary, activations, words = BAD_FILES[case]
    files = []
    for name, array in (("dictionary", dictionary), ("activations", activations)):
        if array is not None:
            np.save(tmp_path / f"{name}.npy", array)
            files.append(f"--{name}={tmp_path / name}.npy")
    code, out, err = call("solver_speed", *files, "--lam=0.1", f"--results_dir={tmp_path / 'results'}")
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1
