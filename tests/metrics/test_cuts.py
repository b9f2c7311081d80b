"""Cuts, by hand and by trying every threshold."""

import numpy as np
import pytest

from sae_gap.metrics.cuts import cuts
from tests.metrics.samples import forms


@pytest.mark.parametrize("form", [0, 1])
def test_cuts_are_shares_of_the_weighted_mean(form, monkeypatch):
    codes = np.array([[3, 0, -1, 0], [1, 0, 0, 0], [0.1, 0, -3, 0], [0, 0, 2, 0.5]], np.float32)
    monkeypatch.setattr("sae_gap.core.codes._AT_ONCE", 9)
    # Of the first latent's codes .4 · 10.01 / 4.1 leaves out the 1 no less than the .1, and .4 · 9
    # / 3 no more.
    np.testing.assert_allclose(
        cuts(forms(codes)[form], 0.4), [0.4 * 3, 0, 0.4 * 14 / 6, 0.4 * 0.5], rtol=1e-6
    )
    np.testing.assert_allclose(
        cuts(forms(codes)[form]), [10 / 4 / 3, 0, 14 / 6 / 3, 0.5 / 3], rtol=1e-6
    )
    # In half precision squares would overflow.
    np.testing.assert_allclose(cuts(np.float16([[1_000], [500]])), 1_250_000 / 1_500 / 3)


def test_a_cut_is_the_least_that_is_its_own_share():
    rng = np.random.default_rng(3)
    codes = np.abs(rng.normal(size=(400, 6))) ** 4 * (rng.random((400, 6)) < 0.4)
    for share in (0.1, 1 / 3, 0.8):
        for z, cut in zip(codes.T, cuts(codes, share), strict=True):
            fixed = [
                c
                for c in (
                    share * (z[z >= least] ** 2).sum() / z[z >= least].sum() for least in z[z > 0]
                )
                if np.isclose(c, share * (z[z > c] ** 2).sum() / z[z > c].sum())
            ]
            assert cut == pytest.approx(min(fixed))
    np.testing.assert_allclose(cuts(codes * rng.choice([-1, 1], codes.shape)), cuts(codes))
    # At any scale that the type has, and where all codes are one.
    for scale in (1e-300, 1e-170, 1e160, 1e300):
        np.testing.assert_allclose(cuts(codes * scale) / scale, cuts(codes))
    np.testing.assert_allclose(
        cuts(np.float32(codes) * np.float32(1e30)), 1e30 * cuts(np.float32(codes)), rtol=1e-5
    )
    for number in (1, 10, 1_000):
        assert cuts(np.full((number, 1), 0.1), 0.99) == pytest.approx(0.099)


def test_cuts_part_the_codes_of_a_feature_from_many_small_ones():
    rng = np.random.default_rng(1)
    codes = np.abs(rng.normal(0, 0.3, (4_000, 1)))
    codes[:40] = rng.normal(4, 0.6, (40, 1))
    assert (codes**2).sum() / codes.sum() / 3 < codes[40:].max()
    cut = cuts(codes)[0]
    assert codes[40:].max() < cut < codes[:40].min()
