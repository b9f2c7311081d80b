"""The constants of a world are the published ones, and its samples have its law, in whatever pieces
they are asked for; a published world is read whole, or refused in one sentence.
"""

import json
import re
from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy import flatnonzero, float32
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx, mark, raises
from safetensors.numpy import save_file
from scipy import stats

import sae_gap
from sae_gap import World, WorldStream
from sae_gap.data import (
    FILES,
    Law,
    Sampler,
    atoms_of,
    base_rates,
    compensated,
    firing_of,
    named_world,
    out_of_distribution,
    parse_law,
    plant,
    push_apart,
    torch_normal,
)
from tests.saes.examples import refused

# Tests on random draws have fixed seeds, so they fail by chance once at most, and then for good.
UNLIKELY = 1e-4
# The published benchmark is the default.
FULL = Law(seed=42)
TREES = {
    "num_latents": 40,
    "roots": 3,
    "branching": 3,
    "depth": 2,
    "most": 0.5,
    "least": 0.05,
}
SMALL = Law(**TREES, rank=3, correlation=0.4, seed=2)


def small(**changes):
    return Law(**{"num_latents": 200, "input_dim": 40, "roots": 0} | changes)


def codes(law, count, seed=0, **changes):
    firing = replace(firing_of(law), **changes)
    return Sampler(firing).codes(default_rng(seed), count)


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
        children = flatnonzero(firing.parent == node)
        if firing.exclusive[node]:
            for row in flatnonzero(codes[:, node]):
                on = children[codes[row, children] > 0]
                if len(on) > 1:
                    codes[row, np.setdiff1d(on, rng.choice(on))] = 0
    return codes


def test_the_full_world_has_the_published_figures():
    full = codes(FULL, 2_048)
    firing = firing_of(FULL)
    counts = np.diff(full.indptr)
    rates = np.bincount(full.indices, minlength=16_384) / 2_048
    # The correlation is another draw than the published one, and so the figures are not the same to
    # the last digit.
    assert counts.mean() == approx(34.66, abs=0.7)
    assert counts.std() == approx(11.7, abs=0.5)
    for level, published in {0: 8.24, 1: 7.36, 2: 7.36, 3: 7.17, -1: 4.54}.items():
        assert rates[firing.level == level].sum() == approx(published, abs=0.25)
    assert np.sum(full.data**2) / 2_048 == approx(837.9, abs=20)
    assert (full.data > 0).all() and full.has_sorted_indices
    assert firing.rates[firing.level > 0].max() == approx(0.915, abs=5e-4)
    assert_allclose(firing.mean[[0, 1, -1]], [5, 5 - 1 / 16_383, 4])


def test_a_small_world_has_the_law_of_the_long_way():
    # Some parents let several children fire, and some do not scale them.
    flags = {"exclusive": np.arange(40) % 2 == 0, "scaled": np.arange(40) % 3 > 0}
    mine = codes(SMALL, 30_000, 1, **flags).toarray()
    firing = replace(firing_of(SMALL), **flags)
    other = the_long_way(firing, default_rng(3), 3_000)
    upper = np.triu_indices(40, 1)
    pairs = [(z > 0)[:, upper[0]] & (z > 0)[:, upper[1]] for z in (mine, other)]
    for here, there in (
        (mine > 0, other > 0),
        (mine, other),
        (mine**2, other**2),
        pairs,
    ):
        error = here.var(axis=0) * (1 / 30_000 + 1 / 3_000) + 1e-7
        score = (here.mean(axis=0) - there.mean(axis=0)) ** 2 / error
        # Pairs share features, so that the mean has the spread of 40 squares rather than of 780.
        assert stats.chi2.sf(40 * score.mean(), 40) > UNLIKELY and score.max() < 25


@mark.parametrize("rate", [1e-4, 1 / 64 - 1e-3, 1 / 64 + 1e-3, 0.3])
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
    assert_allclose(np.bincount(found.indices), 2_000 * rates, atol=0.1, rtol=0.1)


def test_base_rates_are_the_published_ones():
    rates = base_rates(FULL)
    published = [0.4, 0.032944, 0.013270, 0.003646, 0.0005]
    assert_allclose(rates[[0, 127, 639, 4095, 16383]], published, atol=6e-7)


# By hand: 1, 1/2 and 1/3 to the power of nearly 0 differ as their logarithms do. Powers to -100
# would be too large for a number.
@mark.parametrize(
    ("exponent", "middle"),
    [(-1, 0.25), (1e-6, 0.3 - 0.1 * np.log(2) / np.log(3)), (-100, 0.3)],
)
def test_other_exponents(exponent, middle):
    rates = base_rates(small(num_latents=3, exponent=exponent, most=0.3, least=0.2))
    assert_allclose(rates, [0.3, middle, 0.2], atol=1e-6)


def test_the_forest_is_the_published_one():
    parent, level = plant(FULL)
    assert np.bincount(level + 1).tolist() == [5504, 128, 512, 2048, 8192]
    # The j-th node of a level has children 4j to 4j + 3 of the next.
    assert_array_equal(parent[128:10_880], np.arange(10_752) // 4)
    assert set(parent[:128]) == set(parent[10_880:]) == {-1}


def test_compensation_is_that_of_a_loop():
    base = np.array([0.4, 0.3, 0.2, 0.15, 0.1, 0.05])
    parent = np.array([-1, 0, 0, 1, 1, -1])
    exclusive = np.arange(6) != 1
    second = 0.2 / 0.4 * (1 + 0.3 / 0.4)
    # The first child would fire more often than always.
    expected = [0.4, 1, second, 0.15 / 0.3, 0.1 / 0.3, 0.05]
    assert_allclose(compensated(base, parent, exclusive), expected)


@mark.parametrize(
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
    assert_allclose(np.sum(firing.factor**2, axis=1) + firing.rest, 1)
    assert firing.rest.mean() == approx(mean, abs=0.03)
    assert firing.rest.min() == approx(least, rel=0.1)


def test_a_title_tells_all_laws_apart():
    """Each part of a law, other than the published benchmark has it."""
    assert (
        small(spread=(0.5, 0), bias=0.1).title
        == "synthsae roots=0 spread=0.5,0 bias=0.1"
    )
    entries = "roots=3 branching=2 depth=1 exponent=0.7 most=0.3 least=1e-3 rank=4 bias=0.1 dense=2"
    entries += " correlation=0.2 loudest=6 softest=3 spread=0.5:0.1 exclusive=false lognormal=0.5"
    entries += " orthogonal_steps=3 antipodal=3 drift=0.7 scale_children=false"
    other = parse_law(entries.split())
    sizes = {"num_latents", "input_dim", "seed", "folder", "digest"}
    assert {*other} == {field.name for field in fields(Law)} - sizes
    titles = {
        FULL.title,
        *(Law(**{name: value}).title for name, value in other.items()),
    }
    assert len(titles) == 1 + len(other)


@mark.parametrize(
    ("changes", "words"),
    [
        ({"num_latents": 10_879}, "do not fit the 10879 features"),
        (
            {"dense": 21, "antipodal": 8_182},
            "dense or antipodal, do not fit the 16384",
        ),
        ({"least": 0.5}, "but least is 0.5 and most is 0.4"),
        ({"exponent": 0.0}, "exponent 0 gives every feature one"),
        ({"spread": (0.5, -1.0)}, "the standard deviation of spread"),
    ],
)
def test_a_law_that_cannot_be_is_one_sentence(changes, words):
    with raises(ValueError, match=rf"{words}.*\.$"):
        Law(**changes)
    Law(num_latents=10_880)
    for entry, fault in (
        ("wings=2", "of roots, branching, depth"),
        ("roots=2.5", "as roots=128"),
    ):
        with raises(ValueError, match=fault):
            parse_law([entry])


SIZE = {"num_latents": 60, "input_dim": 20, "roots": 4, "branching": 3, "depth": 1}
SIZE |= {"orthogonal_steps": 3}
ALONE = {"roots": 0, "rank": 0}


def world(**changes):
    return World(**SIZE | {"num_samples": 300} | changes)


def samples(count, split="train", **changes):
    """Signals and dense codes of a split."""
    signals, codes = WorldStream(world(**changes), split).samples(0, count)
    return signals, codes.toarray()


def test_the_task_has_the_samples_of_its_streams():
    task = sae_gap.draw(world())
    assert (task.width, task.input_dim, task.seed, task.train.codes) == (
        60,
        20,
        0,
        None,
    )
    atoms, bias = atoms_of(world().law)
    assert_array_equal(task.dictionary, atoms.T)
    for name in ("train", "id", "ood"):
        signals, codes = samples(300, name)
        assert_array_equal(getattr(task, name).signals, signals)
        assert_allclose(signals, codes @ atoms + bias, atol=1e-4)
        found = WorldStream(world(), name)._sampler.firing
        usual = firing_of(world().law)
        assert (name == "ood") != np.array_equal(found.factor, usual.factor)
        assert (
            found.rates is usual.rates
            and 0.9 < found.factor.std() / usual.factor.std() < 1.1
        )
    assert_array_equal(task.ood.codes.toarray(), codes)
    assert task.tree.level.tolist() == [0] * 4 + [1] * 12 + [-1] * 44


def test_a_stream_gives_the_same_samples_in_whatever_pieces():
    again = WorldStream(world(num_samples=7))
    (whole, codes) = samples(2_500)
    # It counts on where a short integer would not.
    parts = np.concatenate([again(np.uint16(2_000), 500), again(0, 2_000)])
    assert_array_equal(parts, np.roll(whole, 500, axis=0))
    assert_array_equal(again.samples(1_000, 100)[1].toarray(), codes[1_000:1_100])
    assert_array_equal(again(np.uint16(65_500), np.int8(100)), again(65_500, 100))


def test_noise_has_its_ratio_and_leaves_the_codes():
    clean, noisy = (samples(1_024, bias=60.0, noise_db=ratio) for ratio in (None, 6.0))
    assert_array_equal(clean[1], noisy[1])
    ratio = 10 * np.log10(np.mean(clean[0] ** 2) / np.mean((noisy[0] - clean[0]) ** 2))
    assert ratio == approx(6, abs=0.15)


def test_samples_have_a_seed_of_their_own_where_the_law_has_none():
    # Magnitudes of 4 to 5, and which features fire, were the same numbers.
    on = [samples(500, seed=seed, rank=0, spread=(0.5, 0.0))[1] > 0 for seed in (0, 1)]
    assert np.mean(on[0] & on[1]) < 0.5 * np.mean(on[0])


def test_dense_antipodal_and_log_normal_features_are_that():
    hard = ALONE | {"dense": 3, "antipodal": 2, "lognormal": 0.7}
    codes = samples(8_000, **hard)[1]
    (atoms, _) = atoms_of(world(**hard).law)
    assert flatnonzero(abs(np.mean(codes > 0, axis=0) - 0.5) < 0.03).tolist() == [
        57,
        58,
        59,
    ]
    assert np.argwhere(np.triu(atoms @ atoms.T < -0.999)).tolist() == [
        [53, 54],
        [55, 56],
    ]
    law = stats.norm(np.log(5 - 57 / 59) - 0.245, 0.7)
    assert stats.kstest(np.log(codes[codes[:, 57] > 0, 57]), law.cdf).pvalue > 1e-3


def test_a_drift_moves_the_mean_from_the_first_sample_to_the_last():
    ways = []
    for split, number in (("train", 2_000), ("id", 300)):
        moved, still = (
            samples(number, split, drift=drift, num_samples=2_000, scored=300)[0]
            for drift in (6.0, 0.0)
        )
        ways.append((moved - still)[[0, -1]])
        assert_allclose(norm(ways[-1], axis=1), [0, 6], rtol=1e-3)
    assert_allclose(*ways, rtol=1e-3, atol=1e-5)


def test_a_world_has_the_sizes_that_its_law_implies():
    first = world().asdict()
    narrow = world(width=30).asdict()
    assert world(num_samples=30_000).num_scored == 20_000
    assert world(loudest=6.0, softest=2.0).magnitude == approx(4)
    on = np.count_nonzero(samples(4_000, "id")[1]) / 4_000
    assert narrow["sparsity"] < first["sparsity"] == round(on) and "width" not in first
    # An SAE of two latents has a k of one, however often both are on.
    assert world(num_latents=2, **ALONE | {"most": 0.95, "least": 0.9}).sparsity == 1


def test_atoms_are_pushed_apart_by_the_published_steps():
    atoms = default_rng(0).standard_normal((7, 4)).astype(float32)
    atoms /= norm(atoms, axis=1, keepdims=True)

    @jax.jit
    @jax.grad
    def slope(atoms):
        gram = atoms @ atoms.T - jnp.eye(7)
        lengths = jnp.diagonal(gram)
        return jnp.sum(gram**2) - jnp.sum(lengths**2) + 7 * jnp.sum(lengths**2)

    optimiser = optax.adam(3e-4)
    moved = jnp.asarray(atoms)
    state = optimiser.init(moved)
    for _ in range(20):
        updates, state = optimiser.update(slope(moved), state)
        moved = optax.apply_updates(moved, updates)
    expected = moved / jnp.linalg.norm(moved, axis=1, keepdims=True)
    assert_allclose(push_apart(atoms, 20), expected, atol=2e-6)
    assert np.abs(expected - atoms).max() > 3e-3


def drawn(name):
    """A world, the cosines of its atoms, and which features fire."""
    world = named_world(name, num_samples=4)
    stream = WorldStream(world)
    return (
        world,
        stream.atoms @ stream.atoms.T,
        stream.samples(0, 8_000)[1].toarray() > 0,
    )


def test_the_full_size_is_the_published_one_and_smaller_ones_keep_their_trees():
    assert named_world("synthsae").law == Law()
    small = named_world("synthsae", 2_048)
    assert (small.input_dim, small.roots, small.depth, small.sparsity) == (
        256,
        64,
        2,
        16,
    )
    assert [
        named_world("synthsae", number).depth for number in (1, 10_879, 10_880)
    ] == [2, 2, 3]
    assert named_world("synthsae", 60, width=30, input_dim=None, roots=2).width == 30


def test_correlated_features_are_orthogonal_and_fire_together():
    world, cosines, on = drawn("correlated")
    pairs = np.corrcoef(on.T)[np.triu_indices(50, 1)]
    assert np.abs(cosines - np.eye(50)).max() < 0.03 < 0.2 < np.abs(pairs).max()
    assert world.sparsity == 10


@mark.parametrize(("name", "width"), [("absorption", None), ("hedging", 1)])
def test_a_child_fires_only_with_its_parent(name, width):
    world, _, on = drawn(name)
    assert world.width == width and on[:, 0][on[:, 1]].all()
    assert_allclose(on.mean(axis=0), [0.3, 0.15], atol=0.02)


def rule(kind, **entries):
    return {"generator_name": kind, **entries}


LINEAR = rule("linear", start=5.0, end=4.0)
FOLDED = rule("folded_normal", mean=0.5, std=0.5, min_value=None, max_value=None)


def parts():
    """A world as SAELens would write it: configuration, trees and tensors."""
    firing = firing_of(world().law)
    task = sae_gap.draw(world(num_samples=4))

    def node(index):
        children = [
            node(child) for child in flatnonzero(firing.parent == index).tolist()
        ]
        flags = {
            "mutually_exclusive_children": index != 1,
            "scale_children_by_parent": index != 2,
        }
        return {
            "feature_index": index,
            "feature_id": None,
            "children": children,
        } | flags

    config = {"num_features": 60, "hidden_dim": 20, "seed": 42, "bias": 0.5} | {
        "std_firing_magnitudes": FOLDED,
        "mean_firing_magnitudes": LINEAR,
    }
    tensors = {
        "feature_vectors": np.asarray(task.dictionary).T,
        "bias": np.full(20, 0.1),
        "firing_probabilities": firing.rates,
        "correlation_factor": firing.factor,
        "correlation_diag": firing.rest,
    }
    floats = {
        name: np.ascontiguousarray(part, float32) for name, part in tensors.items()
    }
    return config, {"roots": [node(index) for index in range(4)]}, floats


def write(folder, config, trees, tensors):
    (folder / FILES[0]).write_text(json.dumps(config))
    (folder / FILES[1]).write_text(json.dumps(trees))
    save_file(tensors, folder / FILES[2])
    return folder


def test_what_is_written_is_read(tmp_path):
    config, trees, tensors = parts()

    def read(*found):
        return sae_gap.published_world(
            write(tmp_path, *found), num_samples=50, width=30, seed=3
        )

    source = read(config, trees, tensors)
    found = firing_of(source.law)
    drawn = firing_of(world().law)
    for name in ("rates", "factor", "rest", "parent", "level"):
        assert_allclose(getattr(found, name), getattr(drawn, name), atol=1e-6)
    assert [found.exclusive[:3].tolist(), found.scaled[:3].tolist()] == [
        [1, 0, 1],
        [1, 1, 0],
    ]
    # Others fire together as closely out of distribution.
    there = out_of_distribution(source.law).factor
    assert np.std(there) == approx(np.std(found.factor), rel=0.1)
    assert abs(np.corrcoef(found.factor.ravel(), there.ravel())[0, 1]) < 0.15
    task = sae_gap.draw(source)
    atoms = tensors["feature_vectors"]
    assert_array_equal(task.dictionary, atoms.T)
    signals = task.id.codes.toarray() @ atoms
    assert_allclose(task.id.signals, signals + 0.1, atol=1e-4)
    # Other files are another world.
    assert re.fullmatch(r"synthsae file=[0-9a-f]{16}", source.asdict()["world"])
    other = read(config, trees, tensors | {"bias": np.zeros(20, float32)})
    assert_allclose(sae_gap.draw(other).id.signals, signals, atol=1e-4)


@mark.parametrize(
    ("number", "last"),
    [
        (16_384, [0.65921, 0.95358]),
        (16, [-0.31235, -0.35522]),
        # The last 16 of a number that is no multiple of 16 are drawn anew.
        (20, [-0.61454, 1.0282]),
        (37, [-0.95087, 1.00081]),
    ],
)
def test_normal_numbers_are_those_of_torch_for_seed_43(number, last):
    assert_allclose(torch_normal(43, number)[-2:], last, atol=1e-5)


def folded(seed):
    return np.abs(0.5 + 0.5 * torch_normal(seed, 60))


@mark.parametrize(
    ("given", "std", "mean"),
    [
        # Random ones have seeds of their own. Where nothing is drawn no seed is asked for.
        (
            (FOLDED, FOLDED | {"min_value": 0.2, "max_value": 1}, 7),
            folded(8),
            folded(9).clip(0.2, 1),
        ),
        ((LINEAR, rule("constant", value=2.0), None), np.linspace(5, 4, 60), 2),
        ((0.25, None, None), 0.25, 1),
    ],
)
def test_kinds_of_magnitudes(tmp_path, given, std, mean):
    config, trees, tensors = parts()
    names = ("std_firing_magnitudes", "mean_firing_magnitudes", "seed")
    config |= dict(zip(names, given, strict=True))
    del tensors["correlation_factor"]
    law = sae_gap.published_world(write(tmp_path, config, trees, tensors)).law
    read = firing_of(law)
    assert_allclose([read.std, read.mean], [std * np.ones(60), mean * np.ones(60)])
    # Independent features are so out of distribution as well.
    assert out_of_distribution(law).factor.shape == (60, 0) and set(read.rest) == {1.0}


CONFIG, HIERARCHY, TENSORS = range(3)


@mark.parametrize(
    ("part", "changes", "words"),
    [
        (
            TENSORS,
            {"feature_vectors": np.ones((60, 20))},
            "feature_vectors*they go from 4.47",
        ),
        (
            TENSORS,
            {"firing_probabilities": np.full(60, 1.5)},
            "probabilities*from 0 to 1, but",
        ),
        (
            TENSORS,
            {"correlation_diag": np.ones(60)},
            "the variances of correlation_factor",
        ),
        (CONFIG, {"std_firing_magnitudes": rule("x")}, "generator_name in"),
        (CONFIG, {"mean_firing_magnitudes": 0.0}, "mean_firing_magnitudes*from 0 to 0"),
        (
            CONFIG,
            {"std_firing_magnitudes": rule("linear", start=1e308, end=-1e308)},
            "go from nan",
        ),
        (
            HIERARCHY,
            {"mutually_exclusive_children": "yes"},
            "must be true or false, but it is 'yes'",
        ),
        (HIERARCHY, {"feature_index": 1}, "has feature 1 twice"),
        (HIERARCHY, {"children": {"feature_index": 3}}, "must hold lists of trees"),
    ],
)
def test_a_file_that_lies_is_one_sentence(part, changes, words, tmp_path):
    found = parts()
    place = found[part] if part != HIERARCHY else found[part]["roots"][0]["children"][0]
    place.update(changes)
    write(tmp_path, *found)
    refused(lambda: sae_gap.published_world(tmp_path), *words.split("*"))


@mark.parametrize("name", FILES)
def test_a_file_that_is_cut_short_or_missing_is_one_sentence(name, tmp_path):
    path = write(tmp_path, *parts()) / name
    path.write_bytes(path.read_bytes()[:-20])
    refused(lambda: sae_gap.published_world(tmp_path), str(path))
    path.unlink()
    refused(lambda: sae_gap.published_world(tmp_path), f"has no {name}")
    refused(lambda: sae_gap.published_world(tmp_path, roots=3), "must be one of width")
