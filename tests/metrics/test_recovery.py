"""The MCC against brute force, the ways in which the published form differs from it, and the
support against scikit-learn.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from scipy.stats import pearsonr
from sklearn.metrics import precision_recall_fscore_support

from sae_gap.core import Match, Model, Split, Task
from sae_gap.metrics import Inferred, recovery, support_recovery


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


@pytest.mark.parametrize("width", [2, 4, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mcc_is_the_definition(width, dtype):
    rng = np.random.default_rng(width)
    truth, codes = sparse(rng, (40, 5)), sparse(rng, (40, width))
    truth[:, 3] = 0.25
    # A variance of about 1e-6 is enough to count, and signs count.
    truth[:, 4] *= 3e-3
    truth[:20] *= -1
    codes[:, 0] = 0.5
    assert recovery.mcc(truth.astype(dtype), codes.astype(dtype)) == pytest.approx(
        brute_force(truth, codes), abs=1e-5
    )


def padded_by_hand(truth, codes, split):
    """The published form with all its columns, constant ones too, in one square assignment."""
    truth = truth[:, truth.var(axis=0) > 1e-8]
    if split == "ood":
        codes = codes[:, np.argsort(-codes.var(axis=0), kind="stable")[: truth.shape[1]]]
    width = max(truth.shape[1], codes.shape[1])
    rng = np.random.default_rng(0)
    codes, truth = (
        np.hstack([part, rng.standard_normal((len(part), width - part.shape[1]))])
        for part in (codes, truth)
    )
    return brute_force(truth, codes)


@pytest.mark.parametrize("split", ["id", "ood"])
@pytest.mark.parametrize(("dead", "still"), [([0, 3], []), ([1], [2]), (range(6), []), ([], [1])])
@pytest.mark.parametrize("width", [4, 6])
def test_constant_columns_count_as_nothing_in_the_published_form(split, dead, still, width):
    rng = np.random.default_rng(11)
    truth, codes = sparse(rng, (40, 5)), sparse(rng, (40, width))
    codes[:, [place for place in dead if place < width]] = 0
    truth[:, still] = 0
    expected = padded_by_hand(truth, codes, split)
    truth, codes = map(scipy.sparse.csr_array, (truth, codes))
    assert recovery.mcc_paper(truth, codes, split) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("width", [20_000, 20_001])
def test_measure_scores_each_split_in_its_own_form(width):
    """The published one is left out where it would be all noise, and all of a constant truth."""
    rng = np.random.default_rng(14)
    truth, few = sparse(rng, (3, 40, 4)), sparse(rng, (40, 7))
    truth[2] = 1
    codes = scipy.sparse.csr_array(np.pad(few, ((0, 0), (0, width - 7))))
    task = Task(*(Split(jnp.zeros((40, 2)), part) for part in truth), width=4)
    held = dict.fromkeys(("train", "id", "ood"), codes)
    found = recovery.METRIC(Inferred(task, Model(None, jnp.zeros(2)), held, {}, 0.1, "strict"))
    wanted = {"mcc_id": recovery.mcc(truth[1], few)}
    if width == 20_000:
        wanted["mcc_paper_id"] = recovery.mcc_paper(truth[1], codes, "id")
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (np.eye(4), np.full((4, 4), np.nan), "codes must be finite"),
        (np.ones((4, 3)), np.eye(4), "nothing to recover"),
        (np.eye(4), np.eye(4)[:3], "same samples"),
    ],
)
def test_bad_input_is_refused(left, right, message):
    with pytest.raises(ValueError, match=message):
        recovery.mcc_paper(left, right, "id")


@pytest.mark.parametrize(("learned", "true"), [(10, 6), (6, 8)])
def test_support_against_scikit_learn_sample_by_sample(learned, true):
    rng = np.random.default_rng(learned)
    truth, codes = sparse(rng, (60, true), 0.2), sparse(rng, (60, learned), 0.3)
    codes *= rng.choice([-1, 1], codes.shape)
    codes[:, 0] *= 3e-4
    # Empty supports, and true atoms without a partner.
    truth[:5], codes[3:9] = 0, 0
    order = rng.permutation(max(learned, true))[:true]
    match = Match(np.where(order < learned, order, -1), np.ones(true))
    paired = np.pad(codes, ((0, 0), (0, max(0, true - learned))))[:, order]
    expected = [
        precision_recall_fscore_support(*pair, average="binary", zero_division=0)[:3]
        for pair in zip(abs(truth) > 1e-4, abs(paired) > 1e-4, strict=True)
    ]
    wanted = [*np.mean(expected, axis=0), np.mean(np.sum(abs(codes) > 1e-4, axis=1))]
    assert [*support_recovery(match, truth, codes).values()] == pytest.approx(wanted)
