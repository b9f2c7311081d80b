"""The encoders of a screened pursuit: bias, lengths of atoms and thresholds. The table of
tests/solvers/test_pursuits.py has the pursuit itself.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core import pursuit
from sae_gap.core.types import Model, Split
from sae_gap.encoders import screened_pursuit
from sae_gap.encoders.refined import Pruned
from sae_gap.encoders.screened_pursuit import BatchPursuit, ScreenedPursuit
from sae_gap.solvers import coding, screened, sparse_code
from sae_gap.solvers.screened import leave_one_out

WIDTH, DIM, COUNT = 60, 24, 40


@pytest.fixture(params=["loops", "xla"], autouse=True)
def form(request, monkeypatch):
    """That of a CPU, and that of an accelerator."""
    if request.param == "xla":
        monkeypatch.setattr(coding, "runs_on_host", lambda arrays: False)


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(3)
    atoms = rng.normal(size=(DIM, WIDTH)) + 0.5 * rng.normal(size=(DIM, 1))
    return Model(
        jnp.asarray(atoms * rng.uniform(0.3, 3, WIDTH), jnp.float32),
        jnp.asarray(rng.normal(size=DIM), jnp.float32),
    )


@pytest.fixture(scope="module")
def signals(model):
    rng = np.random.default_rng(4)
    codes = rng.uniform(0.5, 2, (COUNT, WIDTH)) * (rng.uniform(size=(COUNT, WIDTH)) < 0.08)
    noise = 0.3 * rng.normal(size=(COUNT, DIM))
    return jnp.asarray(codes @ model.decoder.T + model.bias + noise, jnp.float32)


def float64(model, signals):
    return np.asarray(signals - model.bias, np.float64), np.asarray(model.decoder, np.float64)


def test_the_threshold_leaves_out_what_adds_least(model, signals):
    targets, atoms = float64(model, signals)
    full = np.asarray(ScreenedPursuit(8, 3)(model, signals))

    def error(target, support):
        values = np.linalg.lstsq(atoms[:, support], target, rcond=None)[0]
        return np.sum((target - atoms[:, support] @ values) ** 2)

    added = np.zeros_like(full)
    for target, codes, out in zip(targets, full, added, strict=True):
        support = np.flatnonzero(codes)
        for j in support:
            out[j] = error(target, support[support != j]) - error(target, support)
    # Half of eight a sample.
    limit = np.sort(added.ravel())[[-4 * COUNT, -4 * COUNT - 1]].mean()
    fitted = BatchPursuit(4, 3).calibrate(model, signals)
    lengths = np.sqrt(np.mean(np.sum(atoms**2, axis=0)))
    assert float(fitted.encoder.value) == pytest.approx(np.sqrt(limit) / lengths, rel=1e-3)
    kept = np.asarray(fitted.encode(fitted, signals))
    np.testing.assert_array_equal(kept > 0, added > limit)
    again = sparse_code(targets, atoms, 0.0, support=kept > 0).codes
    np.testing.assert_allclose(kept, again, atol=1e-3)
    assert np.ptp(np.count_nonzero(kept, axis=1)) > 1
    # The codes of a row do not depend on its company, nor the rule on the unit of atoms.
    among = fitted.encode(fitted, signals.at[9:].set(2 * signals[0]))
    np.testing.assert_allclose(among[:9], kept[:9], atol=1e-5)
    longer = dataclasses.replace(fitted, dictionary=3 * fitted.decoder, bias=3 * fitted.bias)
    np.testing.assert_allclose(longer.encode(longer, 3 * signals), kept, atol=1e-4)


def test_an_atom_that_depends_on_others_costs_nothing(model, signals):
    targets, atoms = float64(model, signals)
    atoms[:, 1] = atoms[:, 0]
    on = np.arange(WIDTH) < np.arange(COUNT)[:, None] % 9
    codes = np.array(sparse_code(targets, atoms / 9, 0.0, support=on).codes)
    codes[on[:, 1], :2] = codes[on[:, 1], :2].sum(axis=1, keepdims=True) / 2
    gains = leave_one_out(jnp.asarray(atoms / 9, jnp.float32), codes)
    assert np.isfinite(gains).all() and not gains[~on].any()
    # Both twins, or the first alone.
    np.testing.assert_allclose(gains[on[:, 1], :2], 0, atol=1e-2)
    assert (gains[:, 2:8].max(axis=0) > 0.1).all()


def test_training_moves_the_threshold_and_the_dictionary_alone(model, signals):
    """By the gradient of the error with codes held fixed, and a running mean of two batches."""
    encoder, parts = BatchPursuit(4, 3, rate=0.25), (signals, signals[::-1] ** 2)
    first, second = (float(encoder.calibrate(model, part).encoder.value) for part in parts)
    trained = dataclasses.replace(model, encoder=encoder.parameters(model.decoder, None))
    for part in parts:
        trained = encoder.observe(trained, encoder.loss(trained, part, 0.0)[1])
    expected = first + 0.25 * (second - first)
    assert float(trained.encoder.value) == pytest.approx(expected, rel=1e-3)
    assert first != pytest.approx(second, rel=1e-2)

    slope = jax.grad(lambda model: jnp.mean(encoder.loss(model, signals, 0.0)[0]))(trained)
    codes = np.asarray(encoder(trained, signals), np.float64)
    targets, atoms = float64(model, signals)
    rest = codes @ atoms.T - targets
    np.testing.assert_allclose(slope.decoder, 2 * rest.T @ codes / rest.size, atol=1e-5)
    np.testing.assert_allclose(slope.bias, 2 * rest.sum(axis=0) / rest.size, atol=1e-6)
    assert float(slope.encoder.value) == 0


def test_neither_chunks_nor_a_map_nor_the_gram_matrix_at_hand_change_codes(
    model, signals, monkeypatch
):
    encoder = ScreenedPursuit(8, 3)
    assert WIDTH**2 <= COUNT * 2 * 24**2
    codes = encoder(model, signals)
    monkeypatch.setattr(pursuit, "WHOLE", 0)
    monkeypatch.setattr(screened, "CHUNK", 1)
    pairs = jax.jit(jax.vmap(encoder, (None, 0)))(model, signals.reshape(2, -1, DIM))
    np.testing.assert_allclose(pairs.reshape(codes.shape), codes, atol=1e-5)


def test_rows_of_zeros_do_not_count_where_a_threshold_is_found(model, signals, caplog):
    encoder, bare = BatchPursuit(4), Model(model.decoder, model.bias)
    split = Split(signals)
    padded = dataclasses.replace(split, signals=jnp.pad(signals, ((0, 2 * len(signals)), (0, 0))))
    wanted, found = (encoder.calibrate(bare, each.signals).encoder for each in (split, padded))
    assert f"{2 * len(signals)} of {3 * len(signals)} rows are zeros" in caplog.text
    np.testing.assert_allclose(found.value, wanted.value, rtol=1e-6)
    traced = jax.jit(encoder.calibrated)(bare, padded.signals).encoder
    np.testing.assert_allclose(traced.value, wanted.value, rtol=1e-6)
    for asked in (BatchPursuit(4, l0=3.5), Pruned(ScreenedPursuit(8), 3.5)):
        one, other = (asked.prepared(bare, each, None).threshold for each in (split, padded))
        assert one == pytest.approx(other, rel=1e-6)
    for few in (0 * signals, signals[:1], padded.signals[len(signals) - 1 :]):
        with pytest.raises(ValueError, match=r"[01] rows that are not all zeros are too few"):
            encoder.calibrate(bare, few)
    assert encoder.calibrate(bare, signals[:2]).encoder.value > 0


@pytest.mark.parametrize("form", ["loops"], indirect=True)
def test_a_gradient_on_a_cpu_is_refused(model, signals):
    with pytest.raises(TypeError, match=r"take that of sparse_code\(.*support=codes\)"):
        jax.grad(lambda x: jnp.sum(ScreenedPursuit(8)(model, x)))(signals)


def test_what_cannot_be_calibrated_is_refused_and_half_precision_is_coded(model, signals):
    encoder = ScreenedPursuit(8, 3)
    with pytest.raises(ValueError, match="finite"):
        BatchPursuit(4).calibrate(model, signals.at[3, 1].set(jnp.nan))
    with pytest.raises(ValueError, match="no threshold leaves so many"):
        BatchPursuit(4).calibrate(model, jnp.tile(model.bias, (5, 1)))
    half = jax.tree.map(lambda array: array.astype(jnp.bfloat16), (model, signals))
    as_given = jax.tree.map(lambda array: array.astype(jnp.float32), half)
    np.testing.assert_allclose(encoder(*half), encoder(*as_given), atol=0.05)


def test_rows_that_are_not_finite_are_nan_and_spoil_no_other(model, signals):
    encoder = BatchPursuit(4, threshold=0.5)
    lost = signals.at[3, 2].set(jnp.nan).at[5, 1].set(jnp.inf).at[7].set(3e30)
    found, codes = (np.asarray(encoder.infer(model, rows).codes) for rows in (lost, signals))
    assert np.isnan(found[[3, 5, 7]]).all()
    np.testing.assert_array_equal(*(np.delete(each, [3, 5, 7], axis=0) for each in (found, codes)))
    assert encoder(model, signals[:0]).shape == (0, WIDTH)


def test_more_atoms_than_can_be_independent_and_no_threshold_are_refused(model, signals):
    for k in (DIM + 1, WIDTH + 1):
        with pytest.raises(
            ValueError, match=f"at most the {DIM} dimensions and the {WIDTH} latents"
        ):
            ScreenedPursuit(k)(model, signals)
    for value in (-1.0, jnp.nan):
        trained = dataclasses.replace(model, encoder=screened_pursuit.Threshold(jnp.float32(value)))
        with pytest.raises(ValueError, match="the model's threshold must be a finite number"):
            BatchPursuit(4)(trained, signals)
