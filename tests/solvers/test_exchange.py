"""Pursuit with exchanges, against all supports of small problems."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse

from sae_gap.measure.decomposition import boxed_bound
from sae_gap.solvers.exchange import exchange_pursuit

ATOMS, K, DIM = 8, 3, 5


def error(atoms, signal, support):
    return scipy.optimize.nnls(atoms[:, support], signal)[1] ** 2


def errors(atoms, signals, codes):
    return np.sum((signals - codes @ atoms.T) ** 2, axis=1)


@pytest.fixture(scope="module")
def problems():
    """40 dictionaries of unit atoms that lean on each other, a noisy signal of three atoms each, the
    least error of all supports of three, and the codes there.
    """
    rng, found = np.random.default_rng(0), []
    for _ in range(40):
        atoms = rng.normal(size=(DIM, ATOMS)) + rng.normal(size=(DIM, 1))
        atoms /= np.linalg.norm(atoms, axis=0)
        true = np.abs(rng.normal(size=ATOMS)) * (rng.permutation(ATOMS) < K)
        signal = true @ atoms.T + 0.3 * rng.normal(size=DIM)
        subsets = [list(each) for each in itertools.combinations(range(ATOMS), K)]
        best = min(subsets, key=lambda each: error(atoms, signal, each))
        codes = np.zeros(ATOMS)
        codes[best] = scipy.optimize.nnls(atoms[:, best], signal)[0]
        found.append((atoms, signal[None], error(atoms, signal, best), codes))
    return found


def test_no_exchange_helps_and_most_are_the_best_of_all_supports(problems):
    exact = np.zeros(2)
    for atoms, signal, least, _ in problems:
        plain, codes = (exchange_pursuit(signal, atoms, K, exchanges=on) for on in (False, True))
        (left,) = errors(atoms, signal, codes)
        assert left <= errors(atoms, signal, plain)[0] + 1e-6 and codes.data.min() > 0
        support = codes.indices.tolist()
        for gone, new in itertools.product(support, range(ATOMS)):
            other = [*({*support} - {gone} | {new})]
            assert error(atoms, signal[0], other) > left - 1e-4
        # Values are those of least squares on the support.
        assert left == pytest.approx(error(atoms, signal[0], support), abs=1e-5)
        exact += [errors(atoms, signal, each)[0] < least + 1e-5 for each in (plain, codes)]
    # The pursuit alone finds fewer than half of them.
    assert exact[0] < 20 and exact[1] >= 36


def test_exchanges_go_on_from_any_start_and_free_slots_fill(problems):
    for atoms, signal, _, _ in problems[:10]:
        for start in ([0, 1, 2], [5], []):
            given = np.zeros((1, ATOMS))
            given[0, start] = 1
            codes = exchange_pursuit(signal, atoms, K, start=scipy.sparse.csr_array(given))
            assert codes.nnz <= K
            (left,) = errors(atoms, signal, codes)
            assert left <= (error(atoms, signal[0], start) if start else np.sum(signal**2)) + 1e-6
            assert left <= errors(atoms, signal, exchange_pursuit(signal, atoms, 1))[0] + 1e-6


def test_its_start_is_orthogonal_pursuit_by_hand_of_each_row_alone(problems):
    rng = np.random.default_rng(1)
    atoms = rng.normal(size=(12, 60))
    atoms /= np.linalg.norm(atoms, axis=0)
    signals = rng.normal(size=(9, 12))
    found = exchange_pursuit(signals, 3 * atoms, 4, exchanges=False).toarray()
    for signal, row in zip(signals, found, strict=True):
        chosen, values = [], np.zeros(0)
        for _ in range(4):
            pull = (signal - atoms[:, chosen] @ values) @ atoms
            pull[chosen] = -np.inf
            chosen.append(int(pull.argmax()))
            values = scipy.optimize.nnls(atoms[:, chosen], signal)[0]
        np.testing.assert_allclose(row[chosen], values, atol=1e-4)
        assert np.count_nonzero(row) == np.count_nonzero(values)


def test_no_code_in_the_box_captures_more_than_the_bound(problems):
    """For any θ; at the best one it is the optimum of the relaxation."""
    rng = np.random.default_rng(2)
    for atoms, signal, least, codes in problems:
        captured = 1 - least / np.sum(signal**2)
        most = codes[None].max(axis=1)
        duals = [signal, rng.normal(size=signal.shape), signal - codes @ atoms.T]
        for scale in (0.3, 1):
            duals.append(signal - scale * signal @ atoms @ atoms.T / 8)
        for dual in duals:
            assert boxed_bound(signal, atoms, dual, K, most)[0] > captured - 1e-9
    # For one atom in the box of 3 the relaxation takes 1 off each of 3, 2 and 1.
    basis, values = np.eye(4), np.array([[3.0, 2, 1, 0]])
    bounds = [boxed_bound(values, basis, values.clip(0, top), 1, np.full(1, 3)) for top in (1, 2)]
    assert min(bounds) == pytest.approx(1 - 3 / 14)


def test_a_signal_of_zeros_has_no_codes():
    assert exchange_pursuit(np.zeros((2, 4)), np.eye(4), 2).nnz == 0


@pytest.mark.parametrize(("k", "match"), [(0, "num_atoms"), (6, "num_atoms"), (1.5, "num_atoms")])
def test_what_makes_no_sense_is_refused(k, match):
    with pytest.raises(ValueError, match=match):
        exchange_pursuit(np.ones((1, 5)), np.ones((5, 8)), k)
