"""What the learners share: the threshold, and how many samples are coded."""

import pytest

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
