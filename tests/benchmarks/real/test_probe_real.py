"""Which rows and concepts a probe sees; the whole run is that of `real`."""

import string

import numpy as np
import pytest

from benchmarks.real import probe_real
from sae_gap import probing
from sae_gap.data import open_activations
from sae_gap.probing import concepts
from tests.conftest import refused


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
    monkeypatch.setattr(concepts, "FEWEST", 100)
    with pytest.raises(ValueError, match="no pair has cells that are large enough"):
        probe_real.of_pairs(tokens, held, ["topic:x+letters:z"], (0,), 400)


@pytest.mark.parametrize(
    ("words", "flag"), [("is no pair", "--pairs=capital"), ("sae must be one of", "--controls=x")]
)
def test_what_is_wrong_is_said_in_a_sentence(recorded, words, flag):
    flags = [flag for flag in recorded.flags if not flag.startswith("--tokens")]
    refused(words, "probe_real", *flags, f"--sae={recorded.folder / 'mine'}", "--anyway", flag)
