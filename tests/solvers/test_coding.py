"""What every solver of the lasso must do, a solver a column: `test_certificates` judges what they
claim of random problems.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import Lasso

from benchmarks.speed.scores import score
from sae_gap.solvers import coding, fista, sparse_code

from .problems import SHAPE, draw
from .test_certificates import KINDS, judge, solve
from .test_certificates import draw as draw_kind

N, M, LATENTS = SHAPE


def jitted(signals, dictionary, lam, init=None, **options):
    return jax.jit(functools.partial(sparse_code, **options))(signals, dictionary, lam, init=init)


# The compiled loops, a program that calls them back, and iterations.
WAYS = {
    "loops": sparse_code,
    "jit": jitted,
    "fista": functools.partial(sparse_code, solver="fista"),
}
EACH = pytest.mark.parametrize("code", WAYS.values(), ids=WAYS)
SIGNS = pytest.mark.parametrize("nonneg", [True, False])


@EACH
@SIGNS
def test_the_optimum_is_that_of_scikit_learn(code, nonneg):
    signals, dictionary = draw()
    found = code(signals, dictionary, 0.1, nonneg=nonneg)
    peer = Lasso(alpha=0.1 / M, fit_intercept=False, positive=nonneg, tol=1e-12, max_iter=100_000)
    peer.fit(dictionary.astype(float), signals.T.astype(float))
    assert found.converged.all()
    np.testing.assert_allclose(found.codes, peer.coef_, atol=3e-5)


# Of each kind, and of one atom, one signal and more dimensions than atoms.
CASES = [(kind, SHAPE) for kind in KINDS]
CASES += [("gaussian", shape) for shape in ((1, 1, 1), (1, 16, 40), (24, 16, 1), (8, 40, 16))]


@EACH
@pytest.mark.parametrize(("kind", "shape"), CASES)
def test_problems_of_each_kind_are_certified(code, kind, shape):
    batch = draw_kind(1, kind=kind, shape=shape)
    good, faults = judge(batch, solve(batch, code, max_iterations=20_000))
    assert not faults and good.all()


@EACH
@SIGNS
def test_scales_change_no_bit(code, nonneg):
    """Signals and atoms times powers of two have codes times powers of two."""
    signals, dictionary = draw(1)
    sizes = np.exp2(np.linspace(-40, 40, N).round())[:, None]
    lengths = np.exp2(np.linspace(-40, 40, LATENTS).round())
    code = functools.partial(code, nonneg=nonneg)
    # Between atoms of any length a weight of none is the same for all.
    for norms, lam in ((np.ones(LATENTS), 0.1), (np.full(LATENTS, 2.0**-66), 0.1), (lengths, 0.0)):
        plain = code(signals, dictionary, np.full(N, lam), max_iterations=50)
        weights = (lam * sizes * norms[0])[:, 0]
        moved = code(
            *map(np.float32, (signals * sizes, dictionary * norms, weights)), max_iterations=50
        )
        np.testing.assert_array_equal(moved.codes / sizes * norms, plain.codes)
        np.testing.assert_array_equal(moved.converged, plain.converged)
        # Without a weight they are as good as zero, and vanish.
        value = np.where(lam, moved.objective / sizes[:, 0] ** 2, plain.objective)
        np.testing.assert_array_equal(value, plain.objective)
        assert plain.codes.any()


@EACH
def test_weights_beside_atoms_of_any_norm_are_right(code):
    """By hand: the large atom fits its dimension for nothing, the small one costs more than it
    fits.
    """
    dictionary = np.diag([1e12, 1e-12]).astype(np.float32)
    found = code(np.ones((1, 2), np.float32), dictionary, 1e-6)
    np.testing.assert_allclose(found.codes, [[1e-12, 0]], rtol=1e-5)
    np.testing.assert_allclose(found.objective, 0.5, rtol=1e-6)
    assert found.converged.all() and np.all(found.gap <= 1e-6)


@EACH
def test_a_sample_changes_no_other(code):
    """By hand, on orthogonal atoms, z = max(y − λ, 0), beside samples of next to nothing, with
    weights of none and beyond all.
    """
    signals = np.array([[1, 0.5], [1e-25, 0], [0, 0], [1, 1]], np.float32)
    lam = np.array([0.25, 0.25, 0, 1e38], np.float32)
    found = code(signals, np.eye(2, dtype=np.float32), lam)
    np.testing.assert_allclose(found.codes, [[0.75, 0.25], [0, 0], [0, 0], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(found.objective, [0.3125, 0, 0, 1], rtol=1e-6)
    assert found.converged.all()


@EACH
@pytest.mark.parametrize(("signal", "atom"), [(1e15, 1e-30), (1e-15, 1e30)])
def test_codes_that_overflow_or_vanish_are_not_called_converged(code, signal, atom):
    signals, dictionary = draw()
    given = signals * signal, dictionary * atom, 0.1 * signal * atom
    found = code(*map(np.float32, given))
    assert not found.converged.any() and np.isfinite(found.objective).all()
    assert not np.isnan(found.codes).any()


@EACH
def test_warm_equals_cold(code):
    signals, dictionary = draw(6)
    plain = code(signals, dictionary, 0.1)
    warm = code(signals, dictionary, 0.1, init=plain.codes)
    assert np.sum(warm.iterations) < np.sum(plain.iterations)
    far = np.random.default_rng(0).uniform(size=(N, LATENTS)).astype(np.float32)
    for found in (warm, code(signals, dictionary, 0.1, init=far)):
        np.testing.assert_allclose(found.codes, plain.codes, atol=1e-4)


@EACH
def test_float64_reaches_a_tight_tolerance(code):
    with jax.enable_x64(True):
        signals, dictionary = (a.astype(np.float64) for a in draw(7))
        found = code(signals, dictionary, 0.1, tol=1e-10)
        assert found.codes.dtype == jnp.float64 and found.converged.all()
    value, gap = score(signals, dictionary, found.codes, 0.1)
    assert np.all(gap <= 1.01e-10 * value)


@EACH
def test_what_gives_up_says_so_and_has_the_gap_that_it_claims(code):
    signals, dictionary = draw(10)
    found = code(signals, dictionary, 1e-3, max_iterations=1)
    _, gap = score(signals, dictionary, found.codes, 1e-3)
    assert not found.converged.all() and set(found.iterations.tolist()) in (
        {1},
        {fista.CHECK_EVERY},
    )
    np.testing.assert_allclose(found.gap, gap, rtol=0.2, atol=1e-6)


@EACH
@pytest.mark.parametrize("init", [False, True])
def test_no_iterations_certify_the_codes_they_are_given(code, init):
    signals, dictionary = draw()
    codes = np.full((N, LATENTS), 0.1 * init, np.float32)
    found = code(signals, dictionary, 0.1, max_iterations=0, init=codes if init else None)
    value, gap = score(signals, dictionary, codes, 0.1)
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_allclose(found.objective, value, rtol=1e-5)
    np.testing.assert_allclose(found.gap, gap, rtol=1e-4)
    assert not found.converged.any() and not found.iterations.any()


OPTIONS = [{"solver": "auto"}, {"solver": "fista"}, {"tol": None, "max_iterations": 30}]


@SIGNS
@pytest.mark.parametrize("options", OPTIONS)
def test_sparse_codes_and_chunks_change_no_bit(options, nonneg, monkeypatch):
    signals, dictionary = draw()
    code = functools.partial(sparse_code, signals, dictionary, 0.1, nonneg=nonneg, **options)
    dense = code()
    jax.clear_caches()
    # Iterations take six samples at once, and sparse codes come in two parts.
    monkeypatch.setattr(coding, "ROOM", N // 2 * LATENTS)
    monkeypatch.setattr(coding, "ARRAYS", 2)
    sparse = code(sparse=True)
    jax.clear_caches()
    assert isinstance(sparse.codes, scipy.sparse.csr_array) and sparse.codes.has_canonical_format
    assert sparse.codes.nnz == np.count_nonzero(dense.codes)
    np.testing.assert_array_equal(sparse.codes.toarray(), dense.codes)
    for name in ("objective", "gap", "iterations", "converged"):
        np.testing.assert_array_equal(getattr(sparse, name), getattr(dense, name))


def test_iterations_take_the_memory_of_a_chunk(monkeypatch):
    def memory(count):
        shapes = (count, M), (M, LATENTS)
        given = (jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes)
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
    same = np.testing.assert_array_equal if code is sparse_code else np.testing.assert_allclose
    same(traced.codes, whole.codes, **({} if code is sparse_code else {"atol": 1e-5}))
    single = jax.vmap(lambda y: code(y[None], dictionary, 0.1).codes[0])
    np.testing.assert_allclose(single(signals[:3]), whole.codes[:3], atol=1e-4)


@pytest.mark.parametrize("solver", ["auto", "fista"])
def test_values_that_make_no_lasso_are_never_called_converged(solver):
    """Under `jit` nobody has checked them; they spoil no other sample."""
    code = jax.jit(functools.partial(sparse_code, solver=solver))
    signals, dictionary = draw(11)
    sound, lam, support = np.arange(N) != 3, np.full(N, 0.1), np.ones((N, LATENTS))
    for i, bad in ((0, np.nan), (0, np.inf), (2, np.nan), (2, -0.5)):
        given = [signals.copy(), dictionary, lam.copy()]
        given[i][3] = bad
        for options in ({}, {"support": support}):
            found = code(*given, **options)
            assert (found.converged == sound).all()
            for each in (found.codes.sum(axis=1), found.objective, found.gap):
                assert (np.isfinite(each) == sound).all()
    broken = np.where(np.arange(LATENTS) == 1, np.nan, dictionary)
    assert not code(signals, broken, 0.1).converged.any()
    # An objective that overflows says nothing.
    assert not code(np.full((1, 3), 1e30, np.float32), np.eye(3), 1e29).converged.any()

    def loss(signals, dictionary, lam):
        found = code(signals, dictionary, lam, support=support)
        return jnp.where(sound, found.objective, 0).sum()

    slopes = jax.jit(jax.value_and_grad(loss, argnums=(1, 2)))
    spoilt = np.where(sound[:, None], signals, np.nan)
    (value, found), (clean, expected) = (slopes(y, dictionary, lam) for y in (spoilt, signals))
    assert value == clean
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signals": np.zeros((N, M + 1), np.float32)}, "disagree on input_dim"),
        ({"signals": np.zeros(M, np.float32)}, "reshape"),
        ({"signals": np.zeros((N, M), int)}, "floating point"),
        ({"signals": np.full((N, M), np.nan, np.float32)}, "non-finite"),
        ({"signals": np.zeros((0, M), np.float32)}, "empty"),
        ({"signals": np.full((N, M), 1e-25, np.float32)}, "multiply them, and any lam"),
        ({"signals": np.full((N, M), 1e25, np.float32)}, "multiply them, and any lam"),
        ({"dictionary": np.full((M, LATENTS), np.inf, np.float32)}, "non-finite"),
        ({"dictionary": np.zeros((M, LATENTS), complex)}, "floating-point"),
        ({"lam": -0.1}, "negative"),
        ({"lam": np.nan}, "non-finite"),
        ({"lam": np.zeros(3)}, "lam has shape"),
        ({"lam": np.zeros(LATENTS)}, "one number, or one for each sample"),
        ({"lam": "much"}, "lam"),
        ({"tol": 0.0}, "tol"),
        ({"tol": "tight"}, "tol"),
        ({"max_iterations": -1}, "max_iterations"),
        ({"max_iterations": 2**31}, "below 2"),
        ({"solver": "lars"}, "solver must be one of auto, fista, ista"),
        ({"init": np.zeros((N, 3), np.float32)}, "init has shape"),
        ({"init": -np.ones((N, LATENTS), np.float32)}, "negative code"),
        ({"sparse": 1}, "sparse must be True or False"),
        ({"nonneg": None}, "nonneg must be True or False"),
        ({"signals": [[1.0, 2.0], [3.0]]}, "do not make one array"),
        ({"lam": np.ma.masked_array(0.1, True)}, "lam has masked entries"),
        ({"support": np.ones((N, 3))}, r"support must be .* \(24, 40\).* has shape \(24, 3\)"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, message):
    signals, dictionary = draw()
    with pytest.raises(ValueError, match=message) as error:
        sparse_code(**{"signals": signals, "dictionary": dictionary, "lam": 0.1, **change})
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_sparse_codes_cannot_be_traced():
    signals, dictionary = draw()
    with pytest.raises(ValueError, match=r"^sparse codes .*; leave sparse out"):
        jax.jit(lambda y: sparse_code(y, dictionary, 0.1, sparse=True).objective)(signals)


def test_double_precision_without_its_flag_is_single_and_warns_of_nothing():
    found = sparse_code(*map(np.float64, draw()), 0.1)
    assert found.codes.dtype == np.float32 and found.converged.all()
