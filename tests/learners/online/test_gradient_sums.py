"""What the learners share: the threshold, and how many samples are coded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.encoders.encoder import unit_atoms
from sae_gap.learners.online import gradient_sums


def test_the_threshold_is_the_larger_of_noise_and_floor():
    assert float(gradient_sums.threshold(0.1, 0.5, 4.0, 0.18)) == pytest.approx(0.4)
    assert float(gradient_sums.threshold(0.0, 0.5, 4.0, 0.18)) == pytest.approx(0.09)
    assert 0 < float(gradient_sums.threshold(0.0, 0.0, 4.0, 0.18)) < 1e-15


@pytest.mark.parametrize(
    ("visits", "num_samples", "num_latents", "number"),
    [(3, 10_000, 1_000, 3_000), (3, 10_000, 20, 1_500), (3, 700, 20, 700), (1e-6, 700, 20, 1)],
)
def test_visits_are_per_latent_or_per_each_of_500(visits, num_samples, num_latents, number):
    assert gradient_sums.num_visited(visits, num_samples, num_latents) == number


def test_seeds_side_by_side_have_the_sums_of_each():
    draws = np.random.default_rng(0)
    dictionary, _ = unit_atoms(jnp.asarray(draws.standard_normal((16, 40)), jnp.float32))
    pools = jnp.asarray(draws.standard_normal((2, 30, 16)), jnp.float32)

    def gradient(pool):
        return gradient_sums.accumulate(pool, dictionary, jnp.float32(0.5), jnp.float32(0.05), num_slots=8)[0].gradient

    beside = jax.vmap(gradient)(pools)
    assert float(jnp.abs(beside).max()) > 1
    np.testing.assert_allclose(beside, jnp.stack([gradient(pool) for pool in pools]), atol=1e-6)
