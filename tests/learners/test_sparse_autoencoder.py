"""Training of sparse autoencoders against a plain loop over batches, parameter by parameter."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sae_gap import Model, Setting, Split, catalogue, draw, fit
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.screened_pursuit import BatchPursuit
from sae_gap.encoders.topk import TopK
from sae_gap.learners import sparse_autoencoder
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder

INPUT_DIM, NUM_LATENTS, NUM_SAMPLES, K = 6, 9, 150, 2
ENCODERS = {"relu": ReLU(), "topk": TopK(K)}
# One program of a learner and a shape.
begin = eqx.filter_jit(lambda learner, *given, **named: learner.init(*given, **named))
take_step = eqx.filter_jit(lambda learner, *given: learner.step(*given))


def largest(hidden):
    """The positive ones among the k largest of each row."""
    ranks = jnp.argsort(jnp.argsort(-hidden, axis=1), axis=1)
    return (ranks < K) & (hidden > 0)


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


def cosine(step):
    """Nine steps: up to the whole rate after the first one, then along half a cosine to zero after
    the last.
    """
    return 5e-4 * jnp.where(step == 0, 0, 0.5 * (1 + jnp.cos(jnp.pi * (step - 1) / 8)))


RATES = {"constant": 5e-4, "cosine": cosine}


def train(name, signals, parameters, orders, renormalise_every, rate, frozen):
    """Epochs of AdamW in batches of 64; returns the parameters after each."""
    rule, history = optax.adamw(rate, weight_decay=1e-2), []
    state = rule.init(parameters)
    for epoch, order in enumerate(orders):
        for start in range(0, len(signals), 64):
            slopes = gradients(name, parameters, signals[order[start : start + 64]])
            updates, state = rule.update(slopes, state, parameters)
            moved = [old + update for old, update in zip(parameters, updates, strict=True)]
            parameters = parameters[:2] + moved[2:] if frozen else moved
            if renormalise_every is None:
                parameters[0] = parameters[0] / jnp.linalg.norm(parameters[0], axis=0)
        if renormalise_every is not None and epoch % renormalise_every == 0:
            parameters[0] = parameters[0] / jnp.linalg.norm(parameters[0], axis=0)
        history.append([*parameters])
    return history


def unpack(model):
    return [
        np.asarray(array)
        for array in (model.dictionary, model.bias, model.encoder.weight, model.encoder.bias)
    ]


@pytest.mark.parametrize(
    ("name", "schedule", "frozen", "every"),
    [
        ("relu", "constant", False, 2),
        ("topk", "constant", False, 2),
        ("topk", "cosine", False, 2),
        ("topk", "constant", True, 2),
        ("topk", "constant", True, None),
        ("topk", "constant", False, None),
    ],
)
def test_epochs_of_training_are_those_of_a_plain_loop(name, schedule, frozen, every):
    with jax.enable_x64(True):
        signals = np.random.default_rng(0).normal(size=(NUM_SAMPLES, INPUT_DIM)) + 0.3
        data = Split(jnp.asarray(signals))
        options = {"schedule": schedule, "frozen": frozen, "base": Oracle() if frozen else None}
        learner = SparseAutoencoder(ENCODERS[name], num_steps=3, renormalise_every=every, **options)
        rng = np.random.default_rng(1)
        atoms, bias = rng.normal(size=(INPUT_DIM, NUM_LATENTS)), rng.normal(size=INPUT_DIM)
        base = {"base": Model(jnp.asarray(atoms), jnp.asarray(bias))} if frozen else {}
        state = begin(learner, data, num_latents=NUM_LATENTS, key=jax.random.key(0), **base)
        start, key, found, orders = unpack(learner.model(state)), state.key, [], []
        for _ in range(3):
            shuffle_key, key = jax.random.split(key)
            orders.append(np.asarray(jax.random.permutation(shuffle_key, NUM_SAMPLES)))
            state = take_step(learner, data, state)
            found.append(unpack(learner.model(state)))
        expected = train(name, signals, start, orders, every, RATES[schedule], frozen)
    for epoch, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for place, (parameter, other, initial) in enumerate(zip(ours, theirs, start, strict=True)):
            # Optax keeps the step of a schedule in single precision.
            np.testing.assert_allclose(
                parameter, other, rtol=0, atol=1e-10 if schedule == "constant" else 1e-8
            )
            moved = np.abs(parameter - initial).max()
            assert moved > 4e-4 if not frozen or place > 1 else moved == 0
        lengths = np.linalg.norm(ours[0], axis=0)
        assert np.allclose(lengths, 1, rtol=0, atol=1e-12) == (
            frozen or every is None or epoch % 2 == 0
        )
    assert len({tuple(order) for order in orders}) == 3


def test_a_rate_left_to_the_learner_falls_with_the_root_of_the_width_and_the_fourth_root_of_the_steps():
    data = Split(jax.random.normal(jax.random.key(0), (64, 3)))
    found = []
    for rate in (None, 1.2 / 4 / 2):
        learner = SparseAutoencoder(TopK(2), num_steps=16, learning_rate=rate)
        state = begin(learner, data, num_latents=16, key=jax.random.key(1))
        found.append(unpack(take_step(learner, data, state).model))
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_standardised_training_is_that_of_standardised_signals():
    signals = 1e3 * np.random.default_rng(0).normal(size=(NUM_SAMPLES, INPUT_DIM)) + 5e3
    mean, found = signals.mean(axis=0), []
    unit = np.sqrt(((signals - mean) ** 2).mean())
    with jax.enable_x64(True):
        for standardised, seen in ((True, signals), (False, (signals - mean) / unit)):
            learner = SparseAutoencoder(JumpReLU(), num_steps=2, standardised=standardised)
            data = Split(jnp.asarray(seen))
            state = begin(learner, data, num_latents=NUM_LATENTS, key=jax.random.key(0))
            for _ in range(2):
                state = take_step(learner, data, state)
            found.append(jax.tree.leaves(state.model))
    for ours, plain in zip(*found, strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-9, atol=1e-9)


# `batch_pursuit` has what a screened pursuit has.
def test_a_base_gives_the_start():
    """Its dictionary on unit atoms, its bias, and its encoder, or where it has none that of its
    unit atoms.
    """
    rng = np.random.default_rng(0)
    sizes = ((6, 9), 6, (20, 6))
    atoms, bias, signals = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in sizes)
    data, learner = Split(signals), SparseAutoencoder(TopK(2), base=Oracle())
    unit = np.asarray(atoms) / np.linalg.norm(atoms, axis=0)
    mine = Affine(3 * atoms, jnp.ones(9))
    for base, weight in ((Model(atoms, bias), unit), (Model(atoms, bias, mine), mine.weight)):
        model = learner.model(begin(learner, data, num_latents=9, key=jax.random.key(0), base=base))
        np.testing.assert_allclose(model.decoder, unit, rtol=1e-6)
        np.testing.assert_array_equal(model.bias, bias)
        np.testing.assert_allclose(model.encoder.weight, weight, rtol=1e-6)


@pytest.mark.parametrize(("name", "l0"), [("batchtopk", None), ("jumprelu", 2.0)])
def test_a_standardised_sae_starts_from_a_dictionary_with_the_gain_of_least_squares(
    name, l0, monkeypatch
):
    # Of 40 signals every third.
    monkeypatch.setattr(sparse_autoencoder, "FEW", 15)
    rng = np.random.default_rng(0)
    # So coherent that a tied encoder overshoots.
    atoms = rng.normal(size=(6, 9)) + 2
    signals = rng.normal(size=(40, 6)) * 30 + 7
    data = Split(jnp.asarray(signals, jnp.float32))
    encoder = catalogue.make_encoder(name, sparsity=K)
    learner = SparseAutoencoder(encoder, base=Oracle(), standardised=True, l0=l0)
    base = Model(jnp.asarray(atoms, jnp.float32), jnp.full(6, -20.0))
    # As `fit` has them, whose floats are arrays of a compiled program.
    learner = jax.tree.map(jnp.asarray, learner)
    start = eqx.filter_jit(
        lambda own: own.model(own.init(data, num_latents=9, key=jax.random.key(0), base=base))
    )
    model = start(learner)
    mean = signals.mean(axis=0)
    unit = np.sqrt(((signals - mean) ** 2).mean())
    directions = atoms / np.linalg.norm(atoms, axis=0)
    np.testing.assert_allclose(model.decoder, unit * directions, rtol=1e-4)
    np.testing.assert_allclose(model.bias, base.bias, rtol=1e-5)
    few = signals[::3] + 20
    hidden = np.maximum(few @ directions, 0)
    guess = (hidden * largest(hidden)) @ directions.T
    gain = (guess * few).sum() / (guess**2).sum()
    assert gain < 0.9
    # Codes are in atoms as long as the unit.
    np.testing.assert_allclose(model.encoder.affine.weight, gain * directions / unit, rtol=1e-3)
    assert not np.asarray(model.encoder.affine.bias).any()


@pytest.mark.parametrize("standardised", [False, True])
def test_a_pursuit_on_a_frozen_dictionary_is_calibrated_and_not_trained(task, standardised):
    encoder = BatchPursuit(K)
    learner = SparseAutoencoder(encoder, base=Oracle(), frozen=True, standardised=standardised)
    fitted = fit(learner, [task], [0])[0].end
    expected = encoder.calibrate(fitted.model, task.train.signals).encoder.value
    assert fitted.step == 0 and fitted.model.encoder.value == pytest.approx(float(expected))


def test_the_start_is_uniform_and_tied(task):
    learner = SparseAutoencoder(ReLU())
    data = learner.select(task)
    model = learner.model(begin(learner, data, num_latents=2_000, key=jax.random.key(1)))
    dictionary, bias, weight, shift = unpack(model)
    bound = 1 / np.sqrt(12)
    assert weight.shape == (12, 2_000) and np.abs(weight).max() <= bound
    # The variance of a uniform on ±b is b² / 3.
    assert weight.mean() == pytest.approx(0, abs=0.01)
    assert weight.var() == pytest.approx(bound**2 / 3, rel=0.02)
    np.testing.assert_allclose(dictionary, weight / np.linalg.norm(weight, axis=0), rtol=1e-5)
    assert not bias.any() and not shift.any()


@pytest.mark.parametrize("name", ["relu", "jumprelu"])
def test_the_l0_asked_for_is_reached_whatever_the_penalty_starts_from(name):
    drawn = draw(Setting(40, 4, 2_000))
    tuned = catalogue.tuned_sae(name, sparsity=4, input_dim=drawn.input_dim, num_steps=150)
    for factor in (0.1, 10):
        steered = dataclasses.replace(tuned, penalty=factor * tuned.penalty, l0=4.0)
        (fitted,) = fit(steered, [drawn], [0])
        codes = fitted.end.model.encode(fitted.end.model, drawn.id.signals)
        assert float(jnp.mean(jnp.sum(codes != 0, axis=1))) == pytest.approx(4, rel=0.05)


def test_an_encoder_without_a_penalty_is_not_steered():
    with pytest.raises(ValueError, match="TopK has no penalty that l0 could steer"):
        SparseAutoencoder(TopK(K), l0=2.0)


def test_a_steered_fit_of_single_precision_goes_on_in_double():
    drawn = draw(Setting(20, 3, 200))
    with jax.enable_x64(True):
        (fitted,) = fit(SparseAutoencoder(JumpReLU(), num_steps=2, l0=3.0), [drawn], [0])
    assert fitted.end.step == 2
