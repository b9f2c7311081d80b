"""Training of sparse autoencoders against a plain loop over batches, parameter by parameter."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, mark, raises

from sae_gap import Model, Split, catalogue
from sae_gap.encoders import Affine, JumpReLU, ReLU, TopK
from sae_gap.learners import Oracle, SparseAutoencoder, Steering, sparse_autoencoder
from tests.learners.steps import begin, take_step

INPUT_DIM = 6
NUM_LATENTS = 9
NUM_SAMPLES = 150
K = 2
ENCODERS = {"relu": ReLU(), "topk": TopK(K)}
RNG = default_rng(0)
SIGNALS = RNG.normal(size=(NUM_SAMPLES, INPUT_DIM)) + 0.3
ATOMS = RNG.normal(size=(INPUT_DIM, NUM_LATENTS))
BIAS = RNG.normal(size=INPUT_DIM)


def largest(hidden):
    """The positive ones among the k largest of each row."""
    return (jnp.argsort(jnp.argsort(-hidden, axis=1), axis=1) < K) & (hidden > 0)


# Which pre-activations pass, and the weight of the l1 norm in the loss.
BY_HAND = {"relu": (lambda hidden: hidden > 0, 1e-4), "topk": (largest, 0.0)}


@functools.partial(jax.jit, static_argnums=0)
def gradients(name, parameters, batch):
    passes, penalty = BY_HAND[name]

    def loss(parameters):
        dictionary, bias, weight, shift = parameters
        hidden = (batch - bias) @ weight + shift
        codes = hidden * passes(hidden)
        error = codes @ dictionary.T + bias - batch
        return jnp.mean(error**2) + penalty * jnp.mean(codes.sum(axis=1))

    slope, *others = jax.grad(loss)(parameters)
    return [slope - jnp.sum(slope * parameters[0], axis=0) * parameters[0], *others]


def unit(atoms):
    return atoms / norm(atoms, axis=0)


def cosine(step):
    """Nine steps: up to the whole rate after the first one, then along half a cosine to zero after
    the last; the rate falls with the root of the width and the fourth root of the steps.
    """
    share = jnp.where(step == 0, 0, 0.5 * (1 + jnp.cos(jnp.pi * (step - 1) / 8)))
    return 1.2 / 3 / 9**0.25 * share


def train(name, signals, parameters, orders, every, rate, frozen):
    """Epochs of AdamW in batches of 64; returns the parameters after each."""
    rule = optax.adamw(rate, weight_decay=1e-2)
    history = []
    state = rule.init(parameters)
    for epoch, order in enumerate(orders):
        for start in range(0, len(signals), 64):
            slopes = gradients(name, parameters, signals[order[start : start + 64]])
            updates, state = rule.update(slopes, state, parameters)
            moved = [
                old + update for old, update in zip(parameters, updates, strict=True)
            ]
            parameters = parameters[:2] + moved[2:] if frozen else moved
            if every is None:
                parameters[0] = unit(parameters[0])
        if every is not None and epoch % every == 0:
            parameters[0] = unit(parameters[0])
        history.append([*parameters])
    return history


def unpack(model):
    parts = model.dictionary, model.bias, model.encoder.weight, model.encoder.bias
    return [np.asarray(part) for part in parts]


@mark.parametrize(
    ("name", "options"),
    [
        ("relu", {"renormalise_every": 2}),
        ("relu", {"renormalise_every": 2, "standardised": True}),
        ("topk", {"renormalise_every": 2, "schedule": "cosine", "learning_rate": None}),
        ("topk", {"renormalise_every": 2, "frozen": True}),
        ("topk", {"renormalise_every": None, "frozen": True}),
        ("topk", {"renormalise_every": None}),
    ],
)
def test_epochs_of_training_are_those_of_a_plain_loop(name, options):
    frozen = options.get("frozen", False)
    every = options["renormalise_every"]
    rate = cosine if "schedule" in options else 5e-4
    seen = SIGNALS
    signals = SIGNALS
    if "standardised" in options:
        seen = 1e3 * SIGNALS + 5e3
        signals = SIGNALS - SIGNALS.mean(axis=0)
        signals = signals / np.sqrt((signals**2).mean())
    with jax.enable_x64(True):
        data = Split(jnp.asarray(seen))
        learner = SparseAutoencoder(
            ENCODERS[name], num_steps=3, base=Oracle() if frozen else None, **options
        )
        base = {"base": Model(jnp.asarray(ATOMS), jnp.asarray(BIAS))} if frozen else {}
        state = begin(learner, data, NUM_LATENTS, **base)
        start = unpack(state.model)
        key = state.key
        found = []
        orders = []
        for _ in range(3):
            shuffle_key, key = jax.random.split(key)
            orders.append(np.asarray(jax.random.permutation(shuffle_key, NUM_SAMPLES)))
            state = take_step(learner, data, state)
            found.append(unpack(state.model))
        expected = train(name, signals, start, orders, every, rate, frozen)
    for epoch, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for place, (parameter, other, initial) in enumerate(
            zip(ours, theirs, start, strict=True)
        ):
            # Optax keeps the step of a schedule in single precision.
            assert_allclose(
                parameter, other, rtol=0, atol=1e-7 if rate is cosine else 1e-10
            )
            moved = abs(parameter - initial).max()
            assert moved > 4e-4 if not frozen or place > 1 else moved == 0
        is_unit = np.allclose(norm(ours[0], axis=0), 1, rtol=0, atol=1e-12)
        assert is_unit == (frozen or every is None or epoch % 2 == 0)
    assert len({tuple(order) for order in orders}) == 3


# A base gives its dictionary on unit atoms, its bias, and its encoder, or where it has none that of
# its unit atoms.
@mark.parametrize("has", [False, True])
def test_a_base_gives_the_start(has):
    atoms, bias, signals = (jnp.float32(part) for part in (ATOMS, BIAS, SIGNALS))
    encoder = Affine(3 * atoms, jnp.ones(NUM_LATENTS)) if has else None
    learner = SparseAutoencoder(TopK(K), base=Oracle())
    model = learner.model(
        begin(learner, Split(signals), NUM_LATENTS, base=Model(atoms, bias, encoder))
    )
    assert_allclose(model.decoder, unit(ATOMS), rtol=1e-5)
    assert_array_equal(model.bias, bias)
    weight = encoder.weight if has else unit(ATOMS)
    assert_allclose(model.encoder.weight, weight, rtol=1e-5)


@mark.parametrize(("name", "l0"), [("batchtopk", None), ("jumprelu", 2.0)])
def test_a_standardised_sae_starts_from_a_dictionary_with_the_gain_of_least_squares(
    name, l0, monkeypatch
):
    # Of 150 signals every tenth.
    monkeypatch.setattr(sparse_autoencoder, "FEW", 15)
    # So coherent that a tied encoder overshoots.
    directions = unit(ATOMS + 2)
    signals = 30 * SIGNALS
    encoder = catalogue.make_encoder(name, sparsity=K)
    learner = SparseAutoencoder(encoder, base=Oracle(), standardised=True, l0=l0)
    base = Model(jnp.float32(ATOMS + 2), jnp.full(INPUT_DIM, -20.0))
    # As `fit` has them, whose floats are arrays of a compiled program.
    learner = jax.tree.map(jnp.asarray, learner)
    model = learner.model(
        begin(learner, Split(jnp.float32(signals)), NUM_LATENTS, base=base)
    )
    spread = np.sqrt(((signals - signals.mean(axis=0)) ** 2).mean())
    assert_allclose(model.decoder, spread * directions, rtol=1e-4)
    assert_allclose(model.bias, base.bias, rtol=1e-5)
    few = signals[::10] + 20
    hidden = np.maximum(few @ directions, 0)
    guess = (hidden * largest(hidden)) @ directions.T
    gain = (guess * few).sum() / (guess**2).sum()
    assert gain < 0.9
    # Codes are in atoms as long as the unit.
    affine = model.encoder.affine
    assert_allclose(affine.weight, gain * directions / spread, rtol=1e-3)
    assert not np.asarray(affine.bias).any()


def test_the_start_is_uniform_and_tied():
    learner = SparseAutoencoder(ReLU())
    # Dimensions of zeros count for nothing.
    data = Split(jnp.pad(jnp.float32(SIGNALS), ((0, 0), (0, 2))))
    dictionary, bias, weight, shift = unpack(begin(learner, data, 4_000).model)
    assert not weight[INPUT_DIM:].any()
    dictionary = dictionary[:INPUT_DIM]
    weight = weight[:INPUT_DIM]
    bound = INPUT_DIM**-0.5
    assert abs(weight).max() <= bound
    # The variance of a uniform on ±b is b² / 3.
    assert weight.mean() == approx(0, abs=0.01)
    assert weight.var() == approx(bound**2 / 3, rel=0.02)
    assert_allclose(dictionary, unit(weight), rtol=1e-5)
    assert not bias.any() and not shift.any()


def test_a_penalty_is_steered_as_documented():
    """Of 20 batches at an L0 of 2, whose target falls from the first batch's 8 until the sixth."""
    learner = SparseAutoencoder(JumpReLU(), l0=2.0)
    state = Steering(*map(jnp.float32, (np.log(0.01), 0, 0)), jnp.int32(0))
    mean = 8.0
    log = np.log(0.01)
    for t, active in enumerate([8.0, 4.0, 30.0, 1.0, 5.0, 2.0, 40.0, 3.0]):
        mean = 0.95 * mean + 0.05 * active if t else active
        error = np.clip(np.log(mean / (2 * 4 ** max(0, 1 - t / 6))), -1, 1)
        log += 30 * error / (t + 1)
        # In double precision a fit of single precision has batches of double.
        with jax.enable_x64(True):
            state, factor, nudge = learner._steer(state, jnp.asarray(active), 20)
        assert_allclose([factor, nudge], [np.exp(log + error), error], rtol=1e-3)
        assert factor.dtype == nudge.dtype == state.mean.dtype == np.float32


def test_an_encoder_without_a_penalty_is_not_steered():
    with raises(ValueError, match="TopK has no penalty that l0 could steer"):
        SparseAutoencoder(TopK(K), l0=2.0)
