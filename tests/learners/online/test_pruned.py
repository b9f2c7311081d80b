"""A dictionary cut to the atoms that carry the most energy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core import Model, Split
from sae_gap.learners import Oracle, Pruned

FRAME = np.linalg.qr(np.random.default_rng(0).standard_normal((30, 12)))[0].astype(np.float32)


@pytest.mark.parametrize(("share", "number"), [(0.5, 6), (0.3, 4), (0.01, 1), (1.0, 12)])
def test_the_atoms_of_most_energy_are_kept_in_their_order(share, number):
    energy = jnp.array([5.0, 1, 9, 2, 8, 3, 12, 4, 11, 6, 10, 7])
    kept = Pruned(share=share, base=Oracle()).model((FRAME, jnp.zeros(30), energy)).decoder
    np.testing.assert_array_equal(kept, FRAME[:, energy > 12 - number])


def test_energy_is_that_of_three_samples_for_each_of_500_latents():
    """Less the bias, on unit atoms, by codes that hardly shrink: the first 1,500 samples do not use
    all atoms.
    """
    rng = np.random.default_rng(0)
    codes = (rng.random((2_000, 12)) < 0.2) * rng.uniform(0.9, 1.1, (2_000, 12))
    codes[:1_500, :3] = 0
    bias = jnp.linspace(-1, 1, 30)
    noise = 0.01 * rng.standard_normal((2_000, 30))
    data = Split(jnp.asarray(codes @ FRAME.T + noise, jnp.float32) + bias)
    learner, base = Pruned(num_slots=12, base=Oracle()), Model(2 * jnp.asarray(FRAME), bias)
    state = jax.jit(lambda data: learner.init(data, num_latents=12, key=None, base=base))(data)
    np.testing.assert_allclose(state[2], (codes[:1_500] ** 2).sum(axis=0), rtol=0.1)
    np.testing.assert_array_equal(learner.model(state).bias, bias)
