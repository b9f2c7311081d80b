"""LISTA on its published loss against the same training by hand, layer by layer in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap import fit
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import encode, unit_atoms
from sae_gap.encoders.lista import LISTA
from sae_gap.learners.amortised import Lista
from sae_gap.learners.dl_fista import DLFista
from sae_gap.learners.oracle import Oracle

KEY = jax.random.key(0)


def by_hand(parameters, batch, dictionary, lam):
    """The loss of a batch and its gradient, by running the layers forwards and then backwards."""
    weight, threshold, recurrence = parameters
    before, codes = [], [np.zeros((len(batch), dictionary.shape[1]))]
    for t in range(len(weight)):
        carried = codes[-1] @ recurrence[t - 1] if t else 0
        before.append(batch @ weight[t] + carried - threshold[t])
        codes.append(np.maximum(before[-1], 0))
    error = codes[-1] @ dictionary.T - batch
    loss = np.mean(error**2) + lam * np.mean(codes[-1])
    bar = 2 * error @ dictionary / error.size + lam * (codes[-1] > 0) / codes[-1].size
    gradients = [np.zeros_like(part) for part in parameters]
    for t in reversed(range(len(weight))):
        bar = bar * (before[t] > 0)
        gradients[0][t], gradients[1][t] = batch.T @ bar, -bar.sum(axis=0)
        if t:
            gradients[2][t - 1], bar = codes[t].T @ bar, bar @ recurrence[t - 1].T
    return loss, gradients


def test_epochs_against_training_by_hand(task):
    with jax.enable_x64(True):
        task = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), task)
        learner = Lista(LISTA(3, factored=False, threshold=0.01), base=Oracle(), num_steps=2)
        data, base = learner.select(task), Model(task.dictionary, np.zeros(12))
        state = learner.init(data, num_latents=20, key=KEY, base=base)
        dictionary, signals = np.asarray(state.model.dictionary), np.asarray(data.signals)
        parameters = [np.array(leaf) for leaf in jax.tree.leaves(state.model.encoder)]
        lipschitz = np.linalg.norm(dictionary, 2) ** 2
        np.testing.assert_allclose(parameters[0], np.broadcast_to(dictionary / lipschitz, (3, 12, 20)), rtol=1e-6)
        np.testing.assert_array_equal(parameters[1], np.full((3, 20), 0.01))
        np.testing.assert_allclose(parameters[2][1], np.eye(20) - dictionary.T @ dictionary / lipschitz, atol=1e-6)
        first, second = ([np.zeros_like(part) for part in parameters] for _ in range(2))
        key, count = state.key, 0
        for _ in range(2):
            shuffle_key, key = jax.random.split(key)
            order = np.asarray(jax.random.permutation(shuffle_key, 100))
            state = learner.step(data, state)
            for start in (0, 64):
                count += 1
                batch = signals[order[start : start + 64]]
                for i, slope in enumerate(by_hand(parameters, batch, dictionary, 0.1)[1]):
                    first[i] = 0.9 * first[i] + 0.1 * slope
                    second[i] = 0.999 * second[i] + 0.001 * slope**2
                    step = first[i] / (1 - 0.9**count) / (np.sqrt(second[i] / (1 - 0.999**count)) + 1e-8)
                    parameters[i] = parameters[i] - 1e-3 * step
        found = jax.tree.leaves(learner.model(state).encoder)
    for ours, theirs in zip(found, parameters, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_training_lowers_the_loss_and_leaves_the_dictionary(task):
    base = DLFista(num_steps=3, num_iterations=20)
    learner = Lista(base=base, num_steps=40)
    (fitted,) = fit(learner, [task], [KEY])
    model, start = fitted.end.model, fit(base, [task], [KEY])[0].end.model
    np.testing.assert_allclose(model.dictionary, unit_atoms(start.dictionary)[0], atol=1e-5)

    def loss(model):
        codes = np.asarray(encode(learner.encoder, model, task.train.signals))
        return np.mean((task.train.signals - codes @ np.asarray(model.dictionary).T) ** 2) + 0.1 * np.mean(np.abs(codes))

    untrained = learner.init(learner.select(task), num_latents=20, key=KEY, base=start).model
    # Sixteen layers are close to the optimum before they are trained.
    assert loss(model) < 0.98 * loss(untrained) and fitted.end.step == 40
