"""A world is a source of data like any other, and its samples are the same in whatever pieces they
are asked for.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import sae_gap
from sae_gap import World, WorldStream
from sae_gap.data import Law, atoms_of, firing_of, named_world, push_apart
from sae_gap.storage import key

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
    assert (task.width, task.input_dim, task.seed, task.train.codes) == (60, 20, 0, None)
    atoms, bias = atoms_of(world().law)
    np.testing.assert_array_equal(task.dictionary, atoms.T)
    for name in ("train", "id", "ood"):
        signals, codes = samples(300, name)
        np.testing.assert_array_equal(getattr(task, name).signals, signals)
        np.testing.assert_allclose(signals, codes @ atoms + bias, atol=1e-4)
        found, usual = WorldStream(world(), name)._sampler.firing, firing_of(world().law)
        assert (name == "ood") != np.array_equal(found.factor, usual.factor)
        assert found.rates is usual.rates and 0.9 < found.factor.std() / usual.factor.std() < 1.1
    np.testing.assert_array_equal(task.ood.codes.toarray(), codes)
    assert task.tree.level.tolist() == [0] * 4 + [1] * 12 + [-1] * 44


def test_a_stream_gives_the_same_samples_in_whatever_pieces():
    again, (whole, codes) = WorldStream(world(num_samples=7)), samples(2_500)
    # It counts on where a short integer would not.
    parts = np.concatenate([again(np.uint16(2_000), 500), again(0, 2_000)])
    np.testing.assert_array_equal(parts, np.roll(whole, 500, axis=0))
    np.testing.assert_array_equal(again.samples(1_000, 100)[1].toarray(), codes[1_000:1_100])
    np.testing.assert_array_equal(again(np.uint16(65_500), np.int8(100)), again(65_500, 100))


def test_noise_has_its_ratio_and_leaves_the_codes():
    clean, noisy = (samples(1_024, bias=60.0, noise_db=ratio) for ratio in (None, 6.0))
    np.testing.assert_array_equal(clean[1], noisy[1])
    ratio = 10 * np.log10(np.mean(clean[0] ** 2) / np.mean((noisy[0] - clean[0]) ** 2))
    assert ratio == pytest.approx(6, abs=0.15)


def test_samples_have_a_seed_of_their_own_where_the_law_has_none():
    # Magnitudes of 4 to 5, and which features fire, were the same numbers.
    on = [samples(500, seed=seed, rank=0, spread=(0.5, 0.0))[1] > 0 for seed in (0, 1)]
    assert np.mean(on[0] & on[1]) < 0.5 * np.mean(on[0])


def test_dense_antipodal_and_log_normal_features_are_that():
    hard = ALONE | {"dense": 3, "antipodal": 2, "lognormal": 0.7}
    codes, (atoms, _) = samples(8_000, **hard)[1], atoms_of(world(**hard).law)
    rates = np.mean(codes > 0, axis=0)
    assert np.flatnonzero(abs(rates - 0.5) < 0.03).tolist() == [57, 58, 59]
    assert np.argwhere(np.triu(atoms @ atoms.T < -0.999)).tolist() == [[53, 54], [55, 56]]
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
        np.testing.assert_allclose(np.linalg.norm(ways[-1], axis=1), [0, 6], rtol=1e-3)
    np.testing.assert_allclose(*ways, rtol=1e-3, atol=1e-5)


def test_what_tells_worlds_apart():
    changes = ({}, {"seed": 1}, {"roots": 3}, {"scored": 9}, {"noise_db": 3.0}, {"width": 30})
    worlds = [world(**change) for change in changes]
    first, *_, narrow = entries = [each.asdict() for each in worlds]
    assert len({*map(key, entries)}) == len(entries)
    assert len({each.law for each in worlds}) == 3
    assert world(num_samples=30_000).num_scored == 20_000
    assert world(loudest=6.0, softest=2.0).magnitude == pytest.approx(4)
    on = np.count_nonzero(samples(4_000, "id")[1]) / 4_000
    assert narrow["sparsity"] < first["sparsity"] == round(on) and "width" not in first
    # An SAE of two latents has a k of one, however often both are on.
    assert world(num_latents=2, **ALONE | {"most": 0.95, "least": 0.9}).sparsity == 1


def test_atoms_are_pushed_apart_by_the_published_steps():
    atoms = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)

    @jax.jit
    @jax.grad
    def slope(atoms):
        gram = atoms @ atoms.T - jnp.eye(7)
        lengths = jnp.diagonal(gram)
        return jnp.sum(gram**2) - jnp.sum(lengths**2) + 7 * jnp.sum(lengths**2)

    optimiser, moved = optax.adam(3e-4), jnp.asarray(atoms)
    state = optimiser.init(moved)
    for _ in range(20):
        updates, state = optimiser.update(slope(moved), state)
        moved = optax.apply_updates(moved, updates)
    expected = moved / jnp.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(push_apart(atoms, 20), expected, atol=2e-6)
    assert np.abs(expected - atoms).max() > 3e-3


def drawn(name):
    """A world, the cosines of its atoms, and which features fire."""
    world = named_world(name, num_samples=4)
    stream = WorldStream(world)
    return world, stream.atoms @ stream.atoms.T, stream.samples(0, 8_000)[1].toarray() > 0


def test_the_full_size_is_the_published_one_and_smaller_ones_keep_their_trees():
    assert named_world("synthsae").law == Law()
    small = named_world("synthsae", 2_048)
    assert (small.input_dim, small.roots, small.depth, small.sparsity) == (256, 64, 2, 16)
    assert [named_world("synthsae", number).depth for number in (1, 10_879, 10_880)] == [2, 2, 3]
    assert named_world("synthsae", 60, width=30, input_dim=None, roots=2).width == 30


def test_correlated_features_are_orthogonal_and_fire_together():
    world, cosines, on = drawn("correlated")
    pairs = np.corrcoef(on.T)[np.triu_indices(50, 1)]
    assert np.abs(cosines - np.eye(50)).max() < 0.03 < 0.2 < np.abs(pairs).max()
    assert world.sparsity == 10


@pytest.mark.parametrize(("name", "width"), [("absorption", None), ("hedging", 1)])
def test_a_child_fires_only_with_its_parent(name, width):
    world, _, on = drawn(name)
    assert world.width == width and on[:, 0][on[:, 1]].all()
    np.testing.assert_allclose(on.mean(axis=0), [0.3, 0.15], atol=0.02)
