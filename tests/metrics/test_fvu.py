"""The fraction of variance unexplained."""

import numpy as np
import pytest

from sae_gap.metrics.definitions import fvu


def test_fvu_is_one_for_the_mean():
    x = np.random.default_rng(0).normal(3, 2, size=(50, 4))
    assert fvu(x, np.tile(x.mean(axis=0), (50, 1))) == pytest.approx(1) and fvu(x, x) == 0
    assert fvu(7 * x, 7 * (x + 1)) == pytest.approx(fvu(x, x + 1))
    with pytest.raises(ValueError, match="one shape"):
        fvu(x, x[:3])
    with pytest.raises(ValueError, match="no variance"):
        fvu(np.ones((3, 2)), np.zeros((3, 2)))
