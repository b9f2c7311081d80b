"""Worlds by name have the shapes that their names stand for, and a file dropped into their folder
is one more.
"""

import importlib
import pathlib

import numpy as np
import pytest

from sae_gap.core import instances
from sae_gap.data import WORLDS, Law, NamedWorld, WorldStream, named_world
from sae_gap.data.worlds import named


def test_the_full_size_is_the_published_one_and_smaller_ones_keep_their_trees():
    assert named_world("synthsae").law == Law()
    small = named_world("synthsae", 2_048)
    assert (small.input_dim, small.roots, small.depth, small.sparsity) == (256, 64, 2, 16)
    for number in (1, 20, 21, 10_879, 10_880):
        assert named_world("synthsae", number).num_latents == number
    assert named_world("synthsae", 60, width=30, input_dim=None, roots=2).width == 30


def test_correlated_features_are_orthogonal_and_fire_together():
    world = named_world("correlated", num_samples=4)
    stream = WorldStream(world)
    gram = stream.atoms @ stream.atoms.T - np.eye(50)
    on = stream.samples(0, 8_000)[1].toarray() > 0
    pairs = np.corrcoef(on.T)[np.triu_indices(50, 1)]
    assert np.abs(gram).max() < 0.03 and np.abs(pairs).max() > 0.2 and world.sparsity == 10


@pytest.mark.parametrize(("name", "width"), [("absorption", None), ("hedging", 1)])
def test_a_child_fires_only_with_its_parent(name, width):
    world = named_world(name, num_samples=4)
    on = WorldStream(world).samples(0, 8_000)[1].toarray() > 0
    assert world.width == width and on[:, 0][on[:, 1]].all()
    np.testing.assert_allclose(on.mean(axis=0), [0.3, 0.15], atol=0.02)


def test_a_file_in_the_folder_is_a_world(tmp_path, monkeypatch):
    source = pathlib.Path(named.__file__).with_name("correlated.py").read_text()
    (tmp_path / "dropped_in.py").write_text(source.replace('"correlated"', '"dropped-in"'))
    monkeypatch.setattr(named, "__path__", [*named.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    found = instances(named.__name__, NamedWorld)
    assert found.keys() == WORLDS.keys() | {"dropped-in"}
    assert all(found[name].name == name and "\n" not in found[name].about for name in found)
