"""A language model of seconds, documents, and their recording in small shards."""

import numpy as np
import pytest

from sae_gap.lm import Texts, language_model, record, recording
from tests import tiny

WORDS = ["the", "cat", "in", "the", "hat", "sat", "on", "12", "mats", "near", "the", "inn"]


@pytest.fixture(scope="session")
def lm(tmp_path_factory):
    return tiny.tiny_lm(tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="session")
def gemma(tmp_path_factory):
    return tiny.tiny_lm(tmp_path_factory.mktemp("gemma"), architecture="gemma3")


@pytest.fixture(scope="session")
def texts():
    rng = np.random.default_rng(0)
    found = [" ".join(rng.choice(WORDS, count)) for count in (3, 30, 0, 9, 14, 1, 22)]
    return Texts(tuple(found), tuple(f"document {i}" for i in range(7)), tuple("abaabab"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(language_model, "TOKENS", 32)
    monkeypatch.setattr(recording, "SHARD", 64)


@pytest.fixture
def write(lm, texts, tmp_path):
    """Records in a folder of a name, of these texts unless others are given."""

    def write(name="r", lm=lm, texts=texts, **options):
        return record(lm, texts, tmp_path / name, **{"layers": (0,), "context": 16, **options})

    return write
