import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import orthogonal_mp

from sae_gap.core.types import Model
from sae_gap.encoders.pursuit import OMP, NonNegativePursuit
from sae_gap.solvers import nonneg_matching_pursuit, orthogonal_matching_pursuit, pursuit_order

from .problems import draw


def test_a_negative_correlation_has_a_code_of_zero():
    signals = jnp.asarray([[2.0, -1.0], [-3.0, -4.0]])
    np.testing.assert_array_equal(nonneg_matching_pursuit(signals, 4 * jnp.eye(2), 2), [[2, 0], [0, 0]])
    np.testing.assert_array_equal(NonNegativePursuit(2)(Model(4 * jnp.eye(2), jnp.zeros(2)), signals), [[0.5, 0], [0, 0]])


def _greedy(signal, atoms, steps):
    rest, code, free = signal.astype(float), np.zeros(atoms.shape[1]), np.ones(atoms.shape[1], bool)
    for _ in range(steps):
        pull = rest @ atoms
        j = np.argmax(np.where(free, pull, -np.inf))
        free[j] = False
        code[j] = max(pull[j], 0)
        rest = rest - code[j] * atoms[:, j]
    return code


def test_follows_the_greedy_rule_on_unit_atoms():
    signals, dictionary = draw()
    codes = nonneg_matching_pursuit(jnp.asarray(signals), jnp.asarray(3 * dictionary), 6)
    for signal, code in zip(signals, np.asarray(codes), strict=True):
        np.testing.assert_allclose(code, _greedy(signal, dictionary.astype(float), 6), atol=1e-5)


@pytest.mark.parametrize("steps", [1, 4])
def test_orthogonal_form_equals_scikit_learn(steps):
    signals, dictionary = draw(2)
    codes = orthogonal_matching_pursuit(jnp.asarray(signals), jnp.asarray(dictionary), steps)
    want = orthogonal_mp(dictionary.astype(float), signals.T.astype(float), n_nonzero_coefs=steps).T
    np.testing.assert_allclose(codes, want, atol=1e-4)


@pytest.mark.parametrize("nonneg", [False, True])
def test_the_order_of_a_pursuit_begins_with_those_of_all_shorter_ones(nonneg):
    signals, dictionary = (jnp.asarray(a) for a in draw(2))
    # Sparse ones alone would leave nothing to choose by.
    signals = signals + jnp.asarray(np.random.default_rng(0).normal(size=signals.shape), signals.dtype)
    order = np.asarray(pursuit_order(signals, 3 * dictionary, 6, nonneg=nonneg))
    for steps in (1, 4, 6):
        codes = np.asarray(orthogonal_matching_pursuit(signals, dictionary, steps, nonneg=nonneg))
        assert [{*row[:steps]} for row in order] == [{*np.flatnonzero(code)} for code in codes]


def test_the_non_negative_form_takes_the_largest_correlation_and_clips():
    signals, dictionary = draw(2)
    found = OMP(3, nonneg=True)(Model(jnp.asarray(dictionary), jnp.zeros(len(dictionary))), jnp.asarray(signals))
    for signal, code in zip(signals.astype(float), np.asarray(found), strict=True):
        chosen, rest = [], signal
        for _ in range(3):
            pull = rest @ dictionary
            pull[chosen] = -np.inf
            chosen.append(int(np.argmax(pull)))
            values = np.linalg.lstsq(dictionary[:, chosen].astype(float), signal, rcond=None)[0]
            rest = signal - dictionary[:, chosen] @ values
        want = np.zeros(dictionary.shape[1])
        want[chosen] = values.clip(0)
        np.testing.assert_allclose(code, want, atol=1e-4)


def test_dependent_and_zero_atoms():
    signals, dictionary = draw(3)
    dictionary[:, 1::2] = dictionary[:, ::2]
    dictionary[:, -3:] = 0
    codes = orthogonal_matching_pursuit(jnp.asarray(signals), jnp.asarray(dictionary), 8)
    assert bool(jnp.all(jnp.isfinite(codes))) and not np.any(codes[:, -3:])
    assert np.all(np.isfinite(nonneg_matching_pursuit(jnp.asarray(signals), jnp.asarray(dictionary), 40)))


@pytest.mark.parametrize("count", [0, 41, 2.0, True])
def test_bad_counts_are_refused(count):
    signals, dictionary = (jnp.asarray(a) for a in draw())
    with pytest.raises(ValueError, match="num_atoms"):
        nonneg_matching_pursuit(signals, dictionary, count)
    with pytest.raises(ValueError, match="num_atoms"):
        orthogonal_matching_pursuit(signals, dictionary, count)
    with pytest.raises(ValueError, match="above input_dim"):
        orthogonal_matching_pursuit(signals, dictionary, 17)
