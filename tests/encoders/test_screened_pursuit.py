"""The encoders of a screened pursuit: bias, lengths of atoms, and thresholds against leaving atoms
out one by one. The table of tests/solvers/test_pursuits.py has the pursuit itself.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, fixture, mark, raises

from sae_gap.core import Model, Split, pursuit
from sae_gap.encoders import Affine, BatchPursuit, Own, Pruned, ReLU, ScreenedPursuit
from sae_gap.solvers import backward_elimination, coding, screened
from tests.solvers.test_pursuits import by_screens, eliminated, nonnegative

WIDTH = 60
DIM = 24
COUNT = 40


@fixture(params=["loops", "xla"], autouse=True)
def form(request, monkeypatch):
    """That of a CPU, and that of an accelerator."""
    if request.param == "xla":
        monkeypatch.setattr(coding, "runs_on_host", lambda arrays: False)


@fixture(scope="module")
def model():
    rng = default_rng(3)
    atoms = rng.normal(size=(DIM, WIDTH)) + 0.5 * rng.normal(size=(DIM, 1))
    parts = atoms * rng.uniform(0.3, 3, WIDTH), rng.normal(size=DIM)
    affine = Affine(atoms + rng.normal(size=(DIM, WIDTH)), rng.normal(size=WIDTH))
    return jax.tree.map(lambda part: jnp.float32(part), Model(*parts, affine))


@fixture(scope="module")
def signals(model):
    rng = default_rng(4)
    codes = rng.uniform(0.5, 2, (COUNT, WIDTH)) * (
        rng.uniform(size=(COUNT, WIDTH)) < 0.08
    )
    noise = 0.3 * rng.normal(size=(COUNT, DIM))
    return jnp.float32(codes @ model.decoder.T + model.bias + noise)


def float64(model, signals):
    return np.asarray(signals - model.bias, np.float64), np.asarray(
        model.decoder, np.float64
    )


@mark.parametrize("proposed", [False, True])
def test_the_threshold_leaves_out_what_adds_least(model, signals, proposed):
    """Of eight atoms a row, three and a half stay on average over the rows that count."""
    targets, atoms = float64(model, signals)
    lengths = norm(atoms, axis=0)
    added = np.zeros((COUNT, WIDTH))
    for target, out in zip(targets, added, strict=True):
        pull = np.array(model.encoder(target)) * lengths if proposed else None
        out[:] = eliminated(target, atoms, by_screens(target, atoms, (4, 8), 24, pull))
    counts = np.arange(COUNT) < 20
    limit = np.sort(added[counts].ravel())[[-70, -71]].mean()
    own = {"proposer": Own(ReLU())} if proposed else {}
    encoder = BatchPursuit(4, 3, l0=3.5, **own).prepared(
        model, Split(signals, counts=counts), None
    )
    assert encoder.threshold == approx(np.sqrt(limit), rel=1e-3)
    rows = zip(targets, added, strict=True)
    expected = [nonnegative(y, atoms, out > limit) for y, out in rows]
    assert_allclose(encoder(model, signals), expected, atol=2e-3)


def test_calibration_is_in_units_of_the_atoms_and_counts_no_row_of_zeros(
    model, signals
):
    encoder = BatchPursuit(4)
    padded = jnp.pad(signals, ((0, 2 * COUNT), (0, 0)))
    fitted = encoder.calibrate(model, signals)
    found = encoder.calibrate(model, padded), jax.jit(encoder.calibrate)(model, padded)
    threshold = float(fitted.encoder.value)
    assert [float(each.encoder.value) for each in found] == approx([threshold] * 2)
    size = np.sqrt((np.asarray(model.decoder) ** 2).sum(axis=0).mean())
    for asked, power in (
        (BatchPursuit(4, l0=4.0), 1),
        (Pruned(ScreenedPursuit(8), 4.0), 2),
    ):
        few = asked.prepared(model, Split(padded), None).threshold
        assert few == approx((size * threshold) ** power, rel=1e-3)
    codes = fitted.encode(fitted, signals)
    # Neither the company of a row nor the unit of atoms changes its codes.
    among = fitted.encode(fitted, signals.at[9:].set(2 * signals[0]))
    assert_allclose(among[:9], codes[:9], atol=1e-5)
    longer = replace(fitted, dictionary=3 * fitted.decoder, bias=3 * fitted.bias)
    assert_allclose(longer.encode(longer, 3 * signals), codes, atol=1e-4)


def test_an_atom_that_depends_on_others_costs_nothing(model):
    atoms = (model.decoder / 9).at[:, 1].set(model.decoder[:, 0] / 9)
    on = np.arange(WIDTH) < np.arange(9)[:, None]
    gains = backward_elimination(atoms, on.astype(np.float32))
    assert not gains[~on].any() and (gains[:, 2:8].max(axis=0) > 0.01).all()
    # The first of two twins to go; the other has the code of both from then on.
    codes = on[2:] * np.float32(1)
    codes[:, :2] = 0, 2
    assert_allclose(backward_elimination(atoms, codes), gains[2:], 0.05, atol=1e-2)


def test_training_moves_the_threshold_and_the_dictionary_alone(model, signals):
    """By the gradient of the error with codes held fixed, and a running mean of two batches."""
    encoder = BatchPursuit(4, 3, rate=0.25)
    parts = (signals, signals[::-1] ** 2)
    first, second = (
        float(encoder.calibrate(model, part).encoder.value) for part in parts
    )
    trained = replace(model, encoder=encoder.parameters(model.decoder, None))
    for part in parts:
        trained = encoder.observe(trained, encoder.loss(trained, part, 0.0)[1])
    expected = first + 0.25 * (second - first)
    assert float(trained.encoder.value) == approx(expected, rel=1e-3)
    assert first != approx(second, rel=1e-2)
    slope = jax.grad(lambda model: jnp.mean(encoder.loss(model, signals, 0.0)[0]))(
        trained
    )
    codes = np.asarray(encoder(trained, signals), np.float64)
    targets, atoms = float64(model, signals)
    rest = codes @ atoms.T - targets
    assert_allclose(slope.decoder, 2 * rest.T @ codes / rest.size, atol=1e-5)
    assert_allclose(slope.bias, 2 * rest.sum(axis=0) / rest.size, atol=1e-6)
    assert float(slope.encoder.value) == 0


def test_neither_chunks_nor_a_map_nor_the_gram_matrix_at_hand_change_codes(
    model, signals, monkeypatch
):
    encoder = ScreenedPursuit(8, 3)
    codes = encoder(model, signals)
    monkeypatch.setattr(pursuit, "WHOLE", 0)
    monkeypatch.setattr(screened, "CHUNK", 1)
    pairs = jax.jit(jax.vmap(encoder, (None, 0)))(model, signals.reshape(2, -1, DIM))
    assert_allclose(pairs.reshape(codes.shape), codes, atol=1e-5)


REFUSED = {
    "finite": lambda model, y: BatchPursuit(4).calibrate(
        model, y.at[3, 1].set(jnp.nan)
    ),
    "no threshold leaves so many": lambda model, y: BatchPursuit(4).calibrate(
        model, jnp.tile(model.bias, (5, 1))
    ),
    f"at most the {DIM} dimensions": lambda model, y: ScreenedPursuit(DIM + 1)(
        model, y
    ),
}


@mark.parametrize("fault", REFUSED)
def test_what_cannot_be_coded_is_refused(model, signals, fault):
    with raises(ValueError, match=fault):
        REFUSED[fault](model, signals)


def test_squares_that_overflow_are_nan_and_half_precision_is_single(model, signals):
    encoder = BatchPursuit(4, threshold=0.5)
    found, codes = (encoder(model, rows) for rows in (signals.at[7].set(3e30), signals))
    assert_array_equal(found, codes.at[7].set(jnp.nan))
    half = jax.tree.map(lambda array: array.astype(jnp.bfloat16), (model, signals))
    as_given = jax.tree.map(lambda array: array.astype(jnp.float32), half)
    assert_allclose(encoder(*half), encoder(*as_given), atol=0.05)
