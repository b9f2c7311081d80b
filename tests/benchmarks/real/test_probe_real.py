"""Probing on a tiny model from the recording to the table."""

import string

import numpy as np
import pytest

import sae_gap
from benchmarks.real import probe_real
from sae_gap import probing
from sae_gap.core import Model
from sae_gap.data import open_activations
from sae_gap.encoders import Affine, TopK
from sae_gap.lm import Texts, record
from sae_gap.probing import concepts
from tests import tiny
from tests.conftest import refused


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """A recording of letters in 40 documents, and an SAE of their activations."""
    folder, rng = tmp_path_factory.mktemp("probe"), np.random.default_rng(0)
    texts = ["".join(rng.choice([*string.ascii_letters], 60)) for _ in range(40)]
    texts = Texts(texts, [*map(str, range(40))], [*"xy"] * 20)
    found = record(tiny.tiny_lm(folder), texts, folder / "recording", [1], 64)
    atoms = (rng.normal(size=(64, 80)) / 8).astype(np.float32)
    own = Affine(atoms, np.zeros(80, np.float32)), TopK(12)
    sae_gap.save_sae(Model(atoms, found.activations(1).mean(), *own), folder / "mine")
    paths = f"--recording={folder / 'recording'} --model={folder / 'tiny.gguf'}"
    paths += f" --sae={folder / 'mine'} --pairs=topic:x+capital"
    sizes = "--layer=1 --controls=random --l0=6 --documents=all --seeds=0,1 --rows=400 --anyway"
    return (*paths.split(), *sizes.split())


def test_a_probe_learns_the_first_concept_of_a_pair(monkeypatch):
    monkeypatch.setattr(concepts, "FEWEST", 1)
    rng, documents = np.random.default_rng(0), np.repeat(np.arange(40), 10)
    topics, texts = np.array([*"xy"])[documents % 2], rng.choice([*string.ascii_letters], 400)
    tokens, is_x = probing.Tokens(texts, documents, topics), (topics == "x")[:, None]
    held = open_activations(is_x + np.arange(2.0), documents=documents)
    x, found = probe_real.of_pairs(tokens, held, ["topic:x+capital"], (0,), 400)
    assert np.array_equal(found["topic:x+capital"].has, x[:, 0] == 1)
    # The pairs that are usual are read.
    usual = probe_real.usual_pairs(["a", "a+b", "b"])
    assert usual[:3] == ["topic:a+capital", "capital+topic:a", "topic:b+letters:abc"]
    assert all(probing.read_pair(pair) for pair in usual)


FAULTS = {
    "there is nothing to measure": "--recording=",
    "is no pair": "--pairs=capital",
    "choose from x, y": "--pairs=capital+topic:z",
    "no pair has cells that are large enough": "--pairs=capital+letters:z",
    "sae must be one of": "--controls=sparse",
}


@pytest.mark.parametrize("words", FAULTS)
def test_what_is_wrong_is_said_in_a_sentence(options, tmp_path, words):
    refused(words, "probe_real", *options, FAULTS[words], f"--results_dir={tmp_path}")
