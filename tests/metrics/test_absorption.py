"""Absorption, by hand."""

import numpy as np
import pytest
import scipy.sparse

from sae_gap.metrics.absorption import absorption


def test_absorption_is_the_recall_that_a_child_takes(monkeypatch):
    monkeypatch.setattr("sae_gap.core.codes._AT_ONCE", 40)
    # Feature 0 has the children 1 and 2, feature 3 the child 4; feature 5 is free.
    parent = np.array([-1, 0, 0, -1, 3, -1])
    truth = np.zeros((60, 6), np.float32)
    truth[:40, 0], truth[:10, 1], truth[10:20, 2], truth[20:28, 4], truth[20:, 3] = 1, 1, 1, 1, 1
    codes = np.zeros((60, 5), np.float32)
    # Latent 2 of feature 0: in 5 of the 20 samples with a child, in 18 of the 20 without.
    codes[15:38, 2] = 1
    codes[0, 2] = 0.05
    partner = np.array([2, 0, 1, 3, -1, 4])
    # Feature 3 has but 8 samples with its child.
    assert absorption(parent, partner, truth, codes, 0.1) == pytest.approx(18 / 20 - 5 / 20)
    assert absorption(
        parent, partner, *map(scipy.sparse.csr_array, (truth, codes))
    ) == pytest.approx(18 / 20 - 6 / 20)
    # Each latent has its own least magnitude, and feature 0 has latent 2.
    assert absorption(parent, partner, truth, codes, [9, 9, 0.1, 9, 9]) == pytest.approx(
        18 / 20 - 5 / 20
    )
    assert absorption(parent, partner, truth, codes, (0, 0, 2, 0, 0)) == 0
    # Signed codes fire by their size.
    assert absorption(parent, partner, truth, -codes, 0.1) == pytest.approx(18 / 20 - 5 / 20)
    assert absorption(parent, np.where(partner == 2, -1, partner), truth, codes) is None
    assert absorption(np.full(6, -1), partner, truth, codes) is None


@pytest.mark.parametrize(
    ("beside", "alone", "expected"), [(10, 10, 1.0), (9, 10, None), (10, 9, None)]
)
def test_a_parent_is_judged_by_ten_samples_of_either_kind(beside, alone, expected):
    truth, codes = np.zeros((25, 2), np.float32), np.zeros((25, 1), np.float32)
    truth[: beside + alone, 0], truth[:beside, 1] = 1, 1
    codes[beside : beside + alone] = 1
    assert absorption(np.array([-1, 0]), np.array([0, -1]), truth, codes) == expected
