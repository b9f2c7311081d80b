"""The speed benchmark at smoke size: every solver scored, the files it leaves, and one sentence for
whatever is wrong.
"""

import csv
import itertools
import re
import sys
import types

import numpy as np
import pytest
from matplotlib import image

from benchmarks.speed import coders, problems
from benchmarks.speed import solver_speed as binary

SMOKE = ("--num_latents=30", "--sparsity=3", "--num_samples=12", "--lam=0.1", "--repeats=1")


def test_table_rows_and_figure(call, tmp_path):
    solvers = "--solvers=fista,sklearn_cd,spams"
    code, out, err = call("solver_speed", *SMOKE, solvers, f"--results_dir={tmp_path}")
    assert (code, err) == (0, "")
    folder = tmp_path / "solver_speed"
    with (folder / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["num_latents"] for row in rows} == {"30"}
    assert {row["method"] for row in rows} == {"working_set", "fista", "sklearn_cd", "spams"}
    for row in rows:
        assert 0 < float(row["seconds"]) <= float(row["seconds_median"])
        if row["method"] in ("working_set", "fista"):
            assert float(row["relative_gap_max"]) <= 2 * float(row["effort"])
            assert float(row["suboptimality"]) <= 2 * float(row["effort"])
    headings, _, cells = (re.split(r" ?\| ?", line)[1:-1] for line in out.splitlines())
    shown = dict(zip(headings, cells, strict=True))
    assert list(shown.values())[:4] == ["30 in 14", "3", "12", "0.1"]
    last = {row["method"]: row for row in rows}
    ratio, gap = shown["/ SPAMS"].split()
    seconds = [float(last[name]["seconds"]) for name in ("working_set", "spams")]
    assert ratio == f"{seconds[0] / seconds[1]:.2g}"
    assert gap == f"({float(last['spams']['relative_gap_max']):.0e})"
    assert image.imread(folder / "time_accuracy.png").std() > 0.01


def test_the_whole_table_has_a_line_a_cell_and_a_dash_for_what_is_not_timed(
    call, tmp_path, monkeypatch
):
    monkeypatch.setattr(problems, "TABLE", (problems.Cell(30, 3, 5), problems.Cell(20, 2, 4)))
    monkeypatch.setattr(
        problems, "WIDE", problems.Cell(48, 4, 3, world="coherent", lam_fraction=0.1)
    )
    options = ("--repeats=1", "--solvers=jitted,spams", f"--results_dir={tmp_path}")
    code, out, _ = call("solver_speed", *options)
    lines = [line.split(" | ") for line in out.splitlines()]
    assert code == 0
    assert [line[0] for line in lines[2:]] == ["| 30 in 14", "| 20 in 10", "| 48 in 6, coherent"]
    assert [re.sub(r"[\d.e-]+", "#", line[-2]) for line in lines[2:]] == ["# (first # s)"] * 2 + [
        "#"
    ]
    assert lines[-1][3] == "0.1 λ_max" and lines[-1][-2:] == ["-", "- |"]
    with (tmp_path / "solver_speed" / "summary.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "working_set"]
    # The figure is of the first cell.
    assert [float(row["effort"]) for row in rows] == [1e-2, 1e-4, 1e-6, 1e-6, 1e-6]


def test_absent_peers_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "spams", None)
    rows, skipped = binary.measure(problems.Cell(20, 3, 6), ["fista", "spams"], 1)
    assert {row["method"] for row in rows} == {"fista"}
    assert skipped == ["spams skipped: spams is not installed"]


def test_repeats_end_when_they_have_taken_long_and_few_samples_tell_the_seconds_of_all(monkeypatch):
    """By a clock that goes on by a second whenever it is read, with the codes of two samples of
    six.
    """
    calls, clock = [], itertools.count()
    monkeypatch.setattr(binary, "time", types.SimpleNamespace(perf_counter=lambda: next(clock)))

    def code():
        calls.append(1)
        return np.zeros((2, 20), np.float32)

    coder = coders.CODERS["fista"]._replace(efforts=(1,), prepare=lambda *_: code)
    monkeypatch.setitem(coders.CODERS, "fista", coder)
    monkeypatch.setattr(binary, "MOST_SECONDS", 0.0)
    (row,), _ = binary.measure(problems.Cell(20, 3, 6), ["fista"], 5)
    assert len(calls) == 2
    columns = ("seconds_first", "num_timed", "seconds", "samples_per_second")
    assert [row[column] for column in columns] == [1, 2, 3, 2]


@pytest.mark.parametrize(
    "bad",
    ["--lam=-1", "--lam=9", "--solvers=lars", "--sparsity=2000", "--lam=.1 --lam_fraction=.1"],
)
def test_bad_flags_are_one_sentence(bad, call, tmp_path):
    code, out, err = call("solver_speed", *bad.split(), f"--results_dir={tmp_path / 'results'}")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"[^\n]+\.\n", err)
    assert not (tmp_path / "results").exists()


def test_files_of_your_own(call, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "d.npy", 3 * rng.normal(size=(6, 9)))
    np.save(tmp_path / "y.npy", rng.normal(size=(20, 6)))
    files = (f"--dictionary={tmp_path / 'd.npy'}", f"--activations={tmp_path / 'y.npy'}")
    flags = ("--num_samples=15", "--lam=0.1", "--repeats=1", "--solvers=working_set")
    flags += (f"--results_dir={tmp_path / 'results'}",)
    code, _, err = call("solver_speed", *files, *flags)
    assert (code, err) == (0, "")
    with (tmp_path / "results" / "solver_speed" / "summary.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    columns = ("num_samples", "num_latents", "input_dim", "world")
    assert [row[name] for name in columns] == ["15", "9", "6", "own"]
    code, _, err = call("solver_speed", *files, "--num_latents=4", "--world=coherent", *flags)
    assert code == 2 and "no use for --num_latents and --world;" in err
    np.save(tmp_path / "y.npy", 1e25 * rng.normal(size=(20, 6)))
    code, _, err = call("solver_speed", *files, *flags)
    assert code == 2 and re.fullmatch(r"signals reach a magnitude of [^\n]+\.\n", err)


ONES = np.ones((3, 4))


@pytest.mark.parametrize(
    ("dictionary", "activations", "words"),
    [
        (None, ONES, "--dictionary and --activations go together"),
        (np.ones((5, 4)), ONES, "rows of 4 numbers and --dictionary columns of 5"),
        (np.full((4, 4), np.nan), ONES, "has NaN or infinite entries"),
        (np.ones(4), ONES, "must be a non-empty matrix"),
        (np.ones((4, 4), int), ONES, "the type int64; save it as float32"),
        (np.eye(4)[:, [0, 0]] * [1, 0], ONES, "--dictionary has 1 columns of zeros"),
    ],
)
def test_bad_files_are_refused(call, tmp_path, dictionary, activations, words):
    files = ["--lam=0.1", f"--results_dir={tmp_path / 'results'}"]
    for name, array in (("dictionary", dictionary), ("activations", activations)):
        if array is not None:
            np.save(tmp_path / f"{name}.npy", array)
            files.append(f"--{name}={tmp_path / name}.npy")
    code, out, err = call("solver_speed", *files)
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1
