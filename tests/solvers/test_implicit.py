import jax
import jax.numpy as jnp
import numpy as np
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose
from pytest import approx, fixture, mark

from sae_gap.solvers import sparse_code

SHAPE = (5, 12, 30)


@fixture
def x64():
    # For all threads: a program may call back on one of XLA's, which knows of no context.
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@mark.parametrize(
    ("nonneg", "shape", "share"), [(True, (), 1), (False, (5, 1), 1), (True, (5,), 0.5)]
)
def test_gradients_equal_finite_differences(x64, nonneg, shape, share):
    rng = default_rng(0)
    n, m, latents = SHAPE
    dictionary = rng.normal(size=(m, latents))
    dictionary /= norm(dictionary, axis=0)
    point = (rng.normal(size=(n, m)), dictionary, rng.uniform(0.1, 0.3, size=shape))
    weights = rng.normal(size=(n, latents))
    support = rng.uniform(size=(n, latents)) < share if share < 1 else None

    def loss(signals, dictionary, lam):
        solution = sparse_code(
            signals, dictionary, lam, tol=1e-12, nonneg=nonneg, support=support
        )
        return jnp.sum(weights * solution.codes) + jnp.sum(solution.objective**2)

    grads = jax.grad(loss, (0, 1, 2))(*point)
    for _ in range(3):
        ways = [rng.normal(size=np.shape(a)) for a in point]
        ahead, behind = (
            loss(*(a + e * w for a, w in zip(point, ways, strict=True)))
            for e in (1e-6, -1e-6)
        )
        along = sum(float(jnp.sum(g * w)) for g, w in zip(grads, ways, strict=True))
        assert along == approx(float(ahead - behind) / 2e-6, rel=1e-5, abs=1e-5)


def test_gradient_inside_jit_and_vmap(x64):
    rng = default_rng(1)
    signals = rng.normal(size=(4, 8))
    dictionary = rng.normal(size=(8, 16))

    def loss(y):
        return jnp.sum(
            sparse_code(jnp.atleast_2d(y), dictionary, 0.2, tol=1e-10).codes ** 2
        )

    each = jax.jit(jax.vmap(jax.grad(loss)))(signals)
    assert_allclose(each, jax.grad(loss)(signals), atol=1e-7)
