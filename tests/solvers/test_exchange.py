"""Pursuit with exchanges, against all supports of small problems."""

import itertools

import jax
import numpy as np
import pytest
import scipy.optimize

from sae_gap.solvers import exchange, exchange_pursuit

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


def test_from_any_start_of_atoms_that_may_be_the_same_one_it_gains_and_keeps_to_k():
    for seed in range(60):
        rng = np.random.default_rng(seed)
        dim, width = rng.integers(2, 7), rng.integers(2, 13)
        k = int(rng.integers(1, min(dim, width) + 1))
        atoms = rng.normal(size=(dim, width)) + rng.normal(size=(dim, 1)) * rng.integers(0, 3)
        atoms /= np.linalg.norm(atoms, axis=0)
        twins = rng.integers(0, width, (2, width // 3))
        atoms[:, twins[0]] = atoms[:, twins[1]]
        signals = rng.normal(size=(3, dim))
        given = rng.permuted(np.tile(np.arange(width), (3, 1)), axis=1) < rng.integers(0, k + 1)
        for start in (None, given):
            codes = exchange_pursuit(signals, atoms, k, start=start)
            first = exchange_pursuit(signals, atoms, k, start=start, exchanges=False)
            assert np.diff(codes.indptr).max() <= k and codes.data.min(initial=1) > 0
            left, most = errors(atoms, signals, codes), errors(atoms, signals, first)
            assert np.all(left <= most + 1e-5 * np.sum(signals**2, axis=1))
            # Free places are filled: one atom alone is no better.
            single = errors(atoms, signals, exchange_pursuit(signals, atoms, 1))
            assert np.all(left <= single + 1e-5 * np.sum(signals**2, axis=1))


def test_exchanges_promise_what_least_squares_gain_and_over_non_negative_codes_no_less(problems):
    for atoms, (signal,), _, codes in problems:
        support = np.flatnonzero(codes)
        inner, values = atoms[:, support].T @ atoms, codes[support]
        left, before = (signal - codes @ atoms.T) @ atoms, error(atoms, signal, support)
        inverse = exchange._inverse(inner[:, support])
        found = exchange._promise(inverse, inner, values, left, True)
        others = np.setdiff1d(np.arange(ATOMS), support)
        # As of each of very many atoms, which are looked at some at once.
        many = np.repeat(inner, 300, 1), values, np.repeat(left, 300), True
        wide = exchange._promise(inverse, *many).reshape(len(support) + 1, ATOMS, 300)
        each = np.repeat(found[:, others, None], 300 - ATOMS, 2)
        np.testing.assert_allclose(wide[:, others, ATOMS:], each, atol=1e-9)
        for place, atom in itertools.product(range(len(support) + 1), others):
            stay = np.delete(support, place) if place < len(support) else support
            new = [*stay, atom]
            # The value of the atom that enters may not be negative, those of others may.
            free = np.linalg.lstsq(atoms[:, new], signal)[0]
            chosen = new if free[-1] > 0 else stay
            rest = signal - atoms[:, chosen] @ np.linalg.lstsq(atoms[:, chosen], signal)[0]
            assert found[place, atom] == pytest.approx(before - rest @ rest, abs=1e-4)
            assert found[place, atom] > before - error(atoms, signal, new) - 1e-4


def test_codes_do_not_depend_on_how_many_atoms_are_looked_at_at_once(problems, monkeypatch):
    given = [(signals, atoms, K) for atoms, signals, *_ in problems]
    whole = [exchange_pursuit(*each).toarray() for each in given]
    monkeypatch.setattr(exchange, "TILE", 5)
    for each, codes in zip(given, whole, strict=True):
        np.testing.assert_allclose(exchange_pursuit(*each).toarray(), codes, atol=1e-6)


def test_a_slot_in_use_counts_behind_one_that_is_free():
    targets, atoms = np.ones((1, 3), np.float32), np.eye(3, 5, dtype=np.float32).T
    block = exchange._Block(targets, atoms, 3)
    block.values[0], block.inner[0] = [1, 0, 2], np.arange(15).reshape(3, 5)
    np.testing.assert_allclose(block._left(0), [1 - 20, 1 - 23, 1 - 26, -29, -32])


def test_its_start_is_orthogonal_pursuit_by_hand_of_each_row_alone(monkeypatch):
    rng = np.random.default_rng(1)
    atoms = rng.normal(size=(12, 60))
    lengths = np.linalg.norm(atoms, axis=0)
    given, atoms, signals = atoms * lengths, atoms / lengths, rng.normal(size=(9, 12))
    # Two rows at once.
    monkeypatch.setattr(exchange, "ROOM", 2 * 4 * 60)
    found = exchange_pursuit(signals, given, 4, exchanges=False).toarray()
    for signal, row in zip(signals, found, strict=True):
        chosen, values = [], np.zeros(0)
        for _ in range(4):
            pull = (signal - atoms[:, chosen] @ values) @ atoms
            pull[chosen] = -np.inf
            chosen.append(int(pull.argmax()))
            values = scipy.optimize.nnls(atoms[:, chosen], signal)[0]
        np.testing.assert_allclose(row[chosen], values, atol=1e-4)
        assert np.count_nonzero(row) == np.count_nonzero(values)
    again, codes = (exchange_pursuit(signals, given, 4, start=each) for each in (found, None))
    np.testing.assert_allclose(again.toarray(), codes.toarray(), atol=1e-5)


@pytest.mark.parametrize("scale", [2.0**-400, 2.0**400])
def test_codes_grow_with_signals_beyond_single_precision_and_zeros_have_none(problems, scale):
    atoms, signal = problems[0][:2]
    signals = np.vstack([signal, 0 * signal])
    with jax.enable_x64(True):
        found = exchange_pursuit(scale * signals, atoms / scale, K)
        codes = exchange_pursuit(signals, atoms, K)
    np.testing.assert_array_equal(found.toarray(), scale * codes.toarray())
    assert [*np.diff(codes.indptr)] == [K, 0]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"num_atoms": 0}, "num_atoms must be an integer of at least 1"),
        ({"num_atoms": 6}, "num_atoms must be an integer of at least 1 and of at most 5"),
        ({"signals": np.ones((1, 4))}, "disagree on input_dim"),
        ({"start": np.ones((1, 5))}, r"start must be codes of shape .* = \(1, 8\)"),
        ({"start": np.ones((2, 8))}, "start must be codes"),
        ({"start": np.arange(8.0)[None] > 4}, "at most num_atoms = 2 .* a row has up to 3; give"),
    ],
)
def test_what_makes_no_sense_is_refused(change, match):
    good = {"signals": np.ones((1, 5)), "dictionary": np.ones((5, 8)), "num_atoms": 2}
    with pytest.raises(ValueError, match=match):
        exchange_pursuit(**good | change)
