"""A requested mean L0 is met on the rows that count, and nothing is written into the model."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

from sae_gap.core.rows import evenly_spaced
from sae_gap.core.types import Model, Split, Task
from sae_gap.encoders import lasso
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.jumprelu import JumpReLU, JumpReLUParameters
from sae_gap.encoders.lasso import Lasso, find_weight
from sae_gap.encoders.on_support import OnSupport
from sae_gap.encoders.own import Own
from sae_gap.encoders.refined import AtWeight, Pruned
from sae_gap.encoders.screened_pursuit import BatchPursuit
from sae_gap.encoders.thresholding_pursuit import ThresholdingPursuit
from sae_gap.encoders.topk import TopK
from sae_gap.study import inference
from sae_gap.study.inference import Inference
from tests.solvers.test_pursuits import by_loop

RNG = np.random.default_rng(5)
ATOMS = RNG.normal(size=(10, 30)) * RNG.uniform(0.5, 2, 30)
LENGTHS = np.linalg.norm(ATOMS, axis=0)
WEIGHT, SHIFT, BIAS = ATOMS + RNG.normal(size=(10, 30)), RNG.normal(size=30), RNG.normal(size=10)
X = RNG.normal(size=(24, 10)).astype(np.float32)
COUNTS = np.arange(24) < 12
AFFINE = Affine(jnp.asarray(WEIGHT, jnp.float32), jnp.asarray(SHIFT, jnp.float32))
PARTS = jnp.asarray(ATOMS, jnp.float32), jnp.asarray(BIAS, jnp.float32)


def on_rows(model, x=X, counts=COUNTS, **options):
    held = Split(jnp.asarray(x), counts=counts)
    return Inference(Task(held, held, held, width=30), model, timed=False, **options)


@pytest.fixture(scope="module")
def topk():
    return on_rows(Model(*PARTS, AFFINE, TopK(3)))


def l0_of(found, rows=COUNTS):
    return np.count_nonzero(np.asarray(found.codes)[rows], axis=1).mean()


@pytest.mark.parametrize("proposed", [False, True])
def test_a_pursuit_leaves_out_what_adds_least(proposed):
    """Against loops: of twice two atoms a row those stay without which the error grows most, 1.5 on
    average over the rows that count.
    """
    parameters = JumpReLUParameters(AFFINE, jnp.zeros(30))
    model = Model(*PARTS, parameters, JumpReLU())
    unit, added = ATOMS / LENGTHS, np.zeros((24, 30))
    for row, out in zip(X - BIAS, added, strict=True):
        among = np.argsort(-(row @ WEIGHT + SHIFT) * LENGTHS)[:8] if proposed else np.arange(30)
        codes = np.zeros(30)
        codes[among] = by_loop(row, unit[:, among], (4,) if proposed else (2, 4), 8)

        def error(on, row=row):
            return np.linalg.norm(row - unit[:, on] @ np.linalg.lstsq(unit[:, on], row)[0]) ** 2

        on = np.flatnonzero(codes)
        out[on] = [error(on[on != j]) - error(on) for j in on]
    least = np.sort(added[COUNTS].ravel())[-18]
    asked = {"screens": 1, "proposer": Own(JumpReLU())} if proposed else {}
    found = on_rows(model).infer(BatchPursuit(2, l0=1.5, **asked), "id").codes * LENGTHS
    for row, values, on in zip(X - BIAS, np.asarray(found), added >= least, strict=True):
        expected = np.zeros(30)
        if on.any():
            expected[on] = nnls(unit[:, on], row)[0]
        np.testing.assert_allclose(values, expected, atol=1e-4)
    assert np.count_nonzero(found[:12]) == 18 and np.ptp(np.count_nonzero(found, axis=1)) > 1


@pytest.mark.parametrize("by", ["loss", "magnitude"])
def test_of_codes_those_stay_that_are_worth_most(topk, by):
    least_squares = OnSupport(Own(TopK(3)), 0.0, True, 0.0)
    found = topk.infer(Pruned(least_squares, 2.0, by), "id")
    whole = np.asarray(topk.infer(least_squares, "id").codes)
    assert l0_of(found) == pytest.approx(2, abs=1 / 12)
    assert not np.any((np.asarray(found.codes) != 0) & (whole == 0))


def test_the_lasso_has_the_l0_of_the_model_s_own_encoder(topk):
    found, asked = (topk.infer(Lasso(l0=l0), "id") for l0 in ("own", 2.5))
    # TopK has three; a quarter of ten dimensions is the most that is asked for.
    assert l0_of(found) == l0_of(asked) == pytest.approx(2.5, abs=0.1)
    assert topk.prepare(Lasso(l0="own")) == topk.prepare(Lasso(l0=2.5))
    whole = topk.prepare(Lasso(l0=2.5))
    half = topk.prepare(Lasso(of=Lasso(l0=2.5), times=0.5))
    assert half.lam == pytest.approx(whole.lam / 2) and half == topk.prepare(half)
    with pytest.raises(ValueError, match="has no L0 of its own"):
        on_rows(Model(*PARTS)).infer(Lasso(l0="own"), "id")


def test_an_encoder_takes_the_weight_of_a_lasso(topk):
    asked = Lasso(l0=2.0)
    found = topk.infer(AtWeight(ThresholdingPursuit(), asked), "id").codes
    plain = ThresholdingPursuit(topk.prepare(asked).lam)(Model(*PARTS), jnp.asarray(X))
    np.testing.assert_allclose(found, plain, atol=1e-4)


def test_thresholds_of_training_rows_are_another_study_s(topk):
    other = on_rows(Model(*PARTS), counts=None)
    train = dataclasses.replace(other.task, train=Split(jnp.asarray(2 * X)))
    pursuit = BatchPursuit(2, l0=1.5)
    threshold = Inference(train, Model(*PARTS), "train").prepare(pursuit).threshold
    assert threshold > 1.5 * other.prepare(pursuit).threshold


def test_chunks_of_sparse_codes_are_those_of_all_rows(topk, monkeypatch):
    """A refit goes on from the very rows of its origin."""
    refit = OnSupport(Lasso(0.5), 0.0, True, 0.0)
    whole = np.asarray(topk.infer(refit, "id").codes)
    monkeypatch.setattr(inference, "DENSE_NUMBERS", 1)
    monkeypatch.setattr(inference, "_CHUNK", 1)
    parts = on_rows(Model(*PARTS, AFFINE, TopK(3)), np.tile(X, (9, 1)), np.tile(COUNTS, 9))
    np.testing.assert_allclose(parts.infer(refit, "id").codes.toarray()[:24], whole, atol=1e-5)


def test_what_is_spread_is_even_and_each_once():
    chosen = evenly_spaced(640_000, 5_000)
    assert len(set(chosen)) == 5_000 and np.diff(chosen).max() < 3 * 128
    # Windows of 128 rows: each place of them is chosen about as often.
    assert set(np.bincount(chosen % 128)) <= {37, 38, 39, 40, 41}
    np.testing.assert_array_equal(evenly_spaced(3, 10), [0, 1, 2])
    assert evenly_spaced(0, 10).tolist() == []
    for count, most in ((1_000, 999), (1_000, 500), (999, 64), (7, 1)):
        chosen = evenly_spaced(count, most)
        assert len(set(chosen)) == most and chosen[0] >= 0 and chosen[-1] < count
        assert (chosen[0] > 0) == (most <= count / 2)
        # No part of twice their distance is without one.
        assert np.diff(chosen, prepend=-1, append=count).max() <= 2 * -(-count // most)


def test_a_weight_found_on_few_samples_is_corrected_by_all(monkeypatch):
    """Codes of orthonormal atoms are those above the weight, so that the weight of an L0 is a
    quantile of them.
    """
    monkeypatch.setattr(lasso, "MATCHED", 400)
    monkeypatch.setattr(lasso, "evenly_spaced", lambda count, most: np.arange(most))
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.standard_normal((8, 8)))[0].astype(np.float32)
    # The first rows are the largest.
    codes = rng.uniform(0, 2, (2_000, 8)) * np.linspace(1.05, 0.95, 2_000)[:, None]
    x = (codes @ frame.T).astype(np.float32)
    exact, off = (np.quantile(each, 1 - 2 / 8) for each in (codes, codes[:400]))
    assert off > exact + 0.05 and abs(find_weight(x, frame, 2.0) - exact) < 0.5 * (off - exact)


def test_where_codes_are_never_as_many_as_wanted_half_of_them_are():
    """Signals of three orthonormal atoms each have no more codes than three, which a weight only
    takes from.
    """
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.standard_normal((8, 6)))[0].astype(np.float32)
    codes = rng.uniform(1, 2, (100, 6)) * (rng.random((100, 6)).argsort(axis=1) < 3)
    lam = find_weight((codes @ frame.T).astype(np.float32), frame, 4.0)
    assert (codes > lam).sum(axis=1).mean() == pytest.approx(2, abs=0.03)
