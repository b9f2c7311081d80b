"""Settings refuse what has no data, each in one sentence that says why."""

import math
import pickle

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from pytest import mark, raises

from sae_gap import Setting, Split


@mark.parametrize(
    ("num_latents", "sparsity", "input_dim"),
    # Beside the formula, two cells of the paper's grid by hand: 20 ln 10 = 46.05 and 20 ln 100 =
    # 92.1.
    [(100, 10, 47), (1_000, 10, 93), (20, 3, 12), (2, 1, 2), (4, 1, 3)],
)
def test_input_dim_defaults_to_the_compressed_sensing_bound(
    num_latents, sparsity, input_dim
):
    assert Setting(num_latents, sparsity).input_dim == input_dim


@given(num_latents=st.integers(2, 400), sparsity=st.integers(1, 100))
def test_a_setting_is_feasible_or_refused(num_latents, sparsity):
    feasible = (
        num_latents - num_latents // 2 - 1 >= sparsity - 1 and sparsity < num_latents
    )
    try:
        setting = Setting(num_latents, sparsity)
    except ValueError:
        assert not feasible
        return
    assert feasible and setting.num_ood == num_latents // 2
    assert sparsity < setting.input_dim <= num_latents


@mark.parametrize(
    ("arguments", "words"),
    [
        ({"input_dim": 0}, "input_dim must be an integer of at least 1 and "),
        (
            {"num_samples": 3},
            "num_samples must be an integer of at least 4 and below 2**31, but",
        ),
        (
            {"seed": -1},
            "seed must be an integer of at least 0 and of at most 4294967295, but it",
        ),
        (
            {"num_latents": 10},
            "sparsity must be below num_latents, but it is 10 with 10 latents; ",
        ),
        (
            {"num_latents": 20, "sparsity": 11},
            "the ID pool has 9 latents, fewer than the sparsity",
        ),
        (
            {"input_dim": 101},
            "input_dim 101 is above num_latents 100, which leaves nothing in ",
        ),
        (
            {"noise_db": math.nan},
            "noise_db must be a finite number of at least -200 and of at ",
        ),
        ({"stream": 1}, "stream must be True or False, but it is 1."),
    ],
)
def test_bad_settings_are_refused_and_the_last_good_ones_are_not(arguments, words):
    with raises(ValueError) as error:
        Setting(**arguments)
    assert str(error.value).startswith(words) and str(error.value).endswith(".")
    # The ID pool is the smaller one for even widths: 100 - 50 - 1 = 49 latents.
    Setting(num_samples=4, input_dim=100, sparsity=50, seed=2**32 - 1, noise_db=-200.0)


def test_a_setting_is_a_value_and_only_a_stream_says_whether_it_is_one():
    setting = Setting(20, 3, 200, noise_db=10.0)
    assert hash(setting) == hash(Setting(20, 3, 200, 0, 12, 10.0))
    assert pickle.loads(pickle.dumps(setting)) == Setting(**setting.asdict()) == setting
    with raises(AttributeError):
        setting.seed = 1
    stream = Setting(20, 3, 200, stream=True)
    assert stream.asdict() == Setting(20, 3, 200).asdict() | {"stream": True}
    assert (stream.num_train, stream.num_scored) == (200, 100)
    assert Setting(20, 3, 10**6, stream=True).num_scored == 2_500


def test_labels_are_the_probe_target():
    codes = jnp.array([[0.5, 1.0], [np.nextafter(np.float32(0.5), 1), 0.0]])
    assert Split(jnp.zeros((2, 3)), codes).labels.tolist() == [False, True]
    assert Split(jnp.zeros((2, 3))).labels is None
