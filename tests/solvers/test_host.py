"""What only the compiled loops do: slots that grow, tiles, threads, memory that is used again."""

import concurrent.futures
import functools

import jax
import numpy as np
from numpy import append, asarray, float32, full, geomspace, ones, zeros
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import mark

from benchmarks.speed.scores import score
from sae_gap.loops import active_set, block, proximal
from sae_gap.solvers import host, sparse_code

from . import test_certificates as certificates
from .problems import SIGNS, draw
from .test_certificates import certified


@SIGNS
def test_supports_outgrow_their_slots(monkeypatch, nonneg):
    monkeypatch.setattr(host, "default_slots", lambda *shape: 0)
    batch = certificates.draw(0, kind="gaussian", shape=(60, 40, 120))
    lam = geomspace(1e-3, 9, 60)[:, None].astype(float32)
    found = certified(batch._replace(lam=lam, nonneg=nonneg))
    sizes = np.count_nonzero(found.codes, axis=1)
    assert sizes.max() > 2 * active_set.FEWEST > sizes.min()


@mark.parametrize("precision", [float32, np.float64])
def test_atoms_of_several_tiles_are_all_looked_at(precision, monkeypatch):
    monkeypatch.setattr(block, "TILE", 40)
    with jax.enable_x64(precision == np.float64):
        batch = certificates.draw(0, precision, "gaussian", (20, 12, 84))
        used = np.flatnonzero(certified(batch).codes.any(axis=0)) // block.TILE
    assert {*used} == {0, 1, 2}


def test_codes_that_vanish_as_another_atom_fits_the_signal_exactly_are_not_negative():
    """The longer atoms enter first. They leave all at once as the last one, of which the signals
    are multiples, is in.
    """
    rng = default_rng(0)
    with jax.enable_x64(True):
        for _ in range(40):
            dictionary = np.abs(rng.normal(size=(5, 6)))
            dictionary /= norm(dictionary, axis=0) * append(rng.uniform(0.85, 1, 5), 1)
            found = sparse_code(
                rng.uniform(1, 2, (500, 1)) * dictionary[:, -1], dictionary, 0.0
            )
            assert found.codes.min() >= 0


@mark.parametrize("num_samples", [1, 300])
def test_bits_do_not_depend_on_the_threads(num_samples, monkeypatch):
    signals, dictionary = draw(4, (num_samples, 40, 120), 5)
    lam = geomspace(1e-3, 0.3, num_samples)
    shared = sparse_code(signals, dictionary, lam)
    for threads in (1, 3):
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            monkeypatch.setattr(
                host,
                "on_cores",
                lambda work, pieces, pool=pool: list(pool.map(work, pieces)),
            )
            found = sparse_code(signals, dictionary, lam)
            jax.tree.map(assert_array_equal, found, shared)


def test_bits_do_not_depend_on_what_memory_held_before(monkeypatch):
    rng = default_rng(0)
    whole = block.room
    # Atoms so alike that the inverse of a basis is lost to rounding, and samples without codes,
    # which come first.
    dictionary = rng.normal(size=(17, 28)) + 1e4 * rng.normal(size=(17, 1))
    dictionary /= norm(dictionary, axis=0)
    lam = append(full(5, 10.0), full(35, 1e-9))
    given = rng.normal(size=(40, 17)), dictionary, lam
    with jax.enable_x64(True):
        answer = functools.partial(sparse_code, *given, nonneg=False, max_iterations=30)
        clean = answer()
        for left in (np.nan, 1.0):

            def room(*given, left=left):
                arrays = whole(*given)
                for array in jax.tree.leaves(arrays):
                    if array.dtype.kind == "f":
                        array.fill(left)
                return arrays

            monkeypatch.setattr(block, "room", room)
            jax.tree.map(assert_array_equal, answer(), clean)


@SIGNS
def test_few_atoms_are_all_pivoted_on_at_once(nonneg):
    """One product begins and another one certifies, also where more atoms have codes than there are
    slots to begin with.
    """
    shape = 130, 40, host.FEW_LATENTS
    lam = geomspace(0.01, 100, 130)[:, None].astype(float32)
    batch = certificates.draw(0, kind="gaussian", shape=shape)._replace(
        lam=lam, nonneg=nonneg
    )
    found = certified(batch)
    count = np.count_nonzero(found.codes, axis=1)
    few = count < host.default_slots(*shape[1:])
    assert few.any() and not few.all() and np.all(found.iterations[few] <= 3)
    assert np.mean(found.iterations[few] == 2) > 0.9
    # Codes to begin with take only the product that certifies them.
    assert np.mean(certified(batch, init=found.codes).iterations[few] == 1) > 0.9


def test_a_violation_below_single_precision_is_seen():
    """The first atom has a code of .3 at the weight .7. One of the others exceeds it then, by a
    share of 3e-9, for it is longer than its angle, of cosine c, tells.

    It comes to light late: the signal exceeds the weight by more along ten others. Rounding takes
    .7 down, so that the first atom seems satisfied to any tolerance.
    """
    share = 3e-9
    basis = np.eye(50)
    cosines = append(full(10, 0.95), np.linspace(0.1, 0.8, 30))
    rows = [
        c * basis[0] + (1 - c**2) ** 0.5 * basis[j] for j, c in enumerate(cosines, 1)
    ]
    for atom, c in enumerate(cosines[10:], 11):
        lengths = append(ones(11), full(30, 0.7))
        lengths[atom] = 1 / (c * (1 - share))
        with jax.enable_x64(True):
            dictionary = np.stack([basis[0], *rows], axis=1) * lengths
            found = sparse_code(basis[:1], dictionary, 0.7, tol=1e-12)
            code = asarray(found.codes)[0, atom] * lengths[atom]
        # What the normal equations of both atoms give.
        assert_allclose(code, 0.7 * share * c / (1 - c**2), rtol=1e-5)


def test_what_only_rounding_keeps_open_keeps_its_gap():
    """With copies, and weights so small that codes in single precision leave a larger gap than is
    asked for.
    """
    batch = certificates.draw(0, kind="duplicate", shape=(6, 17, 400))
    found = sparse_code(*batch[1:3], 1e-6, nonneg=False, tol=1e-9)
    assert not found.converged.all()
    assert np.all(asarray(found.gap) <= 1e-5 * asarray(found.objective))
    value, _ = score(*batch[1:3], found.codes, 1e-6, nonneg=False)
    assert_allclose(found.objective, value, rtol=1e-6)


@mark.parametrize("num_latents", [5, 64])
def test_without_a_weight_only_an_exact_fit_is_certified(num_latents):
    """Its objective is zero but for rounding; of other codes, which are right, nothing but zero is
    feasible in the dual.
    """
    rng = default_rng(0)
    signals = rng.normal(size=(80, 8))
    dictionary = rng.normal(size=(8, num_latents))
    with jax.enable_x64(True):
        found = sparse_code(signals, dictionary, 0.0, nonneg=False)
    best = 0.5 * np.sum(
        (signals @ (np.eye(8) - dictionary @ np.linalg.pinv(dictionary))) ** 2, 1
    )
    assert_allclose(found.objective, best, atol=1e-9)
    rounding = 0.5 * (16 * np.finfo(float).eps) ** 2 * np.sum(signals**2, axis=1)
    assert_array_equal(found.converged, asarray(found.objective) <= rounding)


def test_jax_takes_codes_as_they_are_without_a_copy():
    codes = [host.aligned_zeros((3, width), np.dtype(float32)) for width in range(1, 9)]
    assert all(map(np.shares_memory, jax.device_put(codes), codes))


def test_nothing_is_compiled_for_a_call_of_a_new_size(monkeypatch):
    from jax._src import compiler

    monkeypatch.delattr(compiler, "compile_or_get_cached")
    for n, latents in ((1, 71), (201, 67)):
        signals, dictionary = draw(6, (n, 29, latents))
        init = zeros((n, latents), float32)
        lam = full((n, 1), 0.05)
        for options in (
            {},
            {"init": init},
            {"sparse": True},
            {"support": init},
            {"nonneg": False},
        ):
            jax.block_until_ready(sparse_code(signals, dictionary, lam, **options))


def test_codes_of_many_entries_to_start_from_are_cut_to_the_largest():
    codes = host._stored([[0, 3, 0, -5, 1], [0, 0, 0, 0, 2], [0, 0, 0, 0, 0]])
    assert [{*row} for row in host._largest(codes, 2)] == [{1, 3}, {4, -1}, {-1}]
    assert host._largest(codes, 3)[0].tolist() == [1, 3, 4]


def test_iterations_that_skip_zeros_are_those_of_all_atoms():
    signals, dictionary = map(np.float64, draw())
    # By -1 a point goes back to the zero from which its code has just come.
    momenta = np.array([-1, 0, 0.3, *default_rng(0).uniform(size=30)])
    pull = signals @ dictionary
    gram = dictionary.T @ dictionary
    pull[3] = np.nan
    codes = zeros(pull.shape)
    proximal.iterate_block(pull, gram, 0.2, 0.02, momenta, codes)
    want = point = zeros(pull.shape)
    for momentum in momenta:
        before = want
        want = np.maximum(point + 0.2 * (pull - point @ gram) - 0.02, 0)
        point = want + momentum * (want - before)
    assert 0 < np.count_nonzero(want) < want.size / 2
    assert_allclose(codes, want, atol=1e-12)


def test_atoms_outside_of_all_supports_are_zero(monkeypatch):
    """Memory that nobody wrote may hold anything."""
    atoms = default_rng(0).normal(size=(4, 6))
    monkeypatch.setattr(np, "empty", lambda shape, kind: full(shape, 1e300, kind))
    posed = host.pose(ones((2, 4)), atoms, ones((2, 1)), np.array([0, 3])).atoms
    assert_array_equal(posed.any(axis=1), np.isin(np.arange(6), [0, 3]))
