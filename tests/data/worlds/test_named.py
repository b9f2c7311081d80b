"""Worlds by name have the shapes that their names stand for."""

import numpy as np
import pytest

from sae_gap.data.worlds import WorldStream
from sae_gap.data.worlds.firing import firing_of
from sae_gap.data.worlds.law import Law
from sae_gap.data.worlds.named import WORLDS, named_world, parse_law


def test_the_full_size_is_the_published_one_and_smaller_ones_keep_their_trees():
    assert named_world("synthsae").law == Law()
    small = named_world("synthsae", 2_048)
    assert (small.input_dim, small.roots, small.depth, small.sparsity) == (256, 64, 2, 16)
    for number in (1, 20, 21, 60, 10_879, 10_880):
        assert named_world("synthsae", number).num_latents == number
    assert named_world("synthsae", 60, width=30, input_dim=None, roots=2).width == 30


def test_correlated_features_are_orthogonal_and_fire_together():
    world = named_world("correlated", num_samples=4)
    stream = WorldStream(world)
    gram = stream.atoms @ stream.atoms.T - np.eye(50)
    on = stream.samples(0, 8_000)[1].toarray() > 0
    pairs = np.corrcoef(on.T)[np.triu_indices(50, 1)]
    assert np.abs(gram).max() < 0.03 and np.abs(pairs).max() > 0.2 and world.sparsity == 10
    assert (firing_of(world.law).level == -1).all()


@pytest.mark.parametrize(("name", "width"), [("absorption", None), ("hedging", 1)])
def test_a_child_fires_only_with_its_parent(name, width):
    world = named_world(name, num_samples=4)
    on = WorldStream(world).samples(0, 8_000)[1].toarray() > 0
    assert world.num_latents == 2 and world.width == width and on[:, 0][on[:, 1]].all()
    np.testing.assert_allclose(on.mean(axis=0), [0.3, 0.15], atol=0.02)


def test_a_law_is_read_by_the_types_of_its_parts():
    read = parse_law(["roots=64", "most=0.3", "scale_children=false", "spread=0.2:0.1", "exponent=-1"])
    assert read == {"roots": 64, "most": 0.3, "scale_children": False, "spread": (0.2, 0.1), "exponent": -1.0}
    assert parse_law([]) == {}


BAD = {
    "roots": "must list different pairs",
    "wings=2": "of roots, branching, depth",
    "roots=2.5": "roots must be an integer",
    "most=much": "most must be a number",
    "exclusive=1": "exclusive must be true or false",
    "spread=0.5": "spread must be two numbers",
    "seed=1": "must list different pairs",
}


@pytest.mark.parametrize("entry", BAD)
def test_a_law_that_cannot_be_read_is_one_sentence(entry):
    with pytest.raises(ValueError, match=BAD[entry]):
        parse_law([entry])
    with pytest.raises(ValueError, match="different pairs"):
        parse_law(["roots=1", "roots=1"])


def test_unknown_worlds_are_refused():
    with pytest.raises(ValueError, match=f"world 'heaven' is unknown; choose one of {', '.join(WORLDS)}"):
        named_world("heaven")
    with pytest.raises(ValueError, match="this world has 2 features, not 5"):
        named_world("absorption", 5)
