import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.core import lasso_problem
from sae_gap.solvers import slots, sparse_code, working_set

from .problems import draw, score

SHAPE = (24, 40, 80)


@pytest.fixture
def few_slots(monkeypatch):
    """Batches of seven, on so few slots at first that some samples need more."""
    monkeypatch.setattr(working_set, "batch_size", lambda *shape: 7)
    monkeypatch.setattr(working_set, "SLOTS", 16)
    monkeypatch.setattr(working_set, "MOST_CANDIDATES", 8)


@pytest.mark.parametrize(
    ("input_dim", "num_latents"), [(1, 1), (11, 12), (93, 1000), (461, 1000), (231, 10**6), (50, 4)]
)
def test_default_slots_hold_the_supports_of_compressed_sensing(input_dim, num_latents):
    width = working_set.default_slots(input_dim, num_latents)
    assert width % slots.LANES == 0 and width >= 2 * slots.LANES
    support = next(
        (k for k in range(1, num_latents) if 2 * k * np.log(num_latents / k) >= input_dim), 1
    )
    assert width >= 2 * min(support, input_dim)


@pytest.mark.parametrize(
    ("way", "shape", "nonneg", "begun"),
    [
        (lambda code: code, (1, 1), True, False),
        (lambda code: code, (24, 80), False, True),
        (jax.jit, (24, 80), True, False),
        (jax.jit, (1, 80), False, True),
    ],
)
def test_supports_of_any_size_are_certified_apart_and_in_one_program(
    few_slots, way, shape, nonneg, begun
):
    """Sparse signals, and dense ones whose supports outgrow the first slots; from zero, and from
    codes of which some are right.
    """
    sparse, dictionary = draw(0, SHAPE, sparsity=5)
    rng = np.random.default_rng(0)
    signals = np.where(np.arange(24)[:, None] % 3, sparse, rng.normal(size=sparse.shape))
    signals, lam = signals.astype(np.float32), rng.uniform(0.01, 0.04, shape).astype(np.float32)
    init = rng.uniform(size=(24, 80)) * (rng.uniform(size=(24, 80)) < 0.3)
    init = init.astype(np.float32) if begun else None

    def code(signals):
        options = {"nonneg": nonneg, "solver": "working_set_xla", "init": init}
        return sparse_code(signals, dictionary, lam, **options)

    solution = way(code)(signals)
    assert bool(jnp.all(solution.converged))
    value, gap = score(signals, dictionary, solution.codes, lam, nonneg=nonneg)
    np.testing.assert_allclose(solution.objective, value, rtol=1e-5)
    assert np.all(gap <= 1e-4 * value) and np.all(solution.gap <= 1e-6 * solution.objective)
    sizes = np.sum(np.asarray(solution.codes) != 0, axis=1)
    assert sizes.min() < 16 and sizes.max() > 24


def test_products_of_fewer_bits_claim_nothing_that_is_false(few_slots, monkeypatch):
    """Factors rounded to 7 bits, as by bfloat16, in every product of programs of a shape that no
    other test has.
    """
    bits = 7

    def rounded(array):
        mantissa, exponent = jnp.frexp(array)
        return jnp.ldexp(jnp.round(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent)

    def product(left, right):
        return jnp.matmul(rounded(left), rounded(right))

    signals, dictionary = draw(0, (24, 40 + bits, 80 + bits), sparsity=5)
    best = sparse_code(signals, dictionary, 0.05, tol=1e-10).objective
    einsum = jnp.einsum
    monkeypatch.setattr(lasso_problem, "product", product)
    monkeypatch.setattr(jnp, "einsum", lambda form, *a, **_: einsum(form, *map(rounded, a)))
    solution = sparse_code(signals, dictionary, 0.05, solver="working_set_xla")
    value, _ = score(signals, dictionary, solution.codes, 0.05)
    np.testing.assert_allclose(solution.objective, value, rtol=1e-6)
    assert np.all(solution.objective - solution.gap <= best * (1 + 1e-6))
    assert np.all((value - best <= 2e-6 * value)[solution.converged])
