"""Samples have the law of the world: the published figures at full size, and that of every feature
drawn at a small one.
"""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from sae_gap.data import Law, Sampler, expected_l0, firing_of

# Tests on random draws have fixed seeds, so they fail by chance once at most, and then for good.
UNLIKELY = 1e-4
TREES = {"num_latents": 40, "roots": 3, "branching": 3, "depth": 2, "most": 0.5, "least": 0.05}
SMALL = Law(**TREES, rank=3, correlation=0.4, seed=2)


def codes(law, count, seed=0, **changes):
    firing = dataclasses.replace(firing_of(law), **changes)
    return Sampler(firing).codes(np.random.default_rng(seed), count)


def the_long_way(firing, rng, count):
    """Codes, (count, N), of the constants, by `F ε + √δ η > τ` and one node after the other."""
    shape = count, len(firing.rates)
    shared = rng.standard_normal((count, firing.factor.shape[1]))
    drawn = shared @ firing.factor.T + np.sqrt(firing.rest) * rng.standard_normal(shape)
    loud = np.maximum(0, firing.mean + firing.std * rng.standard_normal(shape))
    codes = np.where(drawn > stats.norm.isf(firing.rates), loud, 0)
    for node in np.argsort(firing.level):
        above = firing.parent[node]
        if above >= 0:
            scale = codes[:, above] / firing.mean[above]
            codes[:, node] *= scale if firing.scaled[above] else scale > 0
        children = np.flatnonzero(firing.parent == node)
        if firing.exclusive[node]:
            for row in np.flatnonzero(codes[:, node]):
                on = children[codes[row, children] > 0]
                if len(on) > 1:
                    codes[row, np.setdiff1d(on, rng.choice(on))] = 0
    return codes


def test_the_full_world_has_the_published_figures():
    full, firing = codes(Law(seed=42), 2_048), firing_of(Law(seed=42))
    counts, rates = np.diff(full.indptr), np.bincount(full.indices, minlength=16_384) / 2_048
    # The correlation is another draw than the published one, and so the figures are not the same to
    # the last digit.
    assert counts.mean() == pytest.approx(34.66, abs=0.7)
    assert counts.std() == pytest.approx(11.7, abs=0.5)
    for level, published in {0: 8.24, 1: 7.36, 2: 7.36, 3: 7.17, -1: 4.54}.items():
        assert rates[firing.level == level].sum() == pytest.approx(published, abs=0.25)
    assert np.sum(full.data**2) / 2_048 == pytest.approx(837.9, abs=20)
    assert full.data.sum() / 2_048 == pytest.approx(166.4, abs=4)
    assert (full.data > 0).all() and full.has_sorted_indices


def test_a_small_world_has_the_law_of_the_long_way():
    # Some parents let several children fire, and some do not scale them.
    flags = {"exclusive": np.arange(40) % 2 == 0, "scaled": np.arange(40) % 3 > 0}
    mine = codes(SMALL, 30_000, 1, **flags).toarray()
    firing = dataclasses.replace(firing_of(SMALL), **flags)
    other = the_long_way(firing, np.random.default_rng(3), 3_000)
    upper = np.triu_indices(40, 1)
    pairs = [(z > 0)[:, upper[0]] & (z > 0)[:, upper[1]] for z in (mine, other)]
    for here, there in ((mine > 0, other > 0), (mine, other), (mine**2, other**2), pairs):
        error = here.var(axis=0) * (1 / 30_000 + 1 / 3_000) + 1e-7
        score = (here.mean(axis=0) - there.mean(axis=0)) ** 2 / error
        # Pairs share features, so that the mean has the spread of 40 squares rather than of 780.
        assert stats.chi2.sf(40 * score.mean(), 40) > UNLIKELY and score.max() < 25


@pytest.mark.parametrize("rate", [1e-4, 1 / 64 - 1e-3, 1 / 64 + 1e-3, 0.3])
def test_both_sides_of_the_cut_have_their_rates(rate):
    changes = {"rates": np.full(1_000, rate), "std": np.zeros(1_000)}
    found = codes(Law(num_latents=1_000, roots=0, rank=0), 2_000, **changes)
    assert stats.binomtest(found.nnz, 2_000_000, rate).pvalue > UNLIKELY
    # No feature and no sample is favoured.
    for axis in (0, 1):
        spread = np.asarray((found > 0).sum(axis=axis)).ravel()
        squares = np.sum((spread - spread.mean()) ** 2) / (spread.mean() * (1 - rate))
        assert stats.chi2.sf(squares, len(spread) - 1) > UNLIKELY


def test_what_never_or_always_fires_does():
    """Among features that are correlated, in a tree and in none."""
    law = Law(num_latents=6, roots=1, branching=2, depth=1, rank=2, correlation=0.5)
    rates = np.array([1.0, 1.0, 0.0, 0.5, 0.0, 1.0])
    found = codes(law, 2_000, rates=rates, mean=np.full(6, 4.0), std=np.zeros(6))
    np.testing.assert_allclose(np.bincount(found.indices), 2_000 * rates, atol=0.1, rtol=0.1)


def test_the_expected_l0_counts_the_first_features():
    law = Law(num_latents=50, roots=0, rank=0, most=0.4, least=0.1, exponent=-1, spread=(0.1, 0.0))
    assert expected_l0(law, 50) == expected_l0(law, 80) == pytest.approx(12.5, abs=0.3)
    assert expected_l0(law, 10) == pytest.approx(0.4 * 10 - 0.3 / 49 * 45, abs=0.2)
