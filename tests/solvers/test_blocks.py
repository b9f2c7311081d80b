import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

import sae_gap
from sae_gap.solvers import blocks, fista

from .problems import SHAPE, draw, score


def coherent(seed, num_samples, input_dim, num_latents, support, cluster=16):
    """Clusters of atoms with a cosine of about a half, and signals that are sparse on them."""
    rng = np.random.default_rng(seed)
    dictionary = np.repeat(rng.normal(size=(-(-num_latents // cluster), input_dim)), cluster, axis=0)[:num_latents]
    dictionary = dictionary + rng.normal(size=dictionary.shape)
    dictionary /= np.linalg.norm(dictionary, axis=1, keepdims=True)
    codes = np.stack([rng.permutation(num_latents) < support for _ in range(num_samples)]) * rng.exponential(
        size=(num_samples, num_latents)
    )
    signals = codes @ dictionary
    signals /= np.linalg.norm(signals, axis=1, keepdims=True)
    return signals.astype(np.float32), dictionary.T.astype(np.float32)


# Dimensions and latents of most tests, since each shape is compiled anew: supports may outgrow the first slots.
DIM, LATENTS = 40, 120


def solve(signals, dictionary, lam, **options):
    return sae_gap.sparse_code(signals, dictionary, lam, solver="working_set", **options)


def never(*args, **options):
    raise AssertionError("FISTA was called for a sample that exact pivoting should solve.")


@pytest.mark.parametrize("nonneg", [True, False])
def test_supports_of_every_size_are_exact_and_need_no_fista(monkeypatch, nonneg):
    monkeypatch.setattr(blocks, "_fista", never)
    rng = np.random.default_rng(0)
    signals, dictionary = coherent(1, 60, DIM, LATENTS, 10)
    # Two thirds are sparse on the atoms, the others have dense signals; each sample has its own weight.
    signals[20:40] = rng.normal(size=(20, DIM)) / 8
    pull = signals @ dictionary
    share = np.concatenate([np.geomspace(1e-3, 0.9, 20), np.geomspace(1e-3, 0.3, 20), np.geomspace(1e-3, 0.9, 20)])
    lam = share * np.max(pull if nonneg else np.abs(pull), axis=1)
    solution = solve(signals, dictionary, lam[:, None], nonneg=nonneg)
    assert bool(jnp.all(solution.converged))
    sizes = np.count_nonzero(solution.codes, axis=1)
    assert sizes.max() > (20 if nonneg else blocks.FEWEST_SLOTS) and sizes.min() < 8, (
        "the problem was to have supports beyond the first width"
    )
    value, gap = score(signals, dictionary, solution.codes, lam[:, None], nonneg=nonneg)
    np.testing.assert_allclose(solution.objective, value, rtol=1e-5)
    # A certificate taken from rounded codes is off by their rounding beside the weight.
    assert np.all(gap <= (1e-6 + 1e-7 / share) * value)


def test_a_weight_near_zero_is_non_negative_least_squares():
    rng = np.random.default_rng(3)
    # Smaller than others, since least squares takes a pivot for nearly every dimension.
    _, dim, num_latents = SHAPE
    dictionary = rng.normal(size=(dim, num_latents)).astype(np.float32) / np.float32(dim**0.5)
    signals = rng.normal(size=(12, dim)).astype(np.float32)
    signals -= np.minimum(0, (signals @ dictionary).min(axis=1, keepdims=True)) * dictionary.mean(axis=1)
    solution = solve(signals, dictionary, 1e-4)
    for signal, codes in zip(signals, np.asarray(solution.codes), strict=True):
        exact, left = nnls(dictionary, signal)
        # What shrinks the codes cannot cost more than they did.
        assert 0.5 * np.sum((signal - dictionary @ codes) ** 2) + 1e-4 * codes.sum() <= 0.5 * left**2 + 1e-4 * exact.sum()
    assert bool(jnp.all(solution.converged))


def test_duplicate_and_dependent_atoms_are_no_obstacle():
    signals, dictionary = coherent(2, 40, 12, 24, 4)
    doubled = np.concatenate([dictionary, dictionary[:, ::2], dictionary[:, 1::2] * np.float32(2)], axis=1)
    for lam in (0.1, 0.01, 1e-3):
        # As many weights as atoms, for the program of `half`.
        one, two = solve(signals, dictionary, np.full(24, lam)), solve(signals, doubled, lam)
        assert bool(jnp.all(one.converged & two.converged))
        # Twice as long an atom halves its price: the optimum is that of those atoms at half the weight.
        weights = np.where(np.arange(24) % 2, lam / 2, lam)
        half = solve(signals, dictionary, weights)
        np.testing.assert_allclose(two.objective, half.objective, rtol=3e-6)
        assert np.all(np.asarray(two.objective) <= np.asarray(one.objective) * (1 + 3e-6))


@pytest.mark.parametrize("num_samples", [1, 300])
def test_bits_do_not_depend_on_the_threads(num_samples):
    signals, dictionary = coherent(4, num_samples, DIM, LATENTS, 5)
    lam = np.geomspace(1e-3, 0.3, num_samples)[:, None]
    alone = solve(signals, dictionary, lam, threads=1)
    for threads in (3, None):
        jax.tree.map(np.testing.assert_array_equal, solve(signals, dictionary, lam, threads=threads), alone)


def test_each_sample_has_its_own_answer_in_whatever_company():
    signals, dictionary = coherent(5, 300, DIM, LATENTS, 4)
    lam = np.geomspace(1e-2, 0.5, 300)[np.random.default_rng(0).permutation(300)][:, None]
    together = solve(signals, dictionary, lam)
    value, _ = score(signals, dictionary, together.codes, lam)
    np.testing.assert_allclose(together.objective, value, rtol=1e-5)
    exact = np.asarray(fista.solve(signals, dictionary, lam, tol=1e-5).objective)
    np.testing.assert_allclose(together.objective, exact, rtol=2e-5)
    few = np.array([3, 77, 299])
    np.testing.assert_allclose(solve(signals[few], dictionary, lam[few]).objective, together.objective[few], rtol=3e-6)


def test_samples_beyond_those_in_flight_are_solved_too(monkeypatch):
    signals, dictionary = draw(0, (70, 16, 40))
    whole = solve(signals, dictionary, 0.05)
    monkeypatch.setattr(blocks, "IN_FLIGHT", 32)
    monkeypatch.setattr(blocks, "TABLEAUS", 2**12)
    parts = solve(signals, dictionary, 0.05)
    np.testing.assert_allclose(parts.objective, whole.objective, rtol=2e-6)
    assert bool(jnp.all(parts.converged))


def test_what_pivoting_leaves_open_is_handed_to_fista(monkeypatch):
    # Sizes of their own, since a program that is compiled knows the number of rounds.
    signals, dictionary = draw(0, (30, 17, 41))
    spent, fista_of = [], blocks._fista

    def counted(*given, **options):
        solved = fista_of(*given, **options)
        spent.append(np.asarray(solved.iterations))
        return solved

    monkeypatch.setattr(blocks, "_fista", counted)
    # One round in each precision, which leaves some open, and nothing between these and FISTA.
    monkeypatch.setattr(blocks.working_set, "ROUNDS", 0.5)
    monkeypatch.setattr(blocks, "_polish", lambda *given: None)
    left = solve(signals, dictionary, 0.05)
    found = np.asarray(left.iterations)
    assert bool(jnp.all(left.converged)) and np.max(found) > 20, "these are iterations of FISTA"
    handed = np.flatnonzero(found > 3)
    np.testing.assert_array_equal(found[handed], spent[0][: len(handed)] + 1 + 1)
    _, gap = score(signals, dictionary, left.codes, 0.05)
    assert np.all(gap <= 2e-6 * np.asarray(left.objective))


def test_sizes_of_a_batch_and_weights_share_a_few_programs(monkeypatch):
    signals, dictionary = coherent(6, 900, DIM, LATENTS, 4)
    advance, programs = blocks._advance, set()

    def of_shapes(*given):
        programs.add(str(jax.tree.map(jax.typeof, given)))
        return advance(*given)

    monkeypatch.setattr(blocks, "_advance", of_shapes)
    for count, lam in ((900, 0.05), (777, 0.06), (350, 0.05), (5, 0.05), (2, 0.01)):
        solve(signals[:count], dictionary, lam)
    # Blocks of two sizes with 32 slots, and of one with 64; each with the Gram matrix of all atoms, or without for few samples.
    assert len(programs) <= 6


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "two"])
def test_a_number_of_threads_that_is_none_is_refused(threads):
    signals, dictionary = draw()
    with pytest.raises(ValueError, match=r"^threads must be a positive integer, but it is "):
        solve(signals, dictionary, 0.1, threads=threads)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_units_whose_squares_are_out_of_range_are_refused(scale):
    signals, dictionary = draw()
    with pytest.raises(ValueError, match=r"^signals reach a magnitude of .*; multiply signals and lam by the same factor"):
        sae_gap.sparse_code(signals * np.float32(scale), dictionary, 0.1 * scale)
    with jax.enable_x64(True):
        found = sae_gap.sparse_code(signals.astype(np.float64) * scale, dictionary.astype(np.float64), 0.1 * scale)
    plain = sae_gap.sparse_code(signals, dictionary, 0.1)
    np.testing.assert_allclose(np.asarray(found.objective) / scale**2, plain.objective, rtol=1e-5)


def test_supports_beyond_the_first_slots_need_no_double_precision(monkeypatch):
    pose = blocks._pose

    def single(dictionary, *args, **options):
        assert dictionary.dtype == np.float32, "samples whose slots are full go on with more of them, at the same precision"
        return pose(dictionary, *args, **options)

    widen, ended = blocks._widen, []

    def of_open_ones(problem, state, **options):
        ended.extend(np.asarray(state.done))
        return widen(problem, state, **options)

    monkeypatch.setattr(blocks, "_pose", single)
    monkeypatch.setattr(blocks, "_widen", of_open_ones)
    signals, dictionary = coherent(7, 60, DIM, LATENTS, 20)
    solution = solve(signals, dictionary, 0.03 * np.max(signals @ dictionary, axis=1))
    assert ended and not any(ended), "a sample that is done is worked on no more"
    assert bool(jnp.all(solution.converged)) and int(jnp.sum(solution.codes > 0, axis=1).max()) > blocks.FEWEST_SLOTS


def test_no_work_is_done_on_what_fills_a_block_up(monkeypatch):
    advance, begun = blocks._advance, []

    def counted(problem, state, least):
        begun.append(int(np.sum(~np.asarray(state.done))))
        return advance(problem, state, least)

    monkeypatch.setattr(blocks, "_advance", counted)
    solve(*coherent(6, 5, DIM, LATENTS, 4), 0.05)
    assert begun and max(begun) <= 5 < min(blocks.SHAPES)
