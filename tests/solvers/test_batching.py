import jax.numpy as jnp
import pytest

from sae_gap.solvers.batching import by_groups


@pytest.mark.parametrize("group", [1, 3, 7])
def test_every_sample_gets_the_steps_it_needs_and_no_more(group):
    wanted = jnp.asarray([0, 3, 1, 0, 5, 2, 1])
    state = (wanted, jnp.zeros(7, jnp.int32))
    left, steps = by_groups(state, lambda s: s[0] > 0, group, lambda s: (s[0] - (s[0] > 0), s[1] + (s[0] > 0)))
    assert left.tolist() == [0] * 7
    assert steps.tolist() == wanted.tolist()


def test_filling_a_batch_does_not_touch_the_sample_it_is_filled_with():
    state = (jnp.asarray([0, 1, 0]), jnp.asarray([10, 20, 30]))
    _, values = by_groups(state, lambda s: s[0] > 0, 3, lambda s: (s[0] * 0, s[1] + 1))
    assert values.tolist() == [10, 21, 30]
