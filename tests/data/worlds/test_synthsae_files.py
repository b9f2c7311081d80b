"""A published world is read whole, or refused in one sentence."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

import sae_gap
from sae_gap.data import FILES, firing_of, out_of_distribution, torch_normal
from tests.data.worlds.test_world import world


def linear(start, end):
    return {"generator_name": "linear", "start": start, "end": end}


def folded(**entries):
    return {"generator_name": "folded_normal", "mean": 0.5, "std": 0.5} | entries


def parts():
    """A world as SAELens would write it: configuration, trees and tensors."""
    law = world().law
    firing, task = firing_of(law), sae_gap.draw(world(num_samples=4))

    def node(index):
        children = [node(child) for child in np.flatnonzero(firing.parent == index).tolist()]
        flags = dict.fromkeys(("mutually_exclusive_children", "scale_children_by_parent"), True)
        return {"feature_index": index, "feature_id": None, "children": children} | flags

    config = {"num_features": 60, "hidden_dim": 20, "seed": 42, "bias": 0.5} | {
        "std_firing_magnitudes": folded(min_value=None, max_value=None),
        "mean_firing_magnitudes": linear(5.0, 4.0),
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
    assert found.exclusive[:4].all() and found.scaled[:4].all() and not found.exclusive[16:].any()
    np.testing.assert_allclose(found.mean, np.linspace(5, 4, 60))
    np.testing.assert_allclose(found.std, np.abs(0.5 + 0.5 * torch_normal(43, 60)))
    task, atoms = sae_gap.draw(source), tensors["feature_vectors"]
    np.testing.assert_array_equal(task.dictionary, atoms.T)
    signals = task.id.codes.toarray() @ atoms
    np.testing.assert_allclose(task.id.signals, signals + 0.1, atol=1e-4)
    assert re.fullmatch(r"synthsae file=[0-9a-f]{16}", source.asdict()["world"])
    assert source.width == 30
    # Other files are another world, and what was read before stays with the first.
    assert read(config | {"bias": 0.4}, trees, tensors).title != source.title
    other = read(config, trees, tensors | {"bias": np.zeros(20, np.float32)})
    assert other.title != source.title
    np.testing.assert_allclose(sae_gap.draw(other).id.signals, signals, atol=1e-4)


def test_normal_numbers_are_torchs():
    """As torch 2.13 gives them for seed 43; the last 16 of a number that is no multiple of 16 are
    drawn anew.
    """
    first = [-0.0166, -0.46679, 2.0909, 0.6149]
    np.testing.assert_allclose(torch_normal(43, 16_384)[:4], first, atol=1e-5)
    for number, last in ((16_384, [0.65921, 0.95358]), (16, [-0.31235, -0.35522])):
        np.testing.assert_allclose(torch_normal(43, number)[-2:], last, atol=1e-5)
    for number, last in ((20, [-0.61454, 1.0282]), (37, [-0.95087, 1.00081])):
        np.testing.assert_allclose(torch_normal(43, number)[-2:], last, atol=1e-5)


def clipped(seed):
    return np.clip(np.abs(1 + 0.5 * torch_normal(seed, 60)), 0.8, 1.3)


RULE = folded(mean=1.0, min_value=0.8, max_value=1.3)


@pytest.mark.parametrize(
    ("std", "mean", "expected"),
    [
        (0.25, {"value": 2.0, "generator_name": "constant"}, (0.25, 2)),
        # Without the entries features are of length 1.
        (None, None, (0, 1)),
        # Random ones have seeds of their own.
        (RULE, RULE, (clipped(8), clipped(9))),
    ],
)
def test_other_kinds_of_magnitudes(tmp_path, std, mean, expected):
    config, trees, tensors = parts()
    # Where nothing is drawn no seed is asked for.
    config |= {"seed": 7 if std is RULE else "none"}
    for name, rule in (("std_firing_magnitudes", std), ("mean_firing_magnitudes", mean)):
        config[name] = rule
        if rule is None:
            del config[name]
    del tensors["correlation_factor"], tensors["correlation_diag"]
    law = sae_gap.published_world(write(tmp_path, config, trees, tensors)).law
    read = firing_of(law)
    np.testing.assert_allclose(read.std, expected[0] * np.ones(60))
    np.testing.assert_allclose(read.mean, expected[1] * np.ones(60))
    # Independent features are so out of distribution as well.
    assert read.factor.shape == out_of_distribution(law).factor.shape == (60, 0)
    assert set(read.rest) == {1.0}


def test_a_node_has_its_own_flags_and_others_fire_together_as_closely(tmp_path):
    config, trees, tensors = parts()
    trees["roots"][1] |= {"mutually_exclusive_children": False}
    trees["roots"][2] |= {"scale_children_by_parent": False}
    law = sae_gap.published_world(write(tmp_path, config, trees, tensors)).law
    here, there = firing_of(law), out_of_distribution(law)
    assert here.exclusive[:4].tolist() == [True, False, True, True]
    assert here.scaled[:4].tolist() == [True, True, False, True]
    assert np.std(there.factor) == pytest.approx(np.std(here.factor), rel=0.1)
    assert abs(np.corrcoef(here.factor.ravel(), there.factor.ravel())[0, 1]) < 0.15


def change(part, name, value):
    return lambda found: found[part].__setitem__(name, value)


def child(**entries):
    return lambda found: found[1]["roots"][0]["children"][0].update(entries)


def filled(name, value, *shape):
    return change(2, name, np.full(shape, value, np.float32))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (filled("feature_vectors", 1, 20, 60), "feature_vectors in .* has shape"),
        (filled("feature_vectors", 1, 60, 20), "lengths of feature_vectors .* they go from 4.47"),
        (filled("bias", np.nan, 20), "has NaN or infinite entries"),
        (lambda found: found[2].pop("bias"), "has no tensor bias"),
        (filled("firing_probabilities", 1.5, 60), "firing_probabilities .* from 0 to 1, but"),
        (filled("correlation_diag", 1, 60), "the variances of correlation_factor"),
        (change(0, "num_features", -3), "num_features in .* must be"),
        (change(0, "std_firing_magnitudes", {"generator_name": "x"}), "generator_name in"),
        (change(0, "seed", None), "seed in .* must be"),
        (change(0, "mean_firing_magnitudes", 0.0), "mean_firing_magnitudes .* from 0 to 0"),
        (change(0, "std_firing_magnitudes", linear(1e308, -1e308)), "they go from nan"),
        (child(mutually_exclusive_children="yes"), "must be true or false, but it is 'yes'"),
        (child(feature_index=1), "has feature 1 twice"),
        (child(children={"feature_index": 3}), "must hold lists of trees"),
    ],
)
def test_a_file_that_lies_is_one_sentence(spoil, words, tmp_path):
    found = parts()
    spoil(found)
    refused(write(tmp_path, *found), words)


def refused(folder, message):
    with pytest.raises(ValueError, match=message) as fault:
        sae_gap.published_world(folder)
    assert re.fullmatch(r"[^\n]+\.", str(fault.value))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_short_or_missing_is_one_sentence(name, tmp_path):
    path = write(tmp_path, *parts()) / name
    path.write_bytes(path.read_bytes()[:-20])
    refused(tmp_path, re.escape(str(path)))
    path.unlink()
    refused(tmp_path, f"has no {re.escape(name)}")
