"""A published world is read whole, or refused in one sentence."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

import sae_gap
from sae_gap.data.worlds.firing import firing_of, out_of_distribution
from sae_gap.data.worlds.synthsae_files import torch_normal
from tests.data.worlds.test_world import world

CONFIG, TREES, TENSORS = (
    "synthetic_model_config.json",
    "hierarchy.json",
    "synthetic_model.safetensors",
)


def linear(start, end):
    return {"generator_name": "linear", "start": start, "end": end}


def parts():
    """A world as SAELens would write it: configuration, trees and tensors."""
    law = world().law
    firing, task = firing_of(law), sae_gap.draw(world(num_samples=4))

    def node(index):
        flags = {"mutually_exclusive_children": True, "scale_children_by_parent": True}
        flags |= {"feature_id": None}
        children = np.flatnonzero(firing.parent == index).tolist()
        return {"feature_index": index, **flags, "children": [node(child) for child in children]}

    folded = {"mean": 0.5, "std": 0.5, "min_value": None, "max_value": None}
    config = {"num_features": 60, "hidden_dim": 20, "seed": 42, "bias": 0.5} | {
        "std_firing_magnitudes": folded | {"generator_name": "folded_normal"},
        "mean_firing_magnitudes": linear(5.0, 4.0),
    }
    tensors = {
        "feature_vectors": np.ascontiguousarray(np.asarray(task.dictionary).T),
        "bias": np.full(20, 0.1, np.float32),
        "firing_probabilities": firing.rates.astype(np.float32),
        "correlation_factor": firing.factor.astype(np.float32),
        "correlation_diag": firing.rest.astype(np.float32),
    }
    return config, {"roots": [node(index) for index in range(4)]}, tensors


def write(folder, config, trees, tensors):
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / TREES).write_text(json.dumps(trees))
    save_file(tensors, folder / TENSORS)
    return folder


def test_what_is_written_is_read(tmp_path):
    *_, tensors = found = parts()
    source = sae_gap.published_world(write(tmp_path, *found), num_samples=50, width=30, seed=3)
    read, drawn = firing_of(source.law), firing_of(world().law)
    for name in ("rates", "factor", "rest"):
        np.testing.assert_allclose(getattr(read, name), getattr(drawn, name), atol=1e-6)
    np.testing.assert_array_equal(read.parent, drawn.parent)
    np.testing.assert_array_equal(read.level, drawn.level)
    assert read.exclusive[:4].all() and read.scaled[:4].all() and not read.exclusive[16:].any()
    np.testing.assert_allclose(read.mean, np.linspace(5, 4, 60))
    np.testing.assert_allclose(read.std, np.abs(0.5 + 0.5 * torch_normal(43, 60)))
    task = sae_gap.draw(source)
    np.testing.assert_array_equal(task.dictionary, tensors["feature_vectors"].T)
    np.testing.assert_allclose(
        task.id.signals, task.id.codes.toarray() @ tensors["feature_vectors"] + 0.1, atol=1e-4
    )
    assert re.fullmatch(r"synthsae file=[0-9a-f]{16}", source.asdict()["world"])
    assert source.width == 30
    # Other files are another world, and what was read before stays with the first.
    for changed in (
        (found[0] | {"bias": 0.4}, *found[1:]),
        (*found[:2], tensors | {"bias": np.zeros(20, np.float32)}),
    ):
        other = sae_gap.published_world(write(tmp_path, *changed), num_samples=50, width=30, seed=3)
        assert other.title != source.title
    np.testing.assert_allclose(sae_gap.draw(other).id.signals, task.id.signals - 0.1, atol=1e-5)


def test_normal_numbers_are_torchs():
    """As torch 2.13 gives them for seed 43; the last 16 of a number that is no multiple of 16 are
    drawn anew.
    """
    first = [-0.0166, -0.46679, 2.0909, 0.6149]
    np.testing.assert_allclose(torch_normal(43, 16_384)[:4], first, atol=1e-5)
    for number, last in (
        (16_384, [-0.45982, 0.65921, 0.95358]),
        (16, [-0.0886, -0.31235, -0.35522]),
        (20, [-1.82907, -0.61454, 1.0282]),
        (37, [0.48075, -0.95087, 1.00081]),
    ):
        np.testing.assert_allclose(torch_normal(43, number)[-3:], last, atol=1e-5)


def test_other_kinds_of_magnitudes(tmp_path):
    config, trees, tensors = parts()
    constant = {"value": 2.0, "generator_name": "constant"}
    config |= {"std_firing_magnitudes": 0.25, "mean_firing_magnitudes": constant}
    del tensors["correlation_factor"], tensors["correlation_diag"]
    read = firing_of(sae_gap.published_world(write(tmp_path, config, trees, tensors)).law)
    assert set(read.std) == {0.25}
    assert set(read.mean) == {2.0}
    assert read.factor.shape == (60, 0)
    assert set(read.rest) == {1.0}
    # Independent features are so out of distribution as well.
    assert out_of_distribution(sae_gap.published_world(tmp_path).law).factor.shape == (60, 0)
    # Without the entries features are of length 1; and nothing is drawn, so that no seed is asked
    # for.
    plain = {name: value for name, value in config.items() if not name.endswith("magnitudes")}
    plain["seed"] = "none"
    read = firing_of(sae_gap.published_world(write(tmp_path, plain, trees, tensors)).law)
    assert set(read.std) == {0.0} and set(read.mean) == {1.0}


def test_random_magnitudes_have_seeds_and_bounds_of_their_own(tmp_path):
    config, trees, tensors = parts()
    rule = {"mean": 1.0, "std": 0.5, "min_value": 0.8, "max_value": 1.3}
    rule |= {"generator_name": "folded_normal"}
    config |= {"seed": 7, "std_firing_magnitudes": rule, "mean_firing_magnitudes": rule}
    read = firing_of(sae_gap.published_world(write(tmp_path, config, trees, tensors)).law)
    for found, seed in ((read.std, 8), (read.mean, 9)):
        np.testing.assert_allclose(
            found, np.clip(np.abs(1 + 0.5 * torch_normal(seed, 60)), 0.8, 1.3)
        )


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


def spoil(name, value, kind="tensors"):
    def change(found):
        dict(zip(("config", "trees", "tensors"), found, strict=True))[kind][name] = value

    return change


def drop(name):
    return lambda found: found[2].pop(name)


def child(**entries):
    return lambda found: found[1]["roots"][0]["children"][0].update(entries)


def filled(name, value, *shape):
    return spoil(name, np.full(shape, value, np.float32))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (filled("feature_vectors", 1, 20, 60), "feature_vectors in .* has shape"),
        (filled("feature_vectors", 1, 60, 20), "lengths of feature_vectors .* they go from 4.47"),
        (filled("bias", np.nan, 20), "has NaN or infinite entries"),
        (drop("firing_probabilities"), "has no tensor firing_probabilities"),
        (filled("firing_probabilities", 1.5, 60), "firing_probabilities .* from 0 to 1, but"),
        (filled("correlation_diag", 1, 60), "the variances of correlation_factor"),
        (spoil("num_features", -3, "config"), "num_features in .* must be"),
        (spoil("std_firing_magnitudes", {"generator_name": "x"}, "config"), "generator_name in"),
        (spoil("seed", None, "config"), "seed in .* must be"),
        (spoil("mean_firing_magnitudes", 0.0, "config"), "mean_firing_magnitudes .* from 0 to 0"),
        (spoil("std_firing_magnitudes", linear(1e308, -1e308), "config"), "they go from nan"),
        (child(mutually_exclusive_children="yes"), "must be true or false, but it is 'yes'"),
        (child(feature_index=1), "has feature 1 twice"),
        (child(feature_index=None), "feature_index in .* must be"),
        (child(children={"feature_index": 3}), "must hold lists of trees"),
    ],
)
def test_a_file_that_lies_is_one_sentence(change, words, tmp_path):
    found = parts()
    change(found)
    refused(write(tmp_path, *found), words)


def refused(folder, message):
    with pytest.raises(ValueError, match=message) as fault:
        sae_gap.published_world(folder)
    assert re.fullmatch(r"[^\n]+\.", str(fault.value))


@pytest.mark.parametrize("name", [CONFIG, TREES, TENSORS])
def test_a_file_that_is_cut_short_or_missing_is_one_sentence(name, tmp_path):
    path = write(tmp_path, *parts()) / name
    path.write_bytes(path.read_bytes()[:-20])
    refused(tmp_path, re.escape(str(path)))
    path.unlink()
    refused(tmp_path, f"has no {re.escape(name)}")
