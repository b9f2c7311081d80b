"""A requested mean L0 is met on the rows that count, and nothing is written into the model."""

from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import scipy.linalg
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, fixture, mark, raises

from sae_gap.core import Model, Split, Task, evenly_spaced
from sae_gap.encoders import (
    Affine,
    AtWeight,
    BatchPursuit,
    InNorm,
    Lasso,
    OnSupport,
    Own,
    Pruned,
    ThresholdingPursuit,
    TopK,
    find_weight,
    lasso,
)
from sae_gap.study import Inference
from tests.solvers.test_pursuits import eliminated

RNG = default_rng(5)
ATOMS = RNG.normal(size=(10, 30)) * RNG.uniform(0.5, 2, 30)
LENGTHS = norm(ATOMS, axis=0)
WEIGHT = ATOMS + RNG.normal(size=(10, 30))
SHIFT = RNG.normal(size=30)
BIAS = RNG.normal(size=10)
X = RNG.normal(size=(24, 10)).astype(np.float32)
COUNTS = np.arange(24) < 12
AFFINE = Affine(jnp.float32(WEIGHT), jnp.float32(SHIFT))
PARTS = jnp.float32(ATOMS), jnp.float32(BIAS)


def on_rows(model, x=X, counts=COUNTS):
    held = Split(jnp.asarray(x), counts=counts)
    return Inference(Task(held, held, held, width=30), model, timed=False)


@fixture(scope="module")
def topk():
    return on_rows(Model(*PARTS, AFFINE, TopK(3)))


@mark.parametrize("by", ["loss", "magnitude"])
def test_of_codes_those_stay_that_are_worth_most(topk, by):
    """Two a row on the rows that count: those whose absence costs most, or the largest."""
    plain = OnSupport(Own(TopK(3)), 0.0, True, 0.0)
    codes = np.asarray(topk.infer(plain, "id").codes, np.float64) * LENGTHS
    worth = abs(codes)
    if by == "loss":
        worth = np.array([*map(eliminated, X - BIAS, [ATOMS] * len(X), codes)])
    least = np.sort(worth[COUNTS].ravel())[-24]
    found = np.asarray(topk.infer(Pruned(plain, 2.0, by), "id").codes)
    assert_array_equal(found != 0, worth >= least)
    if by == "magnitude":
        best = topk.infer(OnSupport(Pruned(plain, 2.0, by), 0.0, True, 0.0), "id").codes
        assert_allclose(found, best, atol=1e-5)


@mark.parametrize(("k", "l0"), [(2, 2.0), (3, 2.5)])
def test_the_lasso_has_the_l0_of_the_model_s_own_encoder(k, l0):
    """A quarter of ten dimensions is the most that is asked for."""
    own = on_rows(Model(*PARTS, AFFINE, TopK(k)))
    found = np.asarray(own.infer(Lasso(l0="own"), "id").codes)[COUNTS]
    assert np.count_nonzero(found) / len(found) == approx(l0, abs=0.1)
    half = own.prepare(Lasso(of=Lasso(l0=l0), times=0.5))
    assert own.prepare(Lasso(l0="own")).lam == approx(2 * half.lam)
    assert half == own.prepare(half)


def test_the_l0_of_a_model_is_that_of_live_atoms_on_rows_that_count(monkeypatch):
    monkeypatch.setattr(lasso, "CHUNK", 5)
    dead = Model(
        PARTS[0].at[:, ::2].set(0), PARTS[1], AFFINE, lambda *given: TopK(3)(*given)
    )
    codes = TopK(3)(dead, jnp.asarray(X)).at[:, ::2].set(0)
    found = lasso.mean_l0(dead, Split(X, counts=COUNTS))
    assert found == np.count_nonzero(codes[COUNTS]) / 12 < 3
    with raises(ValueError, match="has no L0 of its own"):
        on_rows(Model(*PARTS)).infer(Lasso(l0="own"), "id")


def test_codes_in_a_norm_are_those_of_other_signals_on_another_model():
    """By SciPy's root of the matrix; rows of zeros are padding, and no threshold counts them."""
    fisher = RNG.normal(size=(10, 10))
    fisher = fisher @ fisher.T
    root = scipy.linalg.sqrtm(np.eye(10) + fisher / np.trace(fisher) * 10).real
    held = on_rows(Model(*PARTS), np.pad(X, ((0, 6), (0, 0))), None)
    with raises(ValueError, match="there is none behind these rows; leave them out"):
        held.prepare(InNorm(Lasso()))
    task = replace(held.task, network=SimpleNamespace(information=lambda: fisher))
    held = Inference(task, held.model, timed=False)
    inside = Model(jnp.float32(root @ ATOMS), jnp.zeros(10))
    y = jnp.float32((X - BIAS) @ root)
    found = held.infer(InNorm(Lasso(0.3)), "id").codes
    assert_allclose(found[:24], Lasso(0.3)(inside, y), atol=1e-3)
    pursuit = held.prepare(InNorm(BatchPursuit(2, l0=1.5)))
    best = on_rows(inside, y, None).prepare(BatchPursuit(2, l0=1.5))
    assert pursuit.encoder.threshold == approx(best.threshold, rel=1e-3)
    assert held.prepare(pursuit) == pursuit and pursuit.name == "weighted_batch_pursuit"


def test_an_encoder_takes_the_weight_of_a_lasso(topk):
    asked = Lasso(l0=2.0)
    found = topk.infer(AtWeight(ThresholdingPursuit(), asked), "id").codes
    plain = ThresholdingPursuit(topk.prepare(asked).lam)(Model(*PARTS), jnp.asarray(X))
    assert_allclose(found, plain, atol=1e-4)


@mark.parametrize(
    ("count", "most"), [(1_000, 999), (999, 64), (7, 1), (3, 10), (0, 10)]
)
def test_what_is_spread_is_even_and_each_once(count, most):
    chosen = evenly_spaced(count, most)
    assert len(chosen) == min(count, most)
    # No part of twice their distance is without one.
    gaps = np.diff(chosen, prepend=-1, append=count)
    assert gaps.min() > 0 and gaps.max() <= 2 * -(-count // most) + (count == 0)


def test_a_weight_found_on_few_samples_is_corrected_by_all(monkeypatch):
    """Codes of orthonormal atoms are those above the weight, so that the weight of an L0 is a
    quantile of them.
    """
    monkeypatch.setattr(lasso, "MATCHED", 400)
    monkeypatch.setattr(lasso, "evenly_spaced", lambda count, most: np.arange(most))
    rng = default_rng(0)
    frame = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    # The first rows are the largest.
    codes = rng.uniform(0, 2, (2_000, 8)) * np.linspace(1.05, 0.95, 2_000)[:, None]
    exact, off = (np.quantile(each, 1 - 2 / 8) for each in (codes, codes[:400]))
    found = find_weight(np.float32(codes @ frame.T), np.float32(frame), 2.0)
    assert off > exact + 0.05 and abs(found - exact) < 0.5 * (off - exact)


def test_where_codes_are_never_as_many_as_wanted_half_of_them_are():
    """No weight gives signals of three orthonormal atoms more codes than three."""
    rng = default_rng(0)
    frame = np.linalg.qr(rng.normal(size=(8, 6)))[0]
    codes = rng.uniform(1, 2, (100, 6)) * (rng.random((100, 6)).argsort(axis=1) < 3)
    lam = find_weight(np.float32(codes @ frame.T), np.float32(frame), 4.0)
    assert (codes > lam).sum(axis=1).mean() == approx(2, abs=0.03)
