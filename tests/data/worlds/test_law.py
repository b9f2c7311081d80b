"""The constants of a world are the published ones, and a law that cannot be is one sentence."""

import dataclasses

import numpy as np
import pytest

from sae_gap.data import (
    Law,
    base_rates,
    compensated,
    correlate,
    firing_of,
    out_of_distribution,
    parse_law,
    plant,
)

# The published benchmark is the default.
FULL = Law(seed=42)


def small(**changes):
    return Law(**{"num_latents": 200, "input_dim": 40, "roots": 0} | changes)


def test_base_rates_are_the_published_ones():
    rates = base_rates(FULL)
    published = [0.4, 0.032944, 0.013270, 0.003646, 0.0005]
    np.testing.assert_allclose(rates[[0, 127, 639, 4095, 16383]], published, atol=6e-7)
    assert rates.sum() == pytest.approx(59.144, abs=5e-4)


# By hand: 1, 1/2 and 1/3 to the power of nearly 0 differ as their logarithms do.
@pytest.mark.parametrize(
    ("exponent", "most", "least", "middle"),
    [
        (-1, 0.3, 0.2, 0.25),
        (0, 0.2, 0.2, 0.2),
        (1e-6, 0.3, 0.2, 0.3 - 0.1 * np.log(2) / np.log(3)),
        # Powers that would be too large for a number.
        (-100, 0.3, 0.2, 0.3),
    ],
)
def test_other_exponents(exponent, most, least, middle):
    rates = base_rates(small(num_latents=3, exponent=exponent, most=most, least=least))
    np.testing.assert_allclose(rates, [most, middle, least], atol=1e-6)


def test_the_forest_is_the_published_one():
    parent, level = plant(FULL)
    assert np.bincount(level + 1).tolist() == [5504, 128, 512, 2048, 8192]
    assert (parent[:128] == -1).all() and (parent[10_880:] == -1).all()
    for first, after in ((0, 128), (128, 640), (640, 2_688)):
        # The j-th node of a level has children 4j to 4j + 3 of the next.
        children = np.flatnonzero(parent == first + 37)
        np.testing.assert_array_equal(children, after + 4 * 37 + np.arange(4))


def test_compensation_is_that_of_a_loop():
    base = np.array([0.4, 0.3, 0.2, 0.15, 0.1, 0.05])
    parent, exclusive = np.array([-1, 0, 0, 1, 1, -1]), np.arange(6) != 1
    second = 0.2 / 0.4 * (1 + 0.3 / 0.4)
    # The first child would fire more often than always.
    expected = [0.4, 1, second, 0.15 / 0.3, 0.1 / 0.3, 0.05]
    np.testing.assert_allclose(compensated(base, parent, exclusive), expected)


def test_the_full_world_has_the_published_constants():
    firing = firing_of(FULL)
    assert firing.rates[firing.level > 0].max() == pytest.approx(0.915, abs=5e-4)
    np.testing.assert_allclose(firing.mean[[0, 1, -1]], [5, 5 - 1 / 16_383, 4])
    # Of |N(.5, .5²)|, by its known mean; the square has mean .5.
    assert firing.std.mean() == pytest.approx(0.5834, abs=0.012)
    assert np.mean(firing.std**2) == pytest.approx(0.5, abs=0.02)
    # A sum of 25 squares of N(0, .1²).
    assert firing.rest.mean() == pytest.approx(0.75, abs=0.002) and 0.1 < firing.rest.min() < 0.5
    np.testing.assert_allclose(firing.rest + np.sum(firing.factor**2, axis=1), 1)


def test_a_correlation_that_would_take_all_the_variance_is_scaled():
    factor, rest = correlate(small(num_latents=3_000, rank=4, correlation=0.5))
    square = np.sum(factor**2, axis=1)
    np.testing.assert_allclose(square + rest, 1)
    assert rest.min() == pytest.approx(0.01) and 0.01 < np.median(rest) < 0.5
    assert correlate(small(rank=0))[1].tolist() == [1.0] * 200


def test_out_of_distribution_only_the_correlation_differs():
    law = small(roots=3, depth=1)
    here, there = firing_of(law), out_of_distribution(law)
    for name in ("rates", "mean", "std", "parent", "level", "exclusive", "scaled"):
        np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
    assert abs(np.corrcoef(here.factor.ravel(), there.factor.ravel())[0, 1]) < 0.1
    assert np.std(there.factor) == pytest.approx(np.std(here.factor), rel=0.1)


def test_a_title_tells_all_laws_apart():
    """Each part of a law, other than the published benchmark has it."""
    assert Law(num_latents=500, roots=4, scale_children=False, spread=(0.5, 0)).title == (
        "synthsae roots=4 spread=0.5,0 scale_children=False"
    )
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
        ({"most": 1e-7, "least": 1e-7}, "hardly any ever fires"),
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
