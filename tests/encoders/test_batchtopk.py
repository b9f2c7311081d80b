"""BatchTopK against a sort over the batch, its running threshold, and what training sees of a
batch.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Split
from sae_gap.core.types import Model
from sae_gap.encoders.batchtopk import BatchTopK, BatchTopKParameters
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.lista_matryoshka import ListaMatryoshka
from sae_gap.encoders.matryoshka import MatryoshkaBatchTopK
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder

K = 2
# One program of an encoder and a shape.
loss = eqx.filter_jit(lambda encoder, *given: encoder.loss(*given))


def problem(seed=0, n=9, input_dim=4, num_latents=7, threshold=0.0):
    rng = np.random.default_rng(seed)
    affine = Affine(
        jnp.asarray(rng.normal(size=(input_dim, num_latents))),
        jnp.asarray(rng.normal(size=num_latents)),
    )
    parameters = BatchTopKParameters(affine, jnp.asarray(threshold))
    model = Model(
        jnp.asarray(rng.normal(size=(input_dim, num_latents))),
        jnp.asarray(rng.normal(size=input_dim)),
        parameters,
    )
    signals = rng.normal(size=(n, input_dim))
    hidden = np.maximum(
        (signals - np.asarray(model.bias)) @ np.asarray(affine.weight) + np.asarray(affine.bias), 0
    )
    return model, jnp.asarray(signals), hidden


def kept(hidden, count=None):
    """The largest of the whole batch, by a sort."""
    codes = np.zeros(hidden.size)
    best = np.argsort(-hidden, axis=None)[: K * len(hidden) if count is None else count]
    codes[best] = hidden.ravel()[best]
    return codes.reshape(hidden.shape)


@pytest.mark.parametrize("encoder", [BatchTopK(K), MatryoshkaBatchTopK(K), ListaMatryoshka(K)])
@pytest.mark.parametrize("part", [None, "affine"])
def test_a_model_without_a_threshold_is_refused(encoder, part):
    model, signals, _ = problem()
    plain = dataclasses.replace(model, encoder=part and getattr(model.encoder, part))
    with pytest.raises(TypeError, match=f"give a model that {encoder.name} was trained with"):
        encoder(plain, signals)


def test_what_a_batch_keeps_falls_linearly_from_its_start():
    """From twice two latents a sample to two; without a start two throughout. There are nine."""
    model, signals, hidden = problem()
    falling = eqx.filter_jit(lambda encoder, *given: encoder.loss_after(*given))
    for start, done, count in ((2, 0.0, 36), (2, 0.5, 27), (2, 1.0, 18), (1, 0.0, 18)):
        errors, threshold = falling(
            BatchTopK(K, initial_factor=start), jnp.asarray(done), model, signals, 0
        )
        codes = kept(hidden, count)
        rest = codes @ np.asarray(model.dictionary).T + np.asarray(model.bias) - np.asarray(signals)
        np.testing.assert_allclose(errors, (rest**2).mean(axis=1), rtol=1e-5)
        assert float(threshold) == pytest.approx(codes[codes > 0].min(), rel=1e-5)


class Clock(BatchTopK):
    """Its threshold adds up what its loss was told of the steps done, 9 if that was nothing."""

    def loss(self, model, signals, penalty, done=9.0):
        return jnp.sum(signals @ model.decoder, axis=1), model.encoder.threshold + done


@pytest.mark.parametrize(
    ("factor", "told"), [(2, (0, 1 / 5, 2 / 5, 3 / 5, 4 / 5, 1)), (1, (9,) * 6)]
)
def test_training_tells_the_loss_that_a_subclass_defines_what_is_done(factor, told):
    """Two epochs of three batches, the last one smaller."""
    learner = SparseAutoencoder(Clock(K, initial_factor=factor), num_steps=2, batch_size=4)
    data = Split(problem()[1])
    state = eqx.filter_jit(learner.init)(data, num_latents=7, key=jax.random.key(0))
    step = jax.jit(learner.step)
    for steps in (3, 6):
        state = step(data, state)
        assert float(state.model.encoder.threshold) == pytest.approx(sum(told[:steps]), rel=1e-5)


def test_the_threshold_is_a_running_mean_that_the_first_batch_sets():
    expected, model = 0.0, problem()[0]
    encoder = BatchTopK(K, rate=0.25)
    for seed in range(4):
        _, signals, _ = problem(seed)
        hidden = np.maximum(model.encoder.affine(signals - model.bias), 0)
        codes = kept(hidden)
        smallest = codes[codes > 0].min()
        expected = smallest if seed == 0 else 0.75 * expected + 0.25 * smallest
        model = encoder.observe(model, loss(encoder, model, signals, 0)[1])
        assert float(model.encoder.threshold) == pytest.approx(expected, rel=1e-5)


def test_a_batch_that_keeps_nothing_leaves_the_threshold():
    parameters = BatchTopKParameters(Affine(jnp.eye(3), jnp.zeros(3)), jnp.asarray(0.5))
    model = Model(jnp.eye(3), jnp.zeros(3), parameters)
    losses, threshold = loss(BatchTopK(1), model, -jnp.ones((2, 3)), 0)
    assert losses.tolist() == [1, 1] and float(threshold) == 0.5
