"""The MCC against brute force, the ways in which the published form differs from it, and the support
against scikit-learn; recovery of atoms against loops and SciPy's assignment, and a dictionary by
itself.
"""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import scipy.sparse
from numpy import eye
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose
from pytest import approx, mark, raises
from scipy.optimize import linear_sum_assignment
from scipy.stats import pearsonr
from sklearn.metrics import precision_recall_fscore_support

from sae_gap.core import Match, Model, Split, Task, match_atoms, nearest_atoms
from sae_gap.metrics import (
    Inferred,
    agreement,
    atom_scores,
    atom_statistics,
    describe_atoms,
    dictionary_recovery,
    groups_of,
    recovery,
    support_recovery,
)


def brute_force(true_codes, codes):
    """Definition of the strict MCC, by loops over columns and permutations."""
    active = [column for column in true_codes.T if column.var() > 1e-8]
    scores = np.array(
        [[abs(pearsonr(a, b)[0]) if np.ptp(b) else 0 for b in codes.T] for a in active]
    )
    wide = scores if scores.shape[0] <= scores.shape[1] else scores.T
    places = itertools.permutations(range(wide.shape[1]), len(wide))
    return max(wide[range(len(wide)), p].sum() for p in places) / len(active)


def sparse(rng, shape, density=0.4):
    return rng.random(shape) * (rng.random(shape) < density)


@mark.parametrize("width", [2, 4, 6])
@mark.parametrize("dtype", [np.float32, float])
def test_mcc_is_the_definition(width, dtype):
    rng = default_rng(width)
    truth = sparse(rng, (40, 5))
    codes = sparse(rng, (40, width))
    truth[:, 3] = 0.25
    # A variance of about 1e-6 is enough to count, and signs count.
    truth[:, 4] *= 3e-3
    truth[:20] *= -1
    codes[:, 0] = 0.5
    assert recovery.mcc(truth.astype(dtype), codes.astype(dtype)) == approx(
        brute_force(truth, codes), abs=1e-5
    )


def padded_by_hand(truth, codes, split):
    """The published form with all its columns, constant ones too, in one square assignment."""
    truth = truth[:, truth.var(axis=0) > 1e-8]
    if split == "ood":
        codes = codes[
            :, np.argsort(-codes.var(axis=0), kind="stable")[: truth.shape[1]]
        ]
    width = max(truth.shape[1], codes.shape[1])
    rng = default_rng(0)
    codes, truth = (
        np.hstack([part, rng.standard_normal((len(part), width - part.shape[1]))])
        for part in (codes, truth)
    )
    return brute_force(truth, codes)


@mark.parametrize("split", ["id", "ood"])
@mark.parametrize(
    ("dead", "still"), [([0, 3], []), ([1], [2]), (range(6), []), ([], [1])]
)
@mark.parametrize("width", [4, 6])
def test_constant_columns_count_as_nothing_in_the_published_form(
    split, dead, still, width
):
    rng = default_rng(11)
    truth = sparse(rng, (40, 5))
    codes = sparse(rng, (40, width))
    codes[:, [place for place in dead if place < width]] = 0
    truth[:, still] = 0
    expected = padded_by_hand(truth, codes, split)
    truth, codes = map(scipy.sparse.csr_array, (truth, codes))
    assert recovery.mcc_paper(truth, codes, split) == approx(expected, abs=1e-9)


@mark.parametrize("width", [20_000, 20_001])
def test_measure_scores_each_split_in_its_own_form(width):
    """The published one is left out where it would be all noise, and all of a constant truth."""
    rng = default_rng(14)
    truth = sparse(rng, (3, 40, 4))
    few = sparse(rng, (40, 7))
    truth[2] = 1
    codes = scipy.sparse.csr_array(np.pad(few, ((0, 0), (0, width - 7))))
    task = Task(*(Split(jnp.zeros((40, 2)), part) for part in truth), width=4)
    held = dict.fromkeys(("train", "id", "ood"), codes)
    found = recovery.METRIC(
        Inferred(task, Model(None, jnp.zeros(2)), held, {}, 0.1, "strict")
    )
    wanted = {"mcc_id": recovery.mcc(truth[1], few)}
    if width == 20_000:
        wanted["mcc_paper_id"] = recovery.mcc_paper(truth[1], codes, "id")
    assert found == approx(wanted)


def test_bad_input_is_refused():
    for message, *codes in (
        ("codes must be finite", eye(4), np.full((4, 4), np.nan)),
        ("nothing to recover", np.ones((4, 3)), eye(4)),
        ("same samples", eye(4), eye(4)[:3]),
    ):
        with raises(ValueError, match=message):
            recovery.mcc_paper(*codes, "id")


@mark.parametrize(("learned", "true"), [(10, 6), (6, 8)])
def test_support_against_scikit_learn_sample_by_sample(learned, true):
    rng = default_rng(learned)
    truth = sparse(rng, (60, true), 0.2)
    codes = sparse(rng, (60, learned), 0.3)
    codes *= rng.choice([-1, 1], codes.shape)
    codes[:, 0] *= 3e-4
    # Empty supports, and true atoms without a partner.
    truth[:5] = 0
    codes[3:9] = 0
    order = rng.permutation(max(learned, true))[:true]
    match = Match(np.where(order < learned, order, -1), np.ones(true))
    paired = np.pad(codes, ((0, 0), (0, max(0, true - learned))))[:, order]
    expected = [
        precision_recall_fscore_support(*pair, average="binary", zero_division=0)[:3]
        for pair in zip(abs(truth) > 1e-4, abs(paired) > 1e-4, strict=True)
    ]
    wanted = [*np.mean(expected, axis=0), np.mean(np.sum(abs(codes) > 1e-4, axis=1))]
    assert [*support_recovery(match, truth, codes).values()] == approx(wanted)


def score(learned, truth):
    return dictionary_recovery(match_atoms(learned, truth), learned, truth)


def test_against_a_loop_over_matched_atoms():
    rng = default_rng(0)
    truth = rng.standard_normal((6, 10))
    learned = (truth + 0.4 * rng.standard_normal(truth.shape))[
        :, rng.permutation(10)
    ] * rng.uniform(0.5, 2, 10)
    cosines = []
    angles = []
    ratios = []
    for atom, partner in zip(
        truth.T, learned.T[match_atoms(learned, truth).learned], strict=True
    ):
        lengths = math.hypot(*atom), math.hypot(*partner)
        cosines.append(abs(atom @ partner) / math.prod(lengths))
        angles.append(math.acos(min(cosines[-1], 1)))
        ratios.append(lengths[1] / lengths[0])
    found = score(learned, truth)
    wanted = dict(
        zip(("cosine", "angle", "norm_ratio"), (cosines, angles, ratios), strict=True)
    )
    for name, values in wanted.items():
        assert found[name] == approx(np.mean(values))
    assert found["cosines"] == approx(sorted(cosines, reverse=True), abs=5.1e-5)
    assert found["close"] == np.mean(np.array(cosines) > 0.9)
    # Very many are told by fewer.
    many = rng.random(25_000)
    shown = dictionary_recovery(
        Match(np.arange(25_000), many), *2 * [np.ones((1, 25_000))]
    )
    wanted = np.quantile(many, np.linspace(0, 1, 10_000))
    assert_allclose(shown["cosines"][::-1], wanted, atol=2e-4)


@mark.parametrize("learned", [np.diag([0, 0, 1, 1]), eye(4)[:, 2:]])
def test_dead_and_missing_atoms_count_as_nothing_found(learned):
    found = score(learned, eye(4))
    assert found["cosine"] == found["close"] == found["norm_ratio"] == 0.5
    assert found["angle"] == approx(math.pi / 4) and found["cosines"] == [1, 1, 0, 0]
    # A true atom of zeros has no ratio.
    assert score(2 * eye(4), learned @ learned.T)["norm_ratio"] == 2


def unit(seed, columns):
    matrix = default_rng(seed).standard_normal((6, columns)).astype(np.float32)
    return matrix / norm(matrix, axis=0)


@mark.parametrize(("learned", "true"), [(5, 9), (9, 5)])
def test_atom_scores_are_those_of_the_assignment(learned, true):
    atoms = unit(0, learned) * 3
    truth = unit(1, true)
    cosine = np.abs((atoms / 3).T @ truth)
    rows, columns = linear_sum_assignment(-cosine)
    nearest = nearest_atoms(atoms, truth)
    groups = {"first": np.arange(3), "none": np.zeros(0, int)}
    found = atom_scores(match_atoms(atoms, truth), learned, nearest, groups)
    pairs = dict(zip(columns.tolist(), cosine[rows, columns], strict=True))
    assert found == approx(
        {
            "atom_mcc": np.mean([*pairs.values()]),
            "uniqueness": len(set(cosine.argmax(axis=1))) / learned,
            "atom_mcc_first": np.mean([pairs[i] for i in range(3) if i in pairs]),
        },
        abs=1e-6,
    )


def test_groups_are_levels_and_quartiles():
    codes = np.zeros((20, 8), np.float32)
    for feature, fired in enumerate((3, 20, 1, 5, 7, 0, 9, 2)):
        codes[:fired, feature] = 1
    levels = {"roots": [0, 1], "children": [2, 3], "grandchildren": [4]}
    levels |= {"great_grandchildren": [], "free": [6, 7]}
    levels |= {"frequent": [1, 6], "common": [4, 3], "uncommon": [0, 7], "rare": [2, 5]}
    found = groups_of(codes, np.array([0, 0, 1, 1, 2, 4, -1, -1]))
    assert {name: group.tolist() for name, group in found.items()} == levels


def test_a_dictionary_is_described_as_by_loops(monkeypatch):
    monkeypatch.setattr(atom_statistics, "_COSINES", 60)
    dictionary = default_rng(1).normal(size=(40, 20))
    dictionary[:, 3] = -2 * dictionary[:, 5]
    dictionary[:, 7] = 0
    found = describe_atoms(dictionary)
    assert (found["dead_atoms"], found["duplicates"]) == (1, 2)
    live = np.delete(dictionary, 7, axis=1) / norm(
        np.delete(dictionary, 7, axis=1), axis=0
    )
    largest = np.max(np.abs(live.T @ live - eye(19)), axis=0)
    assert_allclose(found["coherence"], np.percentile(largest, range(101)), atol=1e-5)
    alone = describe_atoms(dictionary[:, 6:8])
    assert alone == {"dead_atoms": 1, "duplicates": 0, "coherence": []}


def test_agreement_is_blind_to_order_sign_and_length():
    rng = default_rng(2)
    dictionary = rng.normal(size=(12, 9))
    same = dictionary[:, rng.permutation(9)] * np.where(rng.random(9) < 0.5, -1, 2)
    assert agreement(dictionary, same) == approx(1)
    with raises(ValueError, match="one shape"):
        agreement(dictionary, dictionary[:, :4])
