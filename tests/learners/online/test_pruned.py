"""A dictionary cut to the atoms that carry the most energy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core.types import Model, Split, Task
from sae_gap.learners.online.pruned import Pruned, PrunedState
from sae_gap.learners.oracle import Oracle
from sae_gap.study.fitting import fit


@pytest.fixture
def task():
    """Twelve orthonormal atoms of which each is used more often than the next, the loudest the last but one."""
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.standard_normal((30, 12)))[0]
    codes = (rng.random((2_000, 12)) < np.linspace(0.5, 0.1, 12)) * rng.uniform(0.9, 1.1, (2_000, 12))
    codes[:, 10] *= 3
    split = Split(jnp.asarray(codes @ frame.T + 0.01 * rng.standard_normal((2_000, 30)), jnp.float32))
    return Task(split, split, split, width=12, dictionary=jnp.asarray(frame, jnp.float32)), codes


def energy(codes, number):
    return (codes[:number] ** 2).sum(axis=0)


def test_the_atoms_of_most_energy_are_kept_in_their_order(task):
    task, codes = task
    (found,) = fit(Pruned(share=0.25, num_slots=12, base=Oracle()), [task], [jax.random.key(0)])
    order = np.argsort(-energy(codes, 1_500))
    np.testing.assert_allclose(found.end.model.decoder, task.dictionary[:, np.sort(order[:3])], atol=1e-6)
    state = PrunedState(task.dictionary, jnp.zeros(30), jnp.asarray(energy(codes, 1_500)))
    for share, number in ((0.5, 6), (0.3, 4), (0.01, 1), (1.0, 12)):
        kept = Pruned(share=share, base=Oracle()).model(state).decoder
        np.testing.assert_array_equal(kept, task.dictionary[:, np.sort(order[:number])])


def test_energy_is_that_of_the_samples_that_are_visited(task):
    """Three for each of 500, as the atoms are fewer; all there are, if they are fewer; less the bias, on unit atoms."""
    task, codes = task
    for visits, number in ((3, 1_500), (100, 2_000)):
        learner = Pruned(visits=visits, num_slots=12, base=Oracle())
        bias = jnp.linspace(-1, 1, 30)
        data = Split(task.train.signals + bias)
        base = Model(2 * task.dictionary, bias)
        state = jax.jit(lambda data, learner=learner, base=base: learner.init(data, num_latents=12, key=None, base=base))(data)
        # By codes that hardly shrink, but for the noise.
        np.testing.assert_allclose(state.energy, energy(codes, number), rtol=0.15)
        np.testing.assert_array_equal(learner.model(state).bias, bias)


def test_what_prunes_goes_by_the_name_of_its_base_and_needs_one():
    assert Pruned(base=Oracle()).name == "oracle_pruned"
    with pytest.raises(ValueError, match="needs a base"):
        Pruned()
    with pytest.raises(ValueError, match="share must"):
        Pruned(share=1.5, base=Oracle())
