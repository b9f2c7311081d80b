"""Settings refuse what has no data, each in one sentence that says why."""

import math
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_gap import Setting, Split


@pytest.mark.parametrize(
    ("num_latents", "sparsity", "input_dim"),
    # Beside the formula, two cells of the paper's grid by hand: 20 ln 10 = 46.05 and 20 ln 100 =
    # 92.1.
    [(100, 10, 47), (1_000, 10, 93), (50, 10, 33), (20, 3, 12), (2, 1, 2), (4, 1, 3)],
)
def test_input_dim_defaults_to_the_compressed_sensing_bound(num_latents, sparsity, input_dim):
    assert Setting(num_latents, sparsity).input_dim == input_dim


@given(num_latents=st.integers(2, 400), sparsity=st.integers(1, 100))
def test_a_setting_is_feasible_or_refused(num_latents, sparsity):
    try:
        setting = Setting(num_latents, sparsity)
    except ValueError:
        assert sparsity >= num_latents or num_latents - num_latents // 2 - 1 < sparsity - 1
        return
    assert sparsity < setting.input_dim <= num_latents
    assert setting.num_ood == num_latents // 2
    assert min(setting.num_ood, num_latents - setting.num_ood - 1) >= sparsity - 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({name: 0}, f"{name} must be an integer of at least 1 and ") for name in ("num_latents", "sparsity", "input_dim")),
        ({"num_samples": True}, "num_samples must be an integer of at least 4 and below 2**31, but it is True"),
        ({"seed": -1}, "seed must be an integer of at least 0 and of at most 4294967295, but it is -1."),
        ({"num_latents": 10}, "sparsity must be below num_latents, but it is 10 with 10 latents; "),
        ({"num_latents": 10, "sparsity": 11}, "sparsity must be below num_latents, but it is 11 with 10 latents; "),
        ({"num_samples": 3}, "num_samples must be an integer of at least 4 and below 2**31, but it is 3."),
        ({"num_latents": 20, "sparsity": 11}, "the ID pool has 9 latents, fewer than the sparsity - 1 = 10 "),
        ({"input_dim": 101}, "input_dim 101 is above num_latents 100, which leaves nothing in superposition; "),
        *(({"noise_db": value}, f"noise_db must be a finite number of at least -200 and of at most 200, but it is {value!r}.")
          for value in (math.nan, math.inf, -math.inf, "20")),
        ({"noise_db": -800}, "noise_db must be a finite number of at least -200 and of at most 200, but it is -800."),
        *(({"stream": value}, f"stream must be True or False, but it is {value!r}.") for value in (1, None, "yes")),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(ValueError) as error:
        Setting(**arguments)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


@pytest.mark.parametrize(
    "accepted", [{"num_samples": 4}, {"input_dim": 100}, {"input_dim": 1}, {"seed": 2**32 - 1}]
)
def test_the_last_value_before_a_limit_is_accepted(accepted):
    Setting(**accepted)
    # The ID pool is the smaller one for even widths: 100 - 50 - 1 = 49 latents.
    Setting(sparsity=50, input_dim=60)


def test_a_setting_is_a_value():
    setting = Setting(20, 3, 200, noise_db=10.0)
    assert (
        hash(setting) == hash(Setting(20, 3, 200, 0, 12, 10.0))
        and pickle.loads(pickle.dumps(setting)) == setting
    )
    assert Setting(**setting.asdict()) == setting
    with pytest.raises(AttributeError):
        setting.seed = 1


def test_only_a_stream_says_whether_it_is_one():
    stream = Setting(20, 3, 200, stream=True)
    assert (
        stream.asdict() == Setting(20, 3, 200).asdict() | {"stream": True}
        and Setting(**stream.asdict()) == stream
    )
    assert (stream.num_train, stream.num_scored) == (200, 100)
    assert Setting(20, 3, 10**6, stream=True).num_scored == 2_500


def test_labels_are_the_probe_target():
    codes = jnp.array([[0.4, 1.0], [0.5, 1.0], [np.nextafter(np.float32(0.5), 1), 0.0], [0.9, 0.0]])
    assert Split(jnp.zeros((4, 3)), codes).labels.tolist() == [False, False, True, True]
    assert Split(jnp.zeros((4, 3))).labels is None
