"""Worlds by name have the shapes that their names stand for."""

import numpy as np
import pytest

from sae_gap.data import Law, WorldStream, named_world


def drawn(name):
    """A world, the cosines of its atoms, and which features fire."""
    world = named_world(name, num_samples=4)
    stream = WorldStream(world)
    return world, stream.atoms @ stream.atoms.T, stream.samples(0, 8_000)[1].toarray() > 0


def test_the_full_size_is_the_published_one_and_smaller_ones_keep_their_trees():
    assert named_world("synthsae").law == Law()
    small = named_world("synthsae", 2_048)
    assert (small.input_dim, small.roots, small.depth, small.sparsity) == (256, 64, 2, 16)
    for number in (1, 20, 21, 10_879, 10_880):
        assert named_world("synthsae", number).num_latents == number
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
