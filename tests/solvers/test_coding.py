"""What every solver of the lasso must do, a solver a column: `test_certificates` judges what they
claim of random problems.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from numpy import float32, full, nan, zeros
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import mark, raises
from sklearn.linear_model import Lasso

from benchmarks.speed.scores import score
from sae_gap.solvers import coding, fista, sparse_code

from .problems import SHAPE, SIGNS, draw
from .test_certificates import KINDS, certified
from .test_certificates import draw as draw_kind

N, M, LATENTS = SHAPE


def jitted(signals, dictionary, lam, init=None, **options):
    return jax.jit(functools.partial(sparse_code, **options))(
        signals, dictionary, lam, init=init
    )


# The compiled loops, a program that calls them back, and iterations.
WAYS = {
    "loops": sparse_code,
    "jit": jitted,
    "fista": functools.partial(sparse_code, solver="fista"),
}
EACH = mark.parametrize("code", WAYS.values(), ids=WAYS)


@EACH
@SIGNS
@mark.parametrize(("wide", "tol", "near"), [(False, 1e-6, 3e-5), (True, 1e-10, 1e-6)])
def test_the_optimum_is_that_of_scikit_learn(code, nonneg, wide, tol, near):
    # Double precision without its flag is single, and warns of nothing.
    signals, dictionary = map(np.float64, draw())
    with jax.enable_x64(wide):
        found = code(signals, dictionary, 0.1, nonneg=nonneg, tol=tol)
    peer = Lasso(
        alpha=0.1 / M, fit_intercept=False, positive=nonneg, tol=1e-14, max_iter=100_000
    )
    peer.fit(dictionary, signals.T)
    assert found.converged.all() and found.codes.dtype == (
        np.float64 if wide else float32
    )
    assert_allclose(found.codes, peer.coef_, atol=near)


# Of each kind, and of one atom, one signal and more dimensions than atoms.
CASES = [(kind, SHAPE) for kind in KINDS]
CASES += [
    ("gaussian", shape) for shape in ((1, 1, 1), (1, 16, 40), (24, 16, 1), (8, 40, 16))
]


@EACH
@mark.parametrize(("kind", "shape"), CASES)
def test_problems_of_each_kind_are_certified(code, kind, shape):
    certified(draw_kind(1, kind=kind, shape=shape), code=code, max_iterations=20_000)


@EACH
@SIGNS
@mark.parametrize("length", [1, 2.0**-66])
def test_scales_change_no_bit(code, nonneg, length):
    """Signals and atoms times powers of two have codes times powers of two."""
    signals, dictionary = draw(1)
    sizes = np.exp2(np.linspace(-40, 40, N).round())[:, None]
    given = signals * sizes, dictionary * length, 0.1 * sizes * length
    code = functools.partial(code, nonneg=nonneg, max_iterations=50)
    plain = code(signals, dictionary, full(N, 0.1))
    moved = code(*map(float32, given))
    assert_array_equal(moved.codes / sizes * length, plain.codes)
    assert_array_equal(moved.converged, plain.converged)
    assert_array_equal(moved.objective / sizes[:, 0] ** 2, plain.objective)


@EACH
def test_a_sample_changes_no_other(code):
    """By hand, on orthogonal atoms, z = max(y − λ, 0), beside samples of next to nothing, with
    weights of none and beyond all.
    """
    signals = np.array([[1, 0.5], [1e-25, 0], [0, 0], [1, 1]], float32)
    lam = np.array([0.25, 0.25, 0, 1e38], float32)
    found = code(signals, np.eye(2, dtype=float32), lam)
    assert_allclose(found.codes, [[0.75, 0.25], [0, 0], [0, 0], [0, 0]], rtol=1e-6)
    assert_allclose(found.objective, [0.3125, 0, 0, 1], rtol=1e-6)
    assert found.converged.all()


@EACH
@mark.parametrize(("signal", "atom"), [(1e15, 1e-30), (1e-15, 1e30)])
def test_codes_that_overflow_or_vanish_are_not_called_converged(code, signal, atom):
    signals, dictionary = draw()
    given = signals * signal, dictionary * atom, 0.1 * signal * atom
    found = code(*map(float32, given))
    assert not found.converged.any() and np.isfinite(found.objective).all()
    assert not np.isnan(found.codes).any()


@EACH
def test_warm_equals_cold(code):
    signals, dictionary = draw(6)
    plain = code(signals, dictionary, 0.1)
    warm = code(signals, dictionary, 0.1, init=plain.codes)
    assert np.sum(warm.iterations) < np.sum(plain.iterations)
    far = default_rng(0).uniform(size=(N, LATENTS)).astype(float32)
    for found in (warm, code(signals, dictionary, 0.1, init=far)):
        assert_allclose(found.codes, plain.codes, atol=1e-4)


@EACH
@mark.parametrize("most", [0, 1])
def test_what_gives_up_says_so_and_has_the_gap_that_it_claims(code, most):
    signals, dictionary = draw(10)
    init = full((N, 1), 0.1, float32) * np.eye(1, LATENTS, dtype=float32)
    found = code(signals, dictionary, 0.1, max_iterations=most, init=init)
    value, gap = score(signals, dictionary, found.codes, 0.1)
    assert_allclose(found.objective, value, rtol=1e-5)
    assert_allclose(found.gap, gap, rtol=1e-3)
    assert not found.converged.any()
    assert {*found.iterations.tolist()} <= {1, most * fista.CHECK_EVERY}


OPTIONS = [{"solver": "auto"}, {"solver": "fista"}, {"tol": None, "max_iterations": 30}]


@SIGNS
@mark.parametrize("options", OPTIONS)
def test_sparse_codes_and_chunks_change_no_bit(options, nonneg, monkeypatch):
    signals, dictionary = draw()
    code = functools.partial(
        sparse_code, signals, dictionary, 0.1, nonneg=nonneg, **options
    )
    dense = code()
    jax.clear_caches()
    # Iterations take three samples at once, and sparse codes come in three parts.
    monkeypatch.setattr(coding, "ROOM", 11 * LATENTS)
    monkeypatch.setattr(coding, "ARRAYS", 3)
    sparse = code(sparse=True)
    jax.clear_caches()
    assert (
        isinstance(sparse.codes, scipy.sparse.csr_array)
        and sparse.codes.has_canonical_format
    )
    assert sparse.codes.nnz == np.count_nonzero(dense.codes)
    assert_array_equal(sparse.codes.toarray(), dense.codes)
    for name in ("objective", "gap", "iterations", "converged"):
        assert_array_equal(getattr(sparse, name), getattr(dense, name))


def test_iterations_take_the_memory_of_a_chunk(monkeypatch):
    def memory(count):
        shapes = (count, M), (M, LATENTS)
        given = (jax.ShapeDtypeStruct(shape, float32) for shape in shapes)
        code = jax.jit(functools.partial(sparse_code, lam=0.1, solver="fista"))
        return code.lower(*given).compile().memory_analysis().temp_size_in_bytes

    monkeypatch.setattr(coding, "ROOM", 50 * coding.ARRAYS * LATENTS)
    most = 4 * coding.ROOM
    # Beside the chunk it copies signals and codes.
    assert memory(5_000) < most + 4 * 5_000 * 3 * (M + LATENTS)


@EACH
def test_bits_are_the_same_under_jit_and_one_by_one_codes_nearly(code):
    signals, dictionary = map(jnp.asarray, draw(8))
    whole = code(signals, dictionary, 0.1)
    traced = jax.jit(lambda y: code(y, dictionary, 0.1))(signals)
    same = assert_array_equal if code is sparse_code else assert_allclose
    same(traced.codes, whole.codes, **({} if code is sparse_code else {"atol": 1e-5}))
    single = jax.vmap(lambda y: code(y[None], dictionary, 0.1).codes[0])
    assert_allclose(single(signals[:3]), whole.codes[:3], atol=1e-4)


@mark.parametrize("solver", ["auto", "fista"])
def test_values_that_make_no_lasso_are_never_called_converged(solver):
    """Under `jit` nobody has checked them; they spoil no other sample, nor its gradients."""
    signals, dictionary = draw(11)
    sound = np.arange(N) != 3
    lam = full(N, 0.1)
    support = np.ones((N, LATENTS))

    def loss(signals, dictionary, lam):
        found = sparse_code(signals, dictionary, lam, solver=solver, support=support)
        return jnp.where(sound, found.objective, 0).sum(), found

    code = jax.jit(jax.value_and_grad(loss, argnums=(1, 2), has_aux=True))
    (value, _), slopes = code(signals, dictionary, lam)
    for i, bad in ((0, nan), (2, nan), (2, -0.5)):
        given = [signals.copy(), dictionary, lam.copy()]
        given[i][3] = bad
        (other, found), spoilt = code(*given)
        for each in (found.codes.sum(axis=1), found.objective, found.gap):
            assert (np.isfinite(each) == sound).all()
        assert (found.converged == sound).all() and other == value
        for one, expected in zip(spoilt, slopes, strict=True):
            assert_allclose(one, expected, rtol=1e-4, atol=1e-6)
    # Nor is an objective that overflows, or any on a broken atom.
    broken = np.where(np.arange(LATENTS), dictionary, nan)
    for given in ((signals, broken, lam), (1e30 * signals, dictionary, 1e29 + lam)):
        assert not code(*given)[0][1].converged.any()


@mark.parametrize(
    ("name", "value", "message"),
    [
        ("signals", zeros((N, M + 1)), "disagree on input_dim"),
        ("signals", zeros((N, M), int), "floating point"),
        ("signals", zeros((0, M)), "empty"),
        ("signals", full((N, M), 1e-25), "multiply them, and any lam"),
        ("signals", full((N, M), 1e25), "multiply them, and any lam"),
        ("dictionary", full((M, LATENTS), np.inf), "non-finite"),
        ("lam", -0.1, "negative"),
        ("lam", zeros(LATENTS), "one number, or one for each sample"),
        ("tol", 0.0, "tol"),
        ("max_iterations", -1, "max_iterations"),
        ("solver", "lars", "solver must be one of auto, fista, ista"),
        ("init", zeros((N, 3)), "init has shape"),
        ("init", -np.ones((N, LATENTS)), "negative code"),
        ("sparse", 1, "sparse must be True or False"),
        (
            "support",
            np.ones((N, 3)),
            r"support must be .* \(24, 40\).* has shape \(24, 3\)",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(name, value, message):
    given = dict(zip(("signals", "dictionary"), draw(), strict=True)) | {
        "lam": 0.1,
        name: value,
    }
    with raises(ValueError, match=message) as error:
        sparse_code(**given)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    with raises(ValueError, match=r"^sparse codes .*; leave sparse out"):
        jax.jit(lambda y: sparse_code(y, draw()[1], 0.1, sparse=True).objective)(
            draw()[0]
        )
