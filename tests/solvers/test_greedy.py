import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import orthogonal_mp

from sae_gap.solvers import matching_pursuit, orthogonal_matching_pursuit

from .problems import draw


def _greedy(signal, atoms, steps, nonneg):
    rest, code, free = signal.astype(float), np.zeros(atoms.shape[1]), np.ones(atoms.shape[1], bool)
    for _ in range(steps):
        pull = rest @ atoms
        j = np.argmax(np.where(free, pull if nonneg else np.abs(pull), -np.inf))
        free[j] = False
        code[j] = max(pull[j], 0) if nonneg else pull[j]
        rest = rest - code[j] * atoms[:, j]
    return code


@pytest.mark.parametrize("nonneg", [True, False])
def test_follows_the_greedy_rule_on_unit_atoms(nonneg):
    signals, dictionary = draw()
    codes = matching_pursuit(jnp.asarray(signals), jnp.asarray(3 * dictionary), 6, nonneg=nonneg)
    for signal, code in zip(signals, np.asarray(codes), strict=True):
        np.testing.assert_allclose(code, _greedy(signal, dictionary.astype(float), 6, nonneg), atol=1e-5)


def test_residual_falls_with_every_step():
    signals, dictionary = draw(1)
    norms = [
        np.linalg.norm(
            signals - np.asarray(matching_pursuit(jnp.asarray(signals), jnp.asarray(dictionary), k)) @ dictionary.T, axis=1
        )
        for k in (1, 2, 5)
    ]
    assert np.all(norms[0] >= norms[1] - 1e-6) and np.all(norms[1] >= norms[2] - 1e-6)


@pytest.mark.parametrize("steps", [1, 4])
def test_orthogonal_form_equals_scikit_learn(steps):
    signals, dictionary = draw(2)
    codes = orthogonal_matching_pursuit(jnp.asarray(signals), jnp.asarray(dictionary), steps)
    want = orthogonal_mp(dictionary.astype(float), signals.T.astype(float), n_nonzero_coefs=steps).T
    np.testing.assert_allclose(codes, want, atol=1e-4)


def test_dependent_and_zero_atoms():
    signals, dictionary = draw(3)
    dictionary[:, 1::2] = dictionary[:, ::2]
    dictionary[:, -3:] = 0
    codes = orthogonal_matching_pursuit(jnp.asarray(signals), jnp.asarray(dictionary), 8)
    assert bool(jnp.all(jnp.isfinite(codes))) and not np.any(codes[:, -3:])
    assert np.all(np.isfinite(matching_pursuit(jnp.asarray(signals), jnp.asarray(dictionary), 40)))


def test_differentiable_in_signal_and_dictionary():
    signals, dictionary = (jnp.asarray(a) for a in draw(4))

    def loss(y, d):
        return jnp.sum((y - matching_pursuit(y, d, 3) @ d.T) ** 2)

    grads = jax.grad(loss, (0, 1))(signals, dictionary)
    assert all(bool(jnp.all(jnp.isfinite(g))) and float(jnp.max(jnp.abs(g))) > 0 for g in grads)


@pytest.mark.parametrize("count", [0, 41, 2.0, True])
def test_bad_counts_are_refused(count):
    signals, dictionary = (jnp.asarray(a) for a in draw())
    with pytest.raises(ValueError, match="num_atoms"):
        matching_pursuit(signals, dictionary, count)
    with pytest.raises(ValueError, match="num_atoms"):
        orthogonal_matching_pursuit(signals, dictionary, count)
    with pytest.raises(ValueError, match="above input_dim"):
        orthogonal_matching_pursuit(signals, dictionary, 17)
