"""The speed benchmark at smoke size: every solver scored, the files it leaves, and one sentence for
whatever is wrong.
"""

import itertools
import re
import sys
import types

import numpy as np
import pytest

from benchmarks.speed import coders, problems
from benchmarks.speed import solver_speed as binary
from tests.conftest import lines_of, refused, succeed

SMOKE = ("--num_latents=30", "--sparsity=3", "--num_samples=12", "--lam=0.1", "--repeats=1")


def test_table_and_rows(tmp_path):
    solvers = "--solvers=jitted,spams"
    out = succeed("solver_speed", *SMOKE, solvers, f"--results_dir={tmp_path}")
    rows = {row["method"]: row for row in lines_of(tmp_path / "solver_speed" / "summary.csv")}
    assert rows.keys() == {"working_set", "jitted", "spams"}
    for row in rows.values():
        assert row["num_latents"] == "30" and row["revision"] is not None
        assert float(row["seconds"]) > 0 and 0 <= float(row["relative_gap_max"]) <= 1e-5
    headings, _, cells = (re.split(r" ?\| ?", line)[1:-1] for line in out.splitlines())
    ratio, _ = dict(zip(headings, cells, strict=True))["/ SPAMS"].split()
    seconds = [float(rows[name]["seconds"]) for name in ("working_set", "spams")]
    assert ratio == f"{seconds[0] / seconds[1]:.2g}"


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
    assert lines[-1][3] == "0.1 λ_max" and lines[-1][-2:] == ["-", "- |"]


def test_absent_peers_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "spams", None)
    rows, skipped = binary.measure(problems.Cell(20, 3, 6), ["jitted", "spams"], 1)
    assert {row["method"] for row in rows} == {"jitted"}
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

    coder = coders.CODERS["jitted"]._replace(prepare=lambda _: code)
    monkeypatch.setitem(coders.CODERS, "jitted", coder)
    monkeypatch.setattr(binary, "MOST_SECONDS", 0.0)
    (row,), _ = binary.measure(problems.Cell(20, 3, 6), ["jitted"], 5)
    assert len(calls) == 2
    assert [row[column] for column in ("seconds_first", "num_timed", "seconds")] == [1, 2, 3]


@pytest.mark.parametrize(
    "bad",
    ["--lam=9", "--solvers=lars", "--sparsity=2000"],
)
def test_bad_flags_are_one_sentence(bad, tmp_path):
    refused(".", "solver_speed", *bad.split(), f"--results_dir={tmp_path / 'results'}")
    assert not (tmp_path / "results").exists()
