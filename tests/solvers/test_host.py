import concurrent.futures
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

import sae_gap
from sae_gap.loops import active_set, proximal
from sae_gap.solvers import block, host
from sae_gap.solvers.working_set import widths

from .problems import draw, score


def coherent(seed, num_samples, input_dim, num_latents, support, cluster=16):
    """Clusters of atoms with a cosine of about a half, and signals that are sparse on them."""
    rng = np.random.default_rng(seed)
    dictionary = np.repeat(
        rng.normal(size=(-(-num_latents // cluster), input_dim)), cluster, axis=0
    )[:num_latents]
    dictionary = dictionary + rng.normal(size=dictionary.shape)
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = np.stack(
        [rng.permutation(num_latents) < support for _ in range(num_samples)]
    ) * rng.exponential(size=(num_samples, num_latents))
    signals = codes @ dictionary
    signals /= np.linalg.norm(signals, axis=1, keepdims=True)
    return signals.astype(np.float32), dictionary.T.astype(np.float32)


DIM, LATENTS = 40, 120


def solve(signals, dictionary, lam, **options):
    return sae_gap.sparse_code(signals, dictionary, lam, solver="working_set", **options)


def least(signal, dictionary, lam, *, nonneg):
    """The optimum of one sample by SciPy's non-negative least squares, good to about 1e-8.

    ½‖y − D z‖² + λᵀz over z ≥ 0 is least squares once λ is an inner product with every atom, which
    one long dimension makes.
    """
    signal, dictionary = signal.astype(np.float64), dictionary.astype(np.float64)
    both = dictionary if nonneg else np.concatenate([dictionary, -dictionary], axis=1)
    lam, long = np.broadcast_to(lam, dictionary.shape[1]), 1e5
    price = lam if nonneg else np.tile(lam, 2)
    codes, _ = nnls(np.vstack([both, price / long]), np.append(signal, -long), maxiter=10_000)
    return 0.5 * np.sum((signal - both @ codes) ** 2) + price @ codes


# What becomes of Gaussian atoms.
ATOMS = {
    "gaussian": lambda rng, atoms: atoms,
    "coherent": lambda rng, atoms: atoms + 3 * rng.normal(size=(len(atoms), 1)),
    "twins": lambda rng, atoms: (
        np.concatenate([atoms[:, ::2]] * 2, axis=1) * (1 + 1e-6 * rng.normal(size=atoms.shape))
    ),
    "copies": lambda rng, atoms: np.concatenate([atoms[:, ::2]] * 2, axis=1),
    "dependent": lambda rng, atoms: atoms[:, :6] @ rng.normal(size=(6, atoms.shape[1])),
    "zeros": lambda rng, atoms: atoms * (rng.uniform(size=atoms.shape[1]) < 0.7),
}


@pytest.mark.parametrize("nonneg", [True, False])
@pytest.mark.parametrize("kind", ATOMS)
def test_the_optimum_is_that_of_least_squares(kind, nonneg):
    rng = np.random.default_rng(0)
    dictionary = ATOMS[kind](rng, rng.normal(size=(16, 60))).astype(np.float32)
    # Two thirds are sparse on the atoms, and one third is not.
    codes = rng.normal(size=(30, 60)) * (rng.uniform(size=(30, 60)) < 0.07)
    signals = np.concatenate([codes @ dictionary.T, rng.normal(size=(15, 16))]).astype(np.float32)
    pull = signals @ dictionary
    top = np.max(pull if nonneg else np.abs(pull), axis=1)
    share = 10 ** rng.uniform(-2.5, 0.05, size=len(signals))
    # Each sample and each atom has a weight of its own.
    lam = (np.maximum(share * top, 1e-3)[:, None] * rng.uniform(0.5, 2, size=60)).astype(np.float32)
    found = solve(signals, dictionary, lam, nonneg=nonneg)
    assert found.converged.all()
    value, _ = score(signals, dictionary, found.codes, lam, nonneg=nonneg)
    best = np.array(
        [
            least(*given, nonneg=nonneg)
            for given in zip(signals, [dictionary] * 45, lam.astype(float), strict=True)
        ]
    )
    scale = 1e-7 * np.sum(signals.astype(float) ** 2, axis=1)
    assert np.all(value <= best * (1 + 1e-6) + scale) and np.all(
        value - np.asarray(found.gap) <= best + scale
    )
    np.testing.assert_allclose(found.objective, value, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("nonneg", [True, False])
def test_supports_of_every_size_are_exact(monkeypatch, nonneg):
    monkeypatch.setattr(host, "default_slots", lambda *shape: 0)
    rng = np.random.default_rng(0)
    signals, dictionary = coherent(1, 60, DIM, LATENTS, 10)
    # Two thirds are sparse on the atoms, the others have dense signals; each sample has its own
    # weight.
    signals[20:40] = rng.normal(size=(20, DIM)) / 8
    pull = signals @ dictionary
    share = np.concatenate(
        [np.geomspace(1e-3, 0.9, 20), np.geomspace(1e-3, 0.3, 20), np.geomspace(1e-3, 0.9, 20)]
    )
    lam = share * np.max(pull if nonneg else np.abs(pull), axis=1)
    solution = solve(signals, dictionary, lam[:, None], nonneg=nonneg)
    assert bool(jnp.all(solution.converged))
    sizes = np.count_nonzero(solution.codes, axis=1)
    slots = 2 * active_set.FEWEST
    assert sizes.max() > slots > sizes.min(), "some supports are to outgrow the first slots"
    value, gap = score(signals, dictionary, solution.codes, lam[:, None], nonneg=nonneg)
    np.testing.assert_allclose(solution.objective, value, rtol=1e-6)
    # A certificate taken from rounded codes is off by their rounding beside the weight.
    assert np.all(gap <= (1e-6 + 1e-7 / share) * value)


def test_atoms_of_several_tiles_are_all_looked_at():
    num_latents = 2 * block.TILE + 100
    rng = np.random.default_rng(0)
    dictionary = rng.normal(size=(12, num_latents)) / 12**0.5
    for precision in (np.float32, np.float64):
        signals, atoms = rng.normal(size=(20, 12)).astype(precision), dictionary.astype(precision)
        with jax.enable_x64(precision == np.float64):
            found = solve(signals, atoms, 0.3)
            # As many atoms, of which all but the first tenth are copies.
            few, copies = (solve(signals, np.tile(atoms[:, :216], n), 0.3) for n in (1, 10))
        used = np.flatnonzero(np.any(np.asarray(found.codes), axis=0)) // block.TILE
        assert found.converged.all() and set(used) == {0, 1, 2}
        assert copies.converged.all()
        np.testing.assert_allclose(copies.objective, few.objective, rtol=3e-6)


def test_codes_that_vanish_as_another_atom_fits_the_signal_exactly_are_not_negative():
    """The longer atoms enter first. They leave all at once as the last one, of which the signals
    are multiples, is in.
    """
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        for _ in range(40):
            dictionary = np.abs(rng.normal(size=(5, 6)))
            dictionary /= np.linalg.norm(dictionary, axis=0) * np.append(rng.uniform(0.85, 1, 5), 1)
            found = solve(rng.uniform(1, 2, (500, 1)) * dictionary[:, -1], dictionary, 0.0)
            assert found.codes.min() >= 0


def test_an_atom_that_only_rounding_wants_is_left_out():
    """An atom in the span of the basis takes the place of another one. Where none can go for it, it
    is not tried again.
    """
    rng = np.random.default_rng(0)
    dictionary, signals = (
        rng.normal(size=(10, 5)) @ rng.normal(size=(5, 35)),
        rng.normal(size=(40, 10)).astype(np.float32),
    )
    dictionary = (dictionary / np.linalg.norm(dictionary, axis=0)).astype(np.float32)
    found = solve(signals, dictionary, 1e-8)
    value, _ = score(signals, dictionary, found.codes, 1e-8)
    np.testing.assert_allclose(found.objective, value, rtol=1e-6)


@pytest.mark.parametrize("num_samples", [1, 300])
def test_bits_do_not_depend_on_the_threads(num_samples, monkeypatch):
    signals, dictionary = coherent(4, num_samples, DIM, LATENTS, 5)
    lam = np.geomspace(1e-3, 0.3, num_samples)[:, None]
    shared = solve(signals, dictionary, lam)
    for threads in (1, 3):
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            monkeypatch.setattr(
                host, "on_cores", lambda work, pieces, pool=pool: list(pool.map(work, pieces))
            )
            jax.tree.map(np.testing.assert_array_equal, solve(signals, dictionary, lam), shared)


def test_bits_do_not_depend_on_what_memory_held_before(monkeypatch):
    rng, whole = np.random.default_rng(0), block.Room.of
    # Atoms so alike that the inverse of a basis is lost to rounding, and samples without codes,
    # which come first.
    dictionary, signals = (
        rng.normal(size=(17, 28)) + 1e4 * rng.normal(size=(17, 1)),
        rng.normal(size=(40, 17)),
    )
    dictionary /= np.linalg.norm(dictionary, axis=0)
    lam = np.append(np.full(5, 10.0), np.full(35, 1e-9))[:, None]
    with jax.enable_x64(True):
        answer = functools.partial(solve, signals, dictionary, lam, nonneg=False, max_iterations=30)
        clean = answer()
        for left in (np.nan, 1.0):

            def room(*given, left=left):
                arrays = whole(*given)._asdict()
                for array in arrays.values():
                    if array.dtype.kind == "f":
                        array.fill(left)
                return block.Room(**arrays)

            monkeypatch.setattr(block.Room, "of", room)
            jax.tree.map(np.testing.assert_array_equal, answer(), clean)


@pytest.mark.parametrize("nonneg", [True, False])
def test_few_atoms_are_all_pivoted_on_at_once(nonneg, monkeypatch):
    """One product begins and another one certifies, also where more atoms have codes than there are
    slots to begin with.
    """
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(130, 40)).astype(np.float32)
    dictionary = (rng.normal(size=(40, host.FEW_LATENTS)) / 40**0.5).astype(np.float32)
    lam = np.geomspace(1e-3, 10, 130)[:, None] * rng.uniform(1, 2, (1, host.FEW_LATENTS))
    found = solve(signals, dictionary, lam, nonneg=nonneg)
    count = np.count_nonzero(found.codes, axis=1)
    few = count < next(widths(40, host.FEW_LATENTS))
    assert (
        found.converged.all() and few.any() and not few.all() and np.all(found.iterations[few] <= 3)
    )
    assert np.mean(found.iterations[few] == 2) > 0.9
    value, _ = score(signals, dictionary, found.codes, lam, nonneg=nonneg)
    np.testing.assert_allclose(found.objective, value, rtol=1e-6)
    assert solve(signals, dictionary, lam, nonneg=nonneg, max_iterations=1).iterations.max() == 1
    # Codes to begin with take only the product that certifies them.
    assert (
        np.mean(
            solve(signals, dictionary, lam, nonneg=nonneg, init=found.codes).iterations[few] == 1
        )
        > 0.9
    )
    monkeypatch.setattr(host, "FEW_LATENTS", 0)
    rounds = solve(signals, dictionary, lam, nonneg=nonneg)
    assert rounds.iterations.sum() > 1.5 * found.iterations.sum()
    np.testing.assert_allclose(found.objective, rounds.objective, rtol=2e-6)


@pytest.mark.parametrize("limit", [1, 2])
def test_what_runs_out_of_products_is_told_its_gap_as_it_is(monkeypatch, limit):
    monkeypatch.setattr(host, "FEW_LATENTS", 0)
    signals, dictionary = draw(0, (90, 17, 41))
    found = solve(signals, dictionary, 0.05, max_iterations=limit)
    value, gap = score(signals, dictionary, found.codes, 0.05)
    assert not found.converged.all() and found.iterations.max() == limit
    np.testing.assert_allclose(found.objective, value, rtol=1e-6)
    left = ~np.asarray(found.converged)
    np.testing.assert_allclose(np.asarray(found.gap)[left], gap[left], rtol=1e-3)


def test_a_sample_that_fills_its_slots_is_coded_anew_in_more(monkeypatch):
    """Codes may have been written down before, which rounding kept from being certified."""
    signals, dictionary = draw(0, (90, 17, 41))
    whole, code_block, slots = solve(signals, dictionary, 0.05), active_set.code_block, []

    def fill(problem, own, room):
        code_block(problem, own, room)
        slots.append(own.found.shape[1])
        if slots[-1] == slots[0]:
            own.state[::2] = active_set.FULL

    monkeypatch.setattr(active_set, "code_block", fill)
    found = solve(signals, dictionary, 0.05, sparse=True)
    assert len(set(slots)) == 2 and found.converged.all()
    np.testing.assert_allclose(found.codes.toarray(), whole.codes, atol=1e-4)


def test_the_largest_of_weights_bars_an_atom_and_leaves_a_certificate():
    """Over a signal of less than one it is infinite."""
    signals, dictionary = (array.astype(float) / 8 for array in draw(0, (90, 17, 41)))
    lam = np.where(np.arange(41) == 3, np.finfo(float).max, 1e-3)[None]
    codes, objective, *_, converged = host.solve(signals, dictionary, lam, None, 1e-6, 20_000)
    assert converged.all() and not codes[:, 3].any()
    _, again, *_, converged = host.solve(signals, dictionary, lam, codes, 1e-6, 0)
    np.testing.assert_allclose(again, objective, rtol=1e-9)
    assert converged.all()


def test_a_violation_below_single_precision_is_seen():
    """The first atom has a code of .3 at a weight of .7. One of the others exceeds its own weight
    then, by a share of 3e-9.

    It is at an angle of cosine c, and comes to light late: the signal exceeds the weights of ten
    others by more. Rounding takes .7 down, so that the first atom seems satisfied to any tolerance.
    """
    share, cosines, basis = (
        3e-9,
        np.append(np.full(10, 0.95), np.linspace(0.1, 0.8, 30)),
        np.eye(50),
    )
    dictionary = np.stack(
        [
            basis[0],
            *(c * basis[0] + (1 - c**2) ** 0.5 * basis[j] for j, c in enumerate(cosines, 1)),
        ],
        axis=1,
    )
    for atom, c in enumerate(cosines[10:], 11):
        lam = np.append(np.full(11, 0.7), np.ones(30))
        lam[atom] = 0.7 * c * (1 - share)
        with jax.enable_x64(True):
            found = solve(basis[:1], dictionary, lam, tol=1e-12)
        # What the normal equations of both atoms give.
        np.testing.assert_allclose(found.codes[0, atom], 0.7 * share * c / (1 - c**2), rtol=1e-5)


def test_what_only_rounding_keeps_open_keeps_its_gap():
    rng = np.random.default_rng(0)
    # Copies, and weights so small that codes in single precision leave a larger gap than is asked
    # for.
    dictionary = rng.normal(size=(17, 40))[:, rng.integers(0, 40, 400)].astype(np.float32)
    signals, lam = (
        rng.normal(size=(6, 17)).astype(np.float32),
        (1e-4 * rng.random((1, 400))).astype(np.float32),
    )
    found = solve(signals, dictionary, lam, nonneg=False, tol=1e-9)
    assert not found.converged.all()
    assert np.all(np.asarray(found.gap) <= 1e-6 * np.asarray(found.objective))
    value, _ = score(signals, dictionary, found.codes, lam, nonneg=False)
    np.testing.assert_allclose(found.objective, value, rtol=1e-6)


def test_an_exact_fit_is_certified_by_an_objective_that_is_zero_but_for_rounding():
    rng = np.random.default_rng(0)
    signals, dictionary = rng.normal(size=(80, 8)), rng.normal(size=(8, 64))
    with jax.enable_x64(True):
        found = solve(signals, dictionary, 0.0, nonneg=False)
    rounding = 0.5 * (16 * np.finfo(float).eps) ** 2 * np.sum(signals**2, axis=1)
    np.testing.assert_array_equal(found.converged, np.asarray(found.objective) <= rounding)
    # Where atoms are summed that cancel each other, the rounding of their codes alone leaves more.
    size = np.linalg.norm(np.asarray(found.codes) * np.linalg.norm(dictionary, axis=0), axis=1)
    tame = size < 10 * np.linalg.norm(signals, axis=1)
    assert found.converged[tame].all() and tame.sum() > 70


def test_the_gap_of_rounded_codes_bounds_what_rounding_costs():
    signals, dictionary = coherent(0, 40, 20, 48, 5, cluster=8)
    found = solve(signals, dictionary, 0.003)
    with jax.enable_x64(True):
        double = solve(signals.astype(np.float64), dictionary.astype(np.float64), 0.003, tol=1e-12)
    value, _ = score(signals, dictionary, found.codes, 0.003)
    excess, gap = value - np.asarray(double.objective), np.asarray(found.gap, float)
    assert double.converged.all() and np.all(excess >= 0) and np.any(excess > 0)
    assert np.all(gap >= 0.99 * excess - 1e-17) and np.any(excess > 1e-16) and np.all(gap <= 1e-9)


@pytest.mark.parametrize("share", [0, 0.2])
def test_where_most_weights_are_zero_only_an_exact_fit_is_certified(share):
    """Nothing but zero is feasible in the dual where atoms cost nothing and rounding leaves a
    correlation; codes are right.
    """
    rng = np.random.default_rng(0)
    signals, dictionary, lam = (
        rng.normal(size=(6, 12)),
        rng.normal(size=(12, 8)),
        0.1 * (rng.uniform(size=8) < share),
    )
    with jax.enable_x64(True):
        found = solve(signals, dictionary, lam, nonneg=False)
    assert not found.converged.any() and np.all(np.asarray(found.gap) > 0)
    best = [least(signal, dictionary, lam, nonneg=False) for signal in signals]
    np.testing.assert_allclose(found.objective, best, rtol=1e-6)


def test_jax_takes_codes_as_they_are_without_a_copy():
    codes = [host.aligned_zeros((3, width), np.dtype(np.float32)) for width in range(1, 9)]
    assert all(map(np.shares_memory, jax.device_put(codes), codes))


def test_nothing_is_compiled_for_a_call_of_a_new_size(monkeypatch):
    from jax._src import compiler

    def never(*args, **options):
        raise AssertionError("XLA compiled something")

    monkeypatch.setattr(compiler, "compile_or_get_cached", never)
    monkeypatch.setattr(compiler, "backend_compile_and_load", never, raising=False)
    for n, latents in ((1, 71), (3, 71), (201, 67)):
        signals, dictionary = coherent(6, n, 29, latents, 4)
        for lam in (0.05, np.full(latents, 0.05), np.full((n, 1), 0.05)):
            solved = functools.partial(solve, signals, dictionary, lam)
            (
                solved(init=np.zeros((n, latents), np.float32)),
                solved(sparse=True),
                solved(nonneg=False),
            )
        jax.block_until_ready(sae_gap.sparse_code(signals, dictionary, 0.05))


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_units_whose_squares_are_out_of_range_are_refused(scale):
    signals, dictionary = draw()
    with pytest.raises(
        ValueError,
        match=r"^signals reach a magnitude of .*; multiply them, and any lam, by one factor",
    ):
        sae_gap.sparse_code(signals * np.float32(scale), dictionary, 0.1 * scale)
    with jax.enable_x64(True):
        found = sae_gap.sparse_code(
            signals.astype(np.float64) * scale, dictionary.astype(np.float64), 0.1 * scale
        )
    plain = sae_gap.sparse_code(signals, dictionary, 0.1)
    np.testing.assert_allclose(np.asarray(found.objective) / scale**2, plain.objective, rtol=1e-5)


def test_codes_of_many_entries_to_start_from_are_cut_to_the_largest():
    codes = np.array([[0, 3, 0, -5, 1], [0, 0, 0, 0, 2], [0, 0, 0, 0, 0]], np.float32)
    assert [set(row) for row in host._largest(codes, 2)] == [{1, 3}, {4, -1}, {-1}]
    assert [sorted(row) for row in host._largest(codes, 3)] == [
        [1, 3, 4],
        [-1, -1, 4],
        [-1, -1, -1],
    ]


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_iterations_that_skip_zeros_are_those_of_all_atoms(precision):
    signals, dictionary = (array.astype(precision) for array in draw())
    # By -1 a point goes back to the zero from which its code has just come.
    momenta = np.array([-1, 0, 0.3, *np.random.default_rng(0).uniform(size=30)], precision)
    pull, gram, rate, threshold = (
        signals @ dictionary,
        dictionary.T @ dictionary,
        precision(0.2),
        precision(0.02),
    )
    codes = np.zeros(pull.shape, precision)
    pull[3] = np.nan
    proximal.iterate_block(pull, gram, rate, threshold, momenta, codes)
    want = point = np.zeros(pull.shape)
    for momentum in momenta:
        before, want = want, np.maximum(point + rate * (pull - point @ gram) - threshold, 0)
        point = want + momentum * (want - before)
    assert 0 < np.count_nonzero(want) < want.size / 2
    np.testing.assert_allclose(codes, want, atol=2e-5 if precision == np.float32 else 1e-12)
