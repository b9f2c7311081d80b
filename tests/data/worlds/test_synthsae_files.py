"""A published world is read whole, or refused in one sentence."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

import sae_gap
from sae_gap.data import FILES, firing_of, out_of_distribution, torch_normal
from tests.data.activations.test_opening import refused
from tests.data.worlds.test_world import world


def rule(kind, **entries):
    return {"generator_name": kind, **entries}


LINEAR = rule("linear", start=5.0, end=4.0)
FOLDED = rule("folded_normal", mean=0.5, std=0.5, min_value=None, max_value=None)


def parts():
    """A world as SAELens would write it: configuration, trees and tensors."""
    law = world().law
    firing, task = firing_of(law), sae_gap.draw(world(num_samples=4))

    def node(index):
        children = [node(child) for child in np.flatnonzero(firing.parent == index).tolist()]
        flags = {"mutually_exclusive_children": index != 1, "scale_children_by_parent": index != 2}
        return {"feature_index": index, "feature_id": None, "children": children} | flags

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
    floats = {name: np.ascontiguousarray(part, np.float32) for name, part in tensors.items()}
    return config, {"roots": [node(index) for index in range(4)]}, floats


def write(folder, config, trees, tensors):
    (folder / FILES[0]).write_text(json.dumps(config))
    (folder / FILES[1]).write_text(json.dumps(trees))
    save_file(tensors, folder / FILES[2])
    return folder


def test_what_is_written_is_read(tmp_path):
    config, trees, tensors = parts()

    def read(*found):
        return sae_gap.published_world(write(tmp_path, *found), num_samples=50, width=30, seed=3)

    source = read(config, trees, tensors)
    found, drawn = firing_of(source.law), firing_of(world().law)
    for name in ("rates", "factor", "rest", "parent", "level"):
        np.testing.assert_allclose(getattr(found, name), getattr(drawn, name), atol=1e-6)
    assert [found.exclusive[:3].tolist(), found.scaled[:3].tolist()] == [[1, 0, 1], [1, 1, 0]]
    # Others fire together as closely out of distribution.
    there = out_of_distribution(source.law).factor
    assert np.std(there) == pytest.approx(np.std(found.factor), rel=0.1)
    assert abs(np.corrcoef(found.factor.ravel(), there.ravel())[0, 1]) < 0.15
    task, atoms = sae_gap.draw(source), tensors["feature_vectors"]
    np.testing.assert_array_equal(task.dictionary, atoms.T)
    signals = task.id.codes.toarray() @ atoms
    np.testing.assert_allclose(task.id.signals, signals + 0.1, atol=1e-4)
    # Other files are another world.
    assert re.fullmatch(r"synthsae file=[0-9a-f]{16}", source.asdict()["world"])
    other = read(config, trees, tensors | {"bias": np.zeros(20, np.float32)})
    np.testing.assert_allclose(sae_gap.draw(other).id.signals, signals, atol=1e-4)


@pytest.mark.parametrize(
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
    np.testing.assert_allclose(torch_normal(43, number)[-2:], last, atol=1e-5)


def folded(seed):
    return np.abs(0.5 + 0.5 * torch_normal(seed, 60))


@pytest.mark.parametrize(
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
    np.testing.assert_allclose([read.std, read.mean], [std * np.ones(60), mean * np.ones(60)])
    # Independent features are so out of distribution as well.
    assert out_of_distribution(law).factor.shape == (60, 0) and set(read.rest) == {1.0}


CONFIG, TREES, TENSORS = range(3)


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        (TENSORS, {"feature_vectors": np.ones((60, 20))}, "feature_vectors*they go from 4.47"),
        (TENSORS, {"firing_probabilities": np.full(60, 1.5)}, "probabilities*from 0 to 1, but"),
        (TENSORS, {"correlation_diag": np.ones(60)}, "the variances of correlation_factor"),
        (CONFIG, {"std_firing_magnitudes": rule("x")}, "generator_name in"),
        (CONFIG, {"mean_firing_magnitudes": 0.0}, "mean_firing_magnitudes*from 0 to 0"),
        (CONFIG, {"std_firing_magnitudes": rule("linear", start=1e308, end=-1e308)}, "go from nan"),
        (TREES, {"mutually_exclusive_children": "yes"}, "must be true or false, but it is 'yes'"),
        (TREES, {"feature_index": 1}, "has feature 1 twice"),
        (TREES, {"children": {"feature_index": 3}}, "must hold lists of trees"),
    ],
)
def test_a_file_that_lies_is_one_sentence(part, changes, words, tmp_path):
    found = parts()
    place = found[part] if part != TREES else found[part]["roots"][0]["children"][0]
    place.update(changes)
    write(tmp_path, *found)
    refused(lambda: sae_gap.published_world(tmp_path), *words.split("*"))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_short_or_missing_is_one_sentence(name, tmp_path):
    path = write(tmp_path, *parts()) / name
    path.write_bytes(path.read_bytes()[:-20])
    refused(lambda: sae_gap.published_world(tmp_path), str(path))
    path.unlink()
    refused(lambda: sae_gap.published_world(tmp_path), f"has no {name}")
    refused(lambda: sae_gap.published_world(tmp_path, roots=3), "must be one of width")
