"""Support recovery against scikit-learn, sample by sample."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from sae_gap.core import Match, match_atoms
from sae_gap.metrics import support_recovery


def identity(width):
    return match_atoms(np.eye(width), np.eye(width))


def sparse(rng, shape, density=0.3):
    return rng.random(shape) * (rng.random(shape) < density)


@pytest.mark.parametrize("seed", range(3))
def test_against_scikit_learn_sample_by_sample(seed):
    rng = np.random.default_rng(seed)
    truth, codes = sparse(rng, (60, 8), 0.2), sparse(rng, (60, 8)) * rng.choice([-1, 1], (60, 8))
    order = rng.permutation(8)
    match = Match(learned=order, cosine=rng.choice([-0.9, 0.9], 8))
    expected = np.mean(
        [
            precision_recall_fscore_support(
                abs(z) > 1e-4, abs(code[order]) > 1e-4, average="binary", zero_division=0
            )[:3]
            for z, code in zip(truth, codes, strict=True)
        ],
        axis=0,
    )
    found = support_recovery(match, truth, codes)
    assert [found[f"support_{name}"] for name in ("precision", "recall", "f1")] == pytest.approx(
        expected.tolist()
    )
    assert found["support_l0"] == np.mean([np.sum(abs(code) > 1e-4) for code in codes])


def test_undefined_ratios_are_zero():
    truth = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    codes = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    assert support_recovery(identity(2), truth, codes) == {
        "support_precision": 0.25,
        "support_recall": 0.25,
        "support_f1": 0.25,
        "support_l0": 0.75,
    }


def test_unmatched_columns_count_in_the_l0_only():
    truth = np.ones((2, 2))
    wide = match_atoms(np.eye(4), np.eye(4)[:, :2])
    assert support_recovery(wide, truth, np.ones((2, 4))) == {
        "support_precision": 1,
        "support_recall": 1,
        "support_f1": 1,
        "support_l0": 4,
    }
    narrow = match_atoms(np.eye(2)[:, :1], np.eye(2))
    found = support_recovery(narrow, truth, np.ones((2, 1)))
    assert (found["support_precision"], found["support_recall"], found["support_l0"]) == (1, 0.5, 1)
    assert found["support_f1"] == pytest.approx(2 / 3)
