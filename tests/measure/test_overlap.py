"""Overlap of supports against sets."""

import numpy as np
import pytest

from sae_gap.measure import support_overlap


def test_overlap_is_that_of_sets():
    rng = np.random.default_rng(0)
    codes, best = (rng.normal(size=(20, 9)) * (rng.random((20, 9)) < 0.4) for _ in range(2))
    codes[:, 8] = best[:, 8] = 0
    codes[:, 7], best[:, 6] = 0, 0
    found = support_overlap(codes, best)
    for sample in range(20):
        mine, his = set(np.flatnonzero(codes[sample])), set(np.flatnonzero(best[sample]))
        assert found.jaccard[sample] == pytest.approx(len(mine & his) / len(mine | his))
        assert found.precision[sample] == pytest.approx(len(mine & his) / len(mine) if mine else 0)
        assert found.recall[sample] == pytest.approx(len(mine & his) / len(his) if his else 0)
    assert list(np.flatnonzero(~found.fired)) == [7, 8] and list(np.flatnonzero(~found.used)) == [6, 8]


def test_empty_supports():
    codes, best = np.array([[0.0, 0], [0, 0], [1, 0]]), np.array([[0.0, 0], [0, -1], [0, 0]])
    found = support_overlap(codes, best)
    for share in (found.jaccard, found.precision, found.recall):
        np.testing.assert_array_equal(share, [1, 0, 0])
    with pytest.raises(ValueError, match="one shape"):
        support_overlap(codes, best[:2])
