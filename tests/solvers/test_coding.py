import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso

from sae_gap.solvers import SOLVERS, coding, fista, sparse_code, working_set

from .problems import SHAPE, draw, score

N, M, LATENTS = SHAPE
CERTIFIED = [s for s in SOLVERS if s not in ("auto", "ista")]


def _assert_solved(solution, signals, dictionary, lam, nonneg=True, slack=2.0):
    """Certified by us, certified by numpy in float64, and feasible."""
    assert bool(jnp.all(solution.converged))
    value, gap = score(signals, dictionary, solution.codes, lam, nonneg)
    np.testing.assert_allclose(solution.objective, value, rtol=1e-5, atol=1e-30)
    assert np.all(gap <= slack * 1e-6 * value + 1e-12 * (np.asarray(signals, float) ** 2).sum(1))
    assert not nonneg or float(jnp.min(solution.codes)) >= 0


@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("solver", CERTIFIED)
def test_reaches_the_optimum_of_scikit_learn(solver, nonneg):
    signals, dictionary = draw()
    solution = sparse_code(signals, dictionary, 0.1, solver=solver, nonneg=nonneg)
    _assert_solved(solution, signals, dictionary, 0.1, nonneg)
    for i in range(3):
        peer = Lasso(
            alpha=0.1 / M, fit_intercept=False, positive=nonneg, tol=1e-12, max_iter=100_000
        )
        peer.fit(dictionary.astype(float), signals[i].astype(float))
        np.testing.assert_allclose(solution.codes[i], peer.coef_, atol=3e-5)


def test_ista_reaches_it_too():
    signals, dictionary = draw()
    ista, fista = (sparse_code(signals, dictionary, 0.1, solver=s) for s in ("ista", "fista"))
    assert bool(jnp.all(ista.converged)) and float(jnp.mean(ista.iterations)) > float(
        jnp.mean(fista.iterations)
    )
    np.testing.assert_allclose(ista.objective, fista.objective, rtol=2e-6)


@pytest.mark.parametrize("solver", CERTIFIED)
@given(
    st.integers(0, 10_000),
    st.sampled_from(
        [
            "plain",
            "zero signal",
            "zero atom",
            "duplicates",
            "opposites",
            "collinear",
            "norms",
            "low rank",
            "one live atom",
        ]
    ),
    st.sampled_from([0.01, 0.1, 10.0]),
    st.sampled_from([1e-15, 1.0, 1e15]),
    st.booleans(),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_degenerate_problems(solver, seed, kind, lam, scale, nonneg):
    rng = np.random.default_rng(seed)
    signals, dictionary = draw(seed)
    half = LATENTS // 2
    if kind == "zero signal":
        signals[::2] = 0
    elif kind == "zero atom":
        dictionary[:, ::3] = 0
    elif kind == "duplicates":
        dictionary[:, half:] = dictionary[:, :half]
    elif kind == "opposites":
        dictionary[:, half:] = -dictionary[:, :half]
    elif kind == "collinear":
        dictionary[:, half:] = 2 * dictionary[:, :half]
    elif kind == "norms":
        dictionary *= np.exp(rng.normal(size=LATENTS)).astype(np.float32)
    elif kind == "low rank":
        dictionary = (dictionary[:, :4] @ rng.normal(size=(4, LATENTS))).astype(np.float32)
    elif kind == "one live atom":
        dictionary[:, 1:] = 0
    weight = np.float32(lam * scale)
    solution = sparse_code(
        signals * np.float32(scale), dictionary, weight, solver=solver, nonneg=nonneg
    )
    assert bool(jnp.all(solution.converged))
    # Scored at the scale of one. Rounding the codes to float32 moves each correlation by about
    # their size times its unit.
    codes = np.asarray(solution.codes, float) / scale
    value, gap = score(signals, dictionary, codes, lam, nonneg)
    size = np.abs(codes).sum(1) * np.linalg.norm(dictionary, axis=0).max()
    assert np.all(gap <= 2e-6 * value + np.finfo(np.float32).eps * size**2)


@pytest.mark.parametrize(
    ("solver", "shape"),
    [("fista", s) for s in ((1, 16, 40), (24, 16, 1), (1, 1, 1), (8, 40, 16))]
    + [("working_set", s) for s in ((1, 1, 1), (8, 40, 16))],
)
def test_small_and_tall_shapes(solver, shape):
    signals, dictionary = draw(3, shape)
    _assert_solved(sparse_code(signals, dictionary, 0.05, solver=solver), signals, dictionary, 0.05)


@pytest.mark.parametrize(
    ("solver", "shape"),
    [("fista", s) for s in ((N,), (N, 1), (LATENTS,), (1, LATENTS), (N, LATENTS))]
    + [("working_set", s) for s in ((LATENTS,), (N, LATENTS))],
)
def test_weights_per_sample_and_per_coefficient(solver, shape):
    signals, dictionary = draw(4)
    lam = np.random.default_rng(0).uniform(0.02, 0.3, size=shape).astype(np.float32)
    solution = sparse_code(signals, dictionary, lam, solver=solver)
    _assert_solved(solution, signals, dictionary, lam[:, None] if shape == (N,) else lam, slack=3.0)


@pytest.mark.parametrize("solver", CERTIFIED)
def test_warm_equals_cold(solver):
    signals, dictionary = draw(6)
    plain = sparse_code(signals, dictionary, 0.1, solver=solver)
    warm = sparse_code(signals, dictionary, 0.1, solver=solver, init=plain.codes)
    np.testing.assert_allclose(warm.codes, plain.codes, atol=1e-4)
    assert float(jnp.sum(warm.iterations)) < float(jnp.sum(plain.iterations))
    far = np.random.default_rng(0).uniform(size=(N, LATENTS)).astype(np.float32)
    np.testing.assert_allclose(
        sparse_code(signals, dictionary, 0.1, solver=solver, init=far).codes, plain.codes, atol=1e-4
    )


@pytest.mark.parametrize("solver", CERTIFIED)
def test_float64_reaches_a_tight_tolerance(solver):
    signals, dictionary = (a.astype(np.float64) for a in draw(7))
    with jax.enable_x64(True):
        solution = sparse_code(signals, dictionary, 0.1, tol=1e-10, solver=solver)
        assert solution.codes.dtype == jnp.float64 and bool(jnp.all(solution.converged))
        value, gap = score(signals, dictionary, solution.codes, 0.1)
    assert np.all(gap <= 1.01e-10 * value)


def test_under_jit_and_vmap():
    signals, dictionary = draw(8)
    whole = sparse_code(signals, dictionary, 0.1)
    plain = whole.codes
    jax.tree.map(
        np.testing.assert_array_equal, jax.jit(sparse_code)(signals, dictionary, 0.1), whole
    )
    single = jax.vmap(lambda y: sparse_code(y[None], dictionary, 0.1).codes[0])
    np.testing.assert_allclose(single(jnp.asarray(signals)), plain, atol=1e-4)


def test_giving_up_is_reported():
    signals, dictionary = draw(10)
    for solver in ("fista", "working_set"):
        solution = sparse_code(signals, dictionary, 1e-3, solver=solver, max_iterations=1)
        _, gap = score(signals, dictionary, solution.codes, 1e-3)
        assert not bool(jnp.all(solution.converged))
        # The one product is all that there is, and FISTA is not begun; by itself it goes on to its
        # next check.
        assert np.all(solution.iterations == (1 if solver == "working_set" else fista.CHECK_EVERY))
        # What is reported unconverged really has that gap, up to the rounding of a float32.
        np.testing.assert_allclose(solution.gap, gap, rtol=0.2, atol=1e-6)


def test_non_finite_values_inside_jit_do_not_converge():
    signals, dictionary = draw(11)
    spoilt, broken = signals.copy(), dictionary.copy()
    spoilt[3, 2] = broken[1, 1] = np.nan
    for name, here in (("fista", False), ("working_set", False), ("working_set", True)):
        # The solver of a concrete call, without its checks of values.
        options = coding._Options(nonneg=True, solver=name, fixed=False, mesh=None, host=here)

        def solve(signals, atoms, lam, options=options):
            numbers = jnp.full((1, 1), lam), None, jnp.float32(1e-6), jnp.int32(20_000)
            return coding._solve(options, signals, atoms, *numbers)

        found, sound = solve(spoilt, dictionary, 0.1), np.arange(N) != 3
        assert (found.converged == sound).all()
        for each in (found.codes.sum(axis=1), found.objective, found.gap):
            assert (np.isfinite(each) == sound).all()
        if name == "working_set":
            for atoms, lam in ((broken, 0.1), (dictionary, np.nan), (dictionary, -0.5)):
                found = solve(signals, atoms, lam)
                assert not found.converged.any() and np.isnan(found.gap).all()
    # Weights and supports of its own spoil no other sample, nor a gradient that leaves it out.
    own = jnp.full((N, 1), 0.1)

    def loss(signals, dictionary, lam):
        found = sparse_code(signals, dictionary, lam, support=jnp.ones((N, dictionary.shape[1])))
        return jnp.where(jnp.arange(N) == 3, 0, found.objective).sum()

    slopes = jax.jit(jax.value_and_grad(loss, argnums=(1, 2)))
    (value, found), (clean, expected) = (
        slopes(each, dictionary, own) for each in (spoilt, signals)
    )
    assert value == clean
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)
    code = jax.jit(lambda signals, lam: sparse_code(signals, np.eye(3, dtype=np.float32), lam))
    rows = np.array([[1, 1, 1], [np.inf, 1, 1]], np.float32)
    assert code(rows, 0.1).converged.tolist() == [True, False]
    # An objective that overflows says nothing, and a negative weight makes no lasso.
    for signals, lam in ((1e30 * rows[:1], 1e29), (rows[:1], -0.1)):
        assert not code(signals, lam).converged.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signals": np.zeros((N, M + 1), np.float32)}, "disagree on input_dim"),
        ({"signals": np.zeros(M, np.float32)}, "reshape"),
        ({"signals": np.zeros((N, M), int)}, "floating point"),
        ({"signals": np.full((N, M), np.nan, np.float32)}, "non-finite"),
        ({"signals": np.zeros((0, M), np.float32)}, "empty"),
        ({"dictionary": np.full((M, LATENTS), np.inf, np.float32)}, "non-finite"),
        ({"dictionary": np.zeros((M, LATENTS), complex)}, "floating-point"),
        ({"lam": -0.1}, "negative"),
        ({"lam": np.nan}, "non-finite"),
        ({"lam": np.zeros(3)}, "lam has shape"),
        ({"lam": "much"}, "lam"),
        ({"tol": 0.0}, "tol"),
        ({"tol": np.nan}, "tol"),
        ({"tol": "tight"}, "tol"),
        ({"max_iterations": -1}, "max_iterations"),
        ({"max_iterations": 1.5}, "max_iterations"),
        ({"solver": "lars"}, "solver must be one of auto, "),
        ({"solver": "working_set", "tol": None}, "choose fista or ista"),
        ({"init": np.zeros((N, 3), np.float32)}, "init has shape"),
        ({"init": -np.ones((N, LATENTS), np.float32)}, "negative code"),
        ({"sparse": 1}, "sparse must be True or False"),
        ({"nonneg": "False"}, "nonneg must be True or False"),
        ({"nonneg": None}, "nonneg must be True or False"),
        ({"max_iterations": 2**31}, "below 2"),
        ({"signals": [[1.0, 2.0], [3.0]]}, "do not make one array"),
        ({"lam": [[1.0, 2.0], [3.0]]}, "do not make one array"),
        ({"lam": 10**400}, "lam must be"),
        (
            {"init": np.ma.masked_equal(np.zeros((N, LATENTS), np.float32), 0)},
            "init has masked entries",
        ),
        ({"lam": np.ma.masked_array(0.1, True)}, "lam has masked entries"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, message):
    signals, dictionary = draw()
    with pytest.raises(ValueError, match=message) as error:
        sparse_code(**{"signals": signals, "dictionary": dictionary, "lam": 0.1, **change})
    assert "\n" not in str(error.value) and len(str(error.value)) < 300


def test_double_precision_without_its_flag_is_single_and_warns_of_nothing():
    signals, dictionary = draw()
    found = sparse_code(np.float64(signals), np.float64(dictionary), 0.1)
    assert found.codes.dtype == np.float32 and found.converged.all()


@pytest.mark.parametrize("init", [False, True])
def test_no_iterations_certify_the_codes_they_are_given(init):
    signals, dictionary = draw()
    codes = np.full((N, LATENTS), 0.1, np.float32) if init else np.zeros((N, LATENTS), np.float32)
    given = codes if init else None
    found = sparse_code(
        signals, dictionary, 0.1, solver="working_set", max_iterations=0, init=given
    )
    traced = jax.jit(
        lambda limit: sparse_code(
            signals, dictionary, 0.1, solver="working_set", max_iterations=limit, init=given
        )
    )(0)
    jax.tree.map(np.testing.assert_array_equal, traced, found)
    rest = np.asarray(signals, float) - codes.astype(float) @ np.asarray(dictionary, float).T
    np.testing.assert_array_equal(found.codes, codes)
    np.testing.assert_allclose(
        found.objective, 0.5 * (rest**2).sum(axis=1) + 0.1 * codes.sum(axis=1), rtol=1e-5
    )
    assert not found.converged.any() and np.all(found.gap > 0) and not found.iterations.any()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("signal", "atom"), [(1e15, 1e-30), (1e-15, 1e30)])
def test_codes_that_overflow_or_vanish_are_not_called_converged(signal, atom, sparse):
    signals, dictionary = draw()
    lam = np.float32(0.1 * signal * atom)
    found = sparse_code(
        signals * np.float32(signal),
        dictionary * np.float32(atom),
        lam,
        solver="working_set",
        sparse=sparse,
    )
    codes = found.codes.toarray() if sparse else np.asarray(found.codes)
    assert (
        not found.converged.any()
        and not np.isnan(codes).any()
        and np.isfinite(found.objective).all()
    )


@pytest.mark.parametrize("shape", [(), (1, LATENTS), (N, LATENTS)])
def test_scales_whose_product_overflows_keep_their_weight(shape):
    signals, dictionary = draw()
    # In units of order one the weight is .02, and the largest correlation is beyond what float32
    # holds.
    lam = np.full(shape, 0.02 * 1e35 * 1e4, np.float32)
    found = sparse_code(
        signals * np.float32(1e15), dictionary * np.float32(1e24), lam, solver="working_set"
    )
    wanted = sparse_code(signals, dictionary, 0.02, solver="working_set")
    np.testing.assert_allclose(np.asarray(found.objective) * 1e-30, wanted.objective, rtol=1e-4)


def test_a_weight_for_each_coefficient_beyond_the_largest_stays_there():
    signals, dictionary = draw()
    lam = np.full(LATENTS, 1e17, np.float32)
    found = sparse_code(signals * np.float32(1e17), dictionary * np.float32(1e-10), lam)
    assert not np.any(found.codes) and found.converged.all()


@pytest.mark.parametrize(
    ("options", "nonneg"),
    [
        ({"solver": "working_set"}, True),
        ({"solver": "working_set"}, False),
        ({"solver": "working_set_xla"}, False),
        ({"solver": "fista"}, False),
        ({"tol": None}, True),
    ],
)
def test_sparse_codes_are_the_dense_ones_bit_by_bit(options, nonneg, monkeypatch):
    # FISTA's codes come in two chunks of half of the samples each, those of an accelerator in three.
    monkeypatch.setattr(working_set, "ROOM", N // 2 * LATENTS)
    monkeypatch.setattr(working_set, "batch_size", lambda *shape: 10)
    signals, dictionary = draw()
    # Scales that are powers of two must come back, of samples and of atoms.
    signals = signals * np.exp2(np.arange(N) % 9 - 4).astype(np.float32)[:, None]
    dictionary = dictionary * np.exp2(np.arange(LATENTS) % 5 - 2).astype(np.float32)
    lam = 0.1 * np.max(np.abs(signals @ dictionary), axis=1)[:, None]
    options = {"nonneg": nonneg, "max_iterations": 30 if "tol" in options else 20_000} | options
    dense = sparse_code(signals, dictionary, lam, **options)
    sparse = sparse_code(signals, dictionary, lam, sparse=True, **options)
    assert isinstance(sparse.codes, scipy.sparse.csr_array) and sparse.codes.has_canonical_format
    assert sparse.codes.nnz == np.count_nonzero(dense.codes)
    np.testing.assert_array_equal(sparse.codes.toarray(), dense.codes)
    for name in ("objective", "gap", "iterations", "converged"):
        np.testing.assert_array_equal(getattr(sparse, name), getattr(dense, name))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("solver", CERTIFIED)
def test_atoms_of_very_different_norms_with_weights_to_match_are_the_same_problem(solver, own):
    signals, dictionary = draw(5)
    spread = np.where(np.arange(LATENTS) % 3, 1, 1e-24).astype(np.float32)
    lam = np.full((N if own else 1, LATENTS), 0.1, np.float32)
    plain = sparse_code(signals, dictionary, lam, solver=solver)
    moved = sparse_code(signals, dictionary * spread, lam * spread, solver=solver)
    assert bool(jnp.all(moved.converged))
    np.testing.assert_allclose(moved.objective, plain.objective, rtol=2e-6)


@pytest.mark.parametrize("solver", CERTIFIED)
def test_weights_beside_atoms_of_any_norm_are_right(solver):
    """By hand: the large atom fits its dimension for nothing, and the small one costs more than it
    fits.
    """
    dictionary = np.diag([1e12, 1e-12]).astype(np.float32)
    found = sparse_code(np.ones((1, 2), np.float32), dictionary, 1e-6, solver=solver)
    np.testing.assert_allclose(found.codes, [[1e-12, 0]], rtol=1e-5)
    np.testing.assert_allclose(found.objective, 0.5, rtol=1e-6)
    assert found.converged.all() and np.all(found.gap <= 1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2)])
def test_a_sample_of_another_scale_changes_no_other(shape):
    """By hand, on orthogonal atoms, z = max(y − λ, 0); a sample of next to nothing lies beside."""
    signals = np.array([[1, 0.5], [1e-25, 0], [0, 0]], np.float32)
    found = sparse_code(
        signals, np.eye(2, dtype=np.float32), np.full(shape, 0.25, np.float32), solver="working_set"
    )
    np.testing.assert_allclose(found.codes, [[0.75, 0.25], [0, 0], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(found.objective, [0.3125, 0, 0], rtol=1e-6)
    assert found.converged.all()


def test_sparse_codes_cannot_be_traced():
    signals, dictionary = draw()
    with pytest.raises(ValueError, match=r"^sparse codes .*; leave sparse out"):
        jax.jit(lambda y: sparse_code(y, dictionary, 0.1, sparse=True).objective)(signals)
