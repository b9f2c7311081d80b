"""Every coder solves the timed problem, as its score in double precision proves, and the table says
what was measured.
"""

import itertools
import sys
import types

import numpy as np
import sklearn.linear_model
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose
from pytest import approx, mark, raises

from benchmarks.speed import problems, scores
from benchmarks.speed import solver_speed as binary
from benchmarks.speed.problems import Cell
from tests.conftest import lines_of, refused, succeed

# Worst relative gaps.
REACHED = {"working_set": 1.1e-6, "spams": 1e-5, "celer": 1e-5}


@mark.parametrize("lam", [0.3, np.linspace(0.1, 0.7, 28).reshape(4, 7)])
@mark.parametrize("nonneg", [True, False])
def test_a_score_is_the_definition(nonneg, lam):
    rng = default_rng(0)
    signals, dictionary, codes = (
        rng.normal(size=size) for size in ((4, 5), (5, 7), (4, 7))
    )
    codes = np.abs(codes) if nonneg else codes
    value, gap = scores.score(signals, dictionary, codes, lam, nonneg=nonneg)
    rest = signals - codes @ dictionary.T
    bound = rest @ dictionary if nonneg else np.abs(rest @ dictionary)
    scale = np.minimum(1, (lam / np.maximum(bound, 1e-9)).min(axis=1))[:, None]
    assert_allclose(value, 0.5 * (rest**2).sum(1) + (lam * np.abs(codes)).sum(1))
    dual = 0.5 * (signals**2).sum(1) - 0.5 * ((signals - scale * rest) ** 2).sum(1)
    assert_allclose(gap, value - dual, atol=1e-12)
    with raises(ValueError, match="lam must be above 0"):
        scores.score(signals, dictionary, codes, np.where(np.arange(7) == 1, 0, lam))


@mark.parametrize("name", problems.CODERS)
def test_a_coder_of_the_lasso_reaches_the_optimum(name, monkeypatch):
    """Celer has the interface of scikit-learn, whose solver takes its place."""
    monkeypatch.setitem(sys.modules, "celer", sklearn.linear_model)
    problem = problems.draw(Cell(30, 3, 12))
    codes = problems.codes_of(problems.CODERS[name].prepare(problem)())
    value, gap = scores.score(problem.signals, problem.dictionary, codes, problem.lam)
    assert codes.shape == (12, 30) and codes.min() >= 0
    assert (gap / value).max() <= REACHED[name]


def test_atoms_come_in_clusters_and_fractions_become_weights():
    cell = Cell(320, 5, 40, world="coherent", input_dim=200, lam_fraction=0.5)
    signals, dictionary, lam = problems.draw(cell)
    assert lam == approx(0.5 * np.median((signals @ dictionary).max(axis=1)), rel=1e-6)
    for rows in (signals, dictionary.T):
        assert_allclose(norm(rows, axis=1), 1, rtol=1e-5)
    cluster = np.arange(320) // 16
    cosines = dictionary.T @ dictionary
    same = np.equal.outer(cluster, cluster)
    assert abs(cosines[same & ~np.eye(320, dtype=bool)].mean() - 0.5) < 0.03
    assert abs(cosines[~same].mean()) < 0.03


def test_the_table_has_a_line_a_cell_and_solver(tmp_path, monkeypatch):
    monkeypatch.setattr(problems, "TABLE", (Cell(30, 3, 5),))
    monkeypatch.setattr(
        problems, "WIDE", Cell(48, 4, 3, world="coherent", lam_fraction=0.1)
    )
    monkeypatch.setitem(sys.modules, "celer", None)
    options = "--repeats=1", "--solvers=spams,celer", f"--results_dir={tmp_path}"
    *_, first, other, wide, skipped = succeed("solver_speed", *options).splitlines()
    assert skipped == "celer skipped: celer is not installed"
    rows = lines_of(tmp_path / "solver_speed" / "summary.csv")
    assert [row["method"] for row in rows] == ["working_set", "spams", "working_set"]
    assert all(float(row["gap"]) <= 1e-5 and row["revision"] for row in rows)
    ours, theirs = (float(row["seconds"]) for row in rows[:2])
    assert float(rows[1]["share"]) == approx(ours / theirs)
    for line, words in ((first, "working_set 30 3 5"), (wide, "working_set 48 4 3")):
        assert line.split()[:4] == words.split()
    assert other.startswith("spams ")


def test_repeats_end_when_they_have_taken_long_and_few_samples_tell_the_seconds_of_all(
    monkeypatch,
):
    """By a clock that goes on by a second whenever it is read, with the codes of two samples of
    six.
    """
    clock = itertools.count()
    monkeypatch.setattr(
        binary, "time", types.SimpleNamespace(perf_counter=lambda: next(clock))
    )
    coder = problems.CODERS["spams"]._replace(
        prepare=lambda _: lambda: np.zeros((2, 20))
    )
    monkeypatch.setitem(problems.CODERS, "spams", coder)
    monkeypatch.setattr(binary, "MOST_SECONDS", 0.0)
    (row,), _ = binary.measure(Cell(20, 3, 6), ["spams"], 5)
    # Two calls of two solvers, each read at both ends, and the two ends of the repeats.
    assert next(clock) == 10
    assert [row[column] for column in ("first", "num_timed", "seconds")] == [1, 2, 3]


def test_a_weight_that_leaves_no_code_is_refused(tmp_path):
    refused(
        "leaves no code; lower it",
        "solver_speed",
        "--lam=9",
        f"--results_dir={tmp_path}",
    )
