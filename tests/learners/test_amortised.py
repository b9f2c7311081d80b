"""Encoders for a given dictionary: what is frozen, and epochs of Adam by hand."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sae_gap.core import Model, Split
from sae_gap.encoders import LISTA, ReLU, TopK
from sae_gap.learners import Among, Amortised, Lista, Oracle
from sae_gap.solvers import sparse_code

UNTIED = LISTA(3, factored=False, threshold=0.01)
OPTIONS = {"base": Oracle(), "num_steps": 2}
LISTA_ALONE = Lista(UNTIED, **OPTIONS)
SEVERAL = Amortised((ReLU(), UNTIED), **OPTIONS)


@pytest.mark.parametrize(("learner", "place"), [(LISTA_ALONE, 0), (SEVERAL, 0), (SEVERAL, 1)])
def test_epochs_are_steps_of_adam_over_their_batches(task, learner, place):
    """From a base with a bias, whose atoms are twice as long."""
    targeted, encoder = learner is SEVERAL, learner.trained()[place]
    with jax.enable_x64(True):
        signals, atoms = (jnp.asarray(np.float64(x)) for x in (task.train.signals, task.dictionary))
        bias, data = jnp.linspace(-0.2, 0.2, 12), Split(signals)
        key = jax.random.key(0)
        state = learner.init(data, num_latents=20, key=key, base=Model(2 * atoms, bias))
        np.testing.assert_allclose(state.model.dictionary, atoms, rtol=1e-6)
        best = sparse_code(signals - bias, atoms, 0.1).codes
        # Two batches an epoch; the rate of those that have targets falls to zero.
        rate = optax.cosine_decay_schedule(1e-3, 4) if targeted else 1e-3
        parts, rule = state.model.encoder[place], optax.adam(rate)
        moments, dictionary = rule.init(parts), state.model.dictionary

        @jax.jit
        def slopes(parts, rows):
            def loss(parts):
                codes = encoder(Model(dictionary, bias, parts), signals[rows])
                if targeted:
                    return jnp.sum((codes - best[rows]) ** 2) / len(rows)
                error = signals[rows] - bias - codes @ dictionary.T
                return jnp.mean(error**2) + 0.1 * jnp.mean(codes)

            return jax.grad(loss)(parts)

        advance = eqx.filter_jit(learner.step)
        for _ in range(2):
            order = jax.random.permutation(jax.random.split(state.key)[0], 100)
            state = advance(data, state)
            for rows in (order[:64], order[64:]):
                updates, moments = rule.update(slopes(parts, rows), moments)
                parts = optax.apply_updates(parts, updates)
        model = learner.model(state)
    for ours, theirs in zip(
        *map(jax.tree.leaves, (state.model.encoder[place], parts)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_array_equal(model.dictionary, dictionary)
    np.testing.assert_array_equal(model.bias, bias)


def test_one_encoder_is_its_models():
    assert SEVERAL.encode is None and Amortised((TopK(3),), base=Oracle()).encode == Among(TopK(3))
