"""The constants of a world are the published ones, and its samples have its law: the published
figures at full size, and that of every feature drawn at a small one.
"""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from sae_gap.data import (
    Law,
    Sampler,
    base_rates,
    compensated,
    firing_of,
    parse_law,
    plant,
)

# Tests on random draws have fixed seeds, so they fail by chance once at most, and then for good.
UNLIKELY = 1e-4
# The published benchmark is the default.
FULL = Law(seed=42)
TREES = {"num_latents": 40, "roots": 3, "branching": 3, "depth": 2, "most": 0.5, "least": 0.05}
SMALL = Law(**TREES, rank=3, correlation=0.4, seed=2)


def small(**changes):
    return Law(**{"num_latents": 200, "input_dim": 40, "roots": 0} | changes)


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
    full, firing = codes(FULL, 2_048), firing_of(FULL)
    counts, rates = np.diff(full.indptr), np.bincount(full.indices, minlength=16_384) / 2_048
    # The correlation is another draw than the published one, and so the figures are not the same to
    # the last digit.
    assert counts.mean() == pytest.approx(34.66, abs=0.7)
    assert counts.std() == pytest.approx(11.7, abs=0.5)
    for level, published in {0: 8.24, 1: 7.36, 2: 7.36, 3: 7.17, -1: 4.54}.items():
        assert rates[firing.level == level].sum() == pytest.approx(published, abs=0.25)
    assert np.sum(full.data**2) / 2_048 == pytest.approx(837.9, abs=20)
    assert (full.data > 0).all() and full.has_sorted_indices
    assert firing.rates[firing.level > 0].max() == pytest.approx(0.915, abs=5e-4)
    np.testing.assert_allclose(firing.mean[[0, 1, -1]], [5, 5 - 1 / 16_383, 4])


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
    for spread in ((found > 0).sum(axis=axis) for axis in (0, 1)):
        squares = spread.var() * len(spread) / (spread.mean() * (1 - rate))
        assert stats.chi2.sf(squares, len(spread) - 1) > UNLIKELY


def test_what_never_or_always_fires_does():
    """Among features that are correlated, in a tree and in none."""
    law = Law(num_latents=6, roots=1, branching=2, depth=1, rank=2, correlation=0.5)
    rates = np.array([1.0, 1.0, 0.0, 0.5, 0.0, 1.0])
    found = codes(law, 2_000, rates=rates, mean=np.full(6, 4.0), std=np.zeros(6))
    np.testing.assert_allclose(np.bincount(found.indices), 2_000 * rates, atol=0.1, rtol=0.1)


def test_base_rates_are_the_published_ones():
    rates = base_rates(FULL)
    published = [0.4, 0.032944, 0.013270, 0.003646, 0.0005]
    np.testing.assert_allclose(rates[[0, 127, 639, 4095, 16383]], published, atol=6e-7)


# By hand: 1, 1/2 and 1/3 to the power of nearly 0 differ as their logarithms do. Powers to -100
# would be too large for a number.
@pytest.mark.parametrize(
    ("exponent", "middle"),
    [(-1, 0.25), (1e-6, 0.3 - 0.1 * np.log(2) / np.log(3)), (-100, 0.3)],
)
def test_other_exponents(exponent, middle):
    rates = base_rates(small(num_latents=3, exponent=exponent, most=0.3, least=0.2))
    np.testing.assert_allclose(rates, [0.3, middle, 0.2], atol=1e-6)


def test_the_forest_is_the_published_one():
    parent, level = plant(FULL)
    assert np.bincount(level + 1).tolist() == [5504, 128, 512, 2048, 8192]
    # The j-th node of a level has children 4j to 4j + 3 of the next.
    np.testing.assert_array_equal(parent[128:10_880], np.arange(10_752) // 4)
    assert set(parent[:128]) == set(parent[10_880:]) == {-1}


def test_compensation_is_that_of_a_loop():
    base = np.array([0.4, 0.3, 0.2, 0.15, 0.1, 0.05])
    parent, exclusive = np.array([-1, 0, 0, 1, 1, -1]), np.arange(6) != 1
    second = 0.2 / 0.4 * (1 + 0.3 / 0.4)
    # The first child would fire more often than always.
    expected = [0.4, 1, second, 0.15 / 0.3, 0.1 / 0.3, 0.05]
    np.testing.assert_allclose(compensated(base, parent, exclusive), expected)


@pytest.mark.parametrize(
    ("law", "mean", "least"),
    [
        # A sum of 25 squares of N(0, .1²), or of none. What would be too large is scaled.
        (FULL, 0.75, 0.186),
        (small(rank=0), 1, 1),
        (small(num_latents=3_000, rank=4, correlation=0.5), 0.284, 0.01),
    ],
)
def test_shared_and_independent_variances_add_up_to_one(law, mean, least):
    firing = firing_of(law)
    np.testing.assert_allclose(np.sum(firing.factor**2, axis=1) + firing.rest, 1)
    assert firing.rest.mean() == pytest.approx(mean, abs=0.03)
    assert firing.rest.min() == pytest.approx(least, rel=0.1)


def test_a_title_tells_all_laws_apart():
    """Each part of a law, other than the published benchmark has it."""
    assert small(spread=(0.5, 0), bias=0.1).title == "synthsae roots=0 spread=0.5,0 bias=0.1"
    entries = "roots=3 branching=2 depth=1 exponent=0.7 most=0.3 least=1e-3 rank=4 bias=0.1 dense=2"
    entries += " correlation=0.2 loudest=6 softest=3 spread=0.5:0.1 exclusive=false lognormal=0.5"
    entries += " orthogonal_steps=3 antipodal=3 drift=0.7 scale_children=false"
    other = parse_law(entries.split())
    sizes = {"num_latents", "input_dim", "seed", "folder", "digest"}
    assert {*other} == {field.name for field in dataclasses.fields(Law)} - sizes
    titles = {FULL.title, *(Law(**{name: value}).title for name, value in other.items())}
    assert len(titles) == 1 + len(other)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_latents": 10_879}, "do not fit the 10879 features"),
        ({"dense": 21, "antipodal": 8_182}, "dense or antipodal are more than the 16384"),
        ({"least": 0.5}, "but least is 0.5 and most is 0.4"),
        ({"exponent": 0.0}, "exponent 0 gives every feature one"),
        ({"spread": (0.5, -1.0)}, "the standard deviation of spread"),
    ],
)
def test_a_law_that_cannot_be_is_one_sentence(changes, words):
    with pytest.raises(ValueError, match=rf"{words}.*\.$"):
        Law(**changes)
    Law(num_latents=10_880)
    for entry, fault in (("wings=2", "of roots, branching, depth"), ("roots=2.5", "as roots=128")):
        with pytest.raises(ValueError, match=fault):
            parse_law([entry])
