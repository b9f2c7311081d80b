"""Learners against the same descent in NumPy, their stops included: dictionaries and codes as
published, and encoders for a given dictionary.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from numpy.linalg import norm
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, mark

from sae_gap import Split, fit
from sae_gap.core import Model
from sae_gap.encoders import LISTA, ReLU, TopK
from sae_gap.learners import (
    Among,
    Amortised,
    DLFista,
    Lista,
    Oracle,
    SoftplusAdam,
    softplus_adam,
)
from sae_gap.solvers import sparse_code
from tests.learners.steps import KEY, begin, take_step
from tests.solvers.test_fista import textbook


@jax.jit
def loss_of(parts, targets):
    """The published loss, of which the other samples leave the dictionary alone."""
    dictionary, *frees = parts
    total = 0.0
    fixed = dictionary
    for free, target in zip(frees, targets, strict=True):
        codes = jnp.logaddexp(free, 0)
        error = codes @ fixed.T - target
        total += jnp.mean(error**2) + 0.1 * jnp.mean(
            codes * jnp.linalg.norm(fixed, axis=0)
        )
        fixed = lax.stop_gradient(dictionary)
    return total


def descend(parts, data, updates):
    """The descent, one update at a time: the parts, all rates and the least loss."""
    rule = optax.scale_by_adam()
    slopes = jax.jit(jax.value_and_grad(loss_of))
    state = rule.init(parts)
    rates = [1e-3]
    best = np.inf
    worse = 0
    for _ in range(updates):
        loss, gradient = slopes(parts, data)
        directions, state = rule.update(gradient, state)
        parts = [
            part - rates[-1] * step
            for part, step in zip(parts, directions, strict=True)
        ]
        worse = 0 if loss < best else worse + 1
        rate = rates[-1] * (1.1 if loss < best else 0.5 if worse == 2 else 1)
        best = min(best, loss)
        worse = worse % 2
        rates.append(min(max(rate, 1e-6), 1))
    return parts, rates, float(best)


@mark.parametrize("split", ["train", "id"])
def test_updates_against_numpy(task, split):
    """Dimensions of zeros count for nothing."""
    with jax.enable_x64(True):
        task = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), task
        )
        learner = SoftplusAdam(split=split, block=100)
        bare = learner.select(task)
        data = tuple(jnp.pad(signals, ((0, 0), (0, 4))) for signals in bare)
        state = begin(learner, data)
        dictionary, codes = state.free
        assert len(codes) == (2 if split == "id" else 1)
        parts, rates, best = descend([dictionary[:12], *codes], bare, 200)
        for _ in range(2):
            state = take_step(learner, data, state)
        model = learner.model(state)
    # The rate both rose and fell on the way.
    assert max(rates) > 2e-3 and (np.diff(rates) < 0).any()
    assert_allclose([state.rate, state.best, state.updates], [rates[-1], best, 200])
    for ours, theirs in zip([state.free[0][:12], *state.free[1]], parts, strict=True):
        assert_allclose(ours, theirs, atol=1e-6)
    assert_array_equal(model.dictionary, state.free[0])
    if split == "id":
        codes = np.logaddexp(np.concatenate(parts[1:]), 0)
        assert_allclose(model.encoder.codes, codes, atol=1e-6)
        assert_array_equal(model.encoder.signals, np.concatenate(data))


@mark.parametrize(
    ("least_updates", "patience", "expected"), [(30, 10, 31), (5, 10, 11)]
)
def test_when_softplus_adam_stops(task, monkeypatch, least_updates, patience, expected):
    """Nothing counts as an improvement by a thousand but the first loss, against none."""
    constants = {
        "IMPROVEMENT": 1e3,
        "LEAST_UPDATES": least_updates,
        "PATIENCE": patience,
    }
    for name, value in constants.items():
        monkeypatch.setattr(softplus_adam, name, value)
    # No two are one program.
    learner = SoftplusAdam(num_steps=5, block=15 + least_updates)
    data = learner.select(task)
    state = begin(learner, data)
    for _ in range(5):
        state = take_step(learner, data, state)
    assert int(state.updates) == expected


def update(signals, codes):
    dictionary = (
        signals.T
        @ codes
        @ np.linalg.inv(codes.T @ codes + 1e-6 * np.eye(codes.shape[1]))
    )
    lengths = norm(dictionary, axis=0)
    return dictionary / np.where(lengths > 0, lengths, 1)


# At the larger weight some atoms are not used, become zero and stay dead.
@mark.parametrize(("lam", "dies"), [(0.1, False), (0.5, True)])
def test_rounds_against_numpy(task, lam, dies):
    with jax.enable_x64(True):
        signals = np.asarray(task.train.signals, np.float64)
        learner = DLFista(lam)
        data = Split(jnp.asarray(signals))
        state = begin(learner, data)
        dictionary = np.asarray(state.dictionary)
        codes = np.zeros((100, 20))
        assert_allclose(norm(dictionary, axis=0), 1, rtol=1e-12)
        for number in range(1, 4):
            state = take_step(learner, data, state)
            codes, _ = textbook(signals, dictionary, codes, 100, lam)
            following = update(signals, codes)
            assert_allclose(state.codes, codes, atol=1e-8)
            assert_allclose(state.dictionary, following, atol=1e-6)
            change = norm(following - dictionary) / norm(dictionary)
            assert float(state.change) == approx(change, rel=1e-5)
            assert int(state.round) == number
            dictionary = following
        assert (not dictionary.any(axis=0).all()) == dies
        assert_array_equal(learner.model(state).dictionary, state.dictionary)


# Any change is below a tolerance of 1e9, but the first ten rounds are run all the same.
@mark.parametrize(("tol", "expected"), [(1e9, 11), (0.0, 15)])
def test_when_it_stops(task, tol, expected):
    assert fit(DLFista(num_steps=15, tol=tol), [task], [KEY])[0].end.step == expected


UNTIED = LISTA(3, factored=False, threshold=0.01)
OPTIONS = {"base": Oracle(), "num_steps": 2}
LISTA_ALONE = Lista(UNTIED, **OPTIONS)
SEVERAL = Amortised((ReLU(), UNTIED), **OPTIONS)


@mark.parametrize(("learner", "place"), [(LISTA_ALONE, 0), (SEVERAL, 0), (SEVERAL, 1)])
def test_epochs_are_steps_of_adam_over_their_batches(task, learner, place):
    """From a base with a bias, whose atoms are twice as long."""
    targeted = learner is SEVERAL
    encoder = learner.trained()[place]
    with jax.enable_x64(True):
        signals, atoms = (
            jnp.asarray(np.float64(x)) for x in (task.train.signals, task.dictionary)
        )
        bias = jnp.linspace(-0.2, 0.2, 12)
        data = Split(signals)
        state = begin(learner, data, base=Model(2 * atoms, bias))
        assert_allclose(state.model.dictionary, atoms, rtol=1e-6)
        best = sparse_code(signals - bias, atoms, 0.1).codes
        # Two batches an epoch; the rate of those that have targets falls to zero.
        rate = optax.cosine_decay_schedule(1e-3, 4) if targeted else 1e-3
        parts = state.model.encoder[place]
        rule = optax.adam(rate)
        moments = rule.init(parts)
        dictionary = state.model.dictionary

        @jax.jit
        def slopes(parts, rows):
            def loss(parts):
                codes = encoder(Model(dictionary, bias, parts), signals[rows])
                if targeted:
                    return jnp.sum((codes - best[rows]) ** 2) / len(rows)
                error = signals[rows] - bias - codes @ dictionary.T
                return jnp.mean(error**2) + 0.1 * jnp.mean(codes)

            return jax.grad(loss)(parts)

        for _ in range(2):
            order = jax.random.permutation(jax.random.split(state.key)[0], 100)
            state = take_step(learner, data, state)
            for rows in (order[:64], order[64:]):
                updates, moments = rule.update(slopes(parts, rows), moments)
                parts = optax.apply_updates(parts, updates)
        model = learner.model(state)
    for ours, theirs in zip(
        *map(jax.tree.leaves, (state.model.encoder[place], parts)), strict=True
    ):
        assert_allclose(ours, theirs, atol=1e-6)
    assert_array_equal(model.dictionary, dictionary)
    assert_array_equal(model.bias, bias)


def test_one_encoder_is_its_models():
    assert SEVERAL.encode is None and Amortised(
        (TopK(3),), base=Oracle()
    ).encode == Among(TopK(3))
