"""What does not need the other library: what z-scores say of two laws, and one sentence where it is not there."""

import numpy as np
import pytest

from benchmarks.checks import peer_worlds


def draw(rate, size, seed):
    rng = np.random.default_rng(seed)
    return np.where(rng.random((4_000, 60)) < rate, size * rng.uniform(0.5, 1.5, (4_000, 60)), 0)


def test_scores_of_one_law_have_the_spread_of_chance():
    found = peer_worlds.spreads(draw(0.1, 1, 0), draw(0.1, 1, 1), np.arange(20))
    assert set(found) == {"rates", "pairs of roots", "second moments"}
    # Of 60 features, and of 190 pairs that share them.
    for value in found.values():
        assert value == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize(("rate", "size", "wrong"), [(0.13, 1, "rates"), (0.1, 1.2, "second moments")])
def test_another_law_is_seen_in_what_it_changes(rate, size, wrong):
    part = np.arange(60) < 20
    other = np.where(part, draw(rate, size, 1), draw(0.1, 1, 2))
    found = peer_worlds.spreads(draw(0.1, 1, 0), other, np.arange(20))
    assert found[wrong] > 1.5
    # Louder features fire no more often.
    assert (found["rates"] > 1.5) == (wrong == "rates")


def test_features_that_hardly_fire_are_left_out():
    rare = np.zeros((4_000, 60))
    rare[:29, 0] = 1
    found = peer_worlds.spreads(
        np.where(np.arange(60) == 0, rare, draw(0.1, 1, 0)), draw(0.1, 1, 1) * (np.arange(60) > 0), [1, 2]
    )
    assert found["rates"] < 1.5
