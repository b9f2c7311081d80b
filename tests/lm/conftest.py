"""A language model of seconds, documents, and their recording in small shards."""

from numpy.random import default_rng
from pytest import fixture

from sae_gap.lm import Texts, record, recording, windows
from tests import tiny

WORDS = "the cat in the hat sat on 12 mats near the inn"


@fixture(scope="session")
def lm(tmp_path_factory):
    return tiny.tiny_lm(tmp_path_factory.mktemp("lm"))


@fixture(scope="session")
def gemma(tmp_path_factory):
    return tiny.tiny_lm(tmp_path_factory.mktemp("gemma"), architecture="gemma3")


@fixture(scope="session")
def texts():
    rng = default_rng(0)
    found = [
        " ".join(rng.choice(WORDS.split(), count)) for count in (3, 30, 0, 9, 14, 1, 22)
    ]
    return Texts(
        tuple(found), tuple(f"document {i}" for i in range(7)), tuple("abaabab")
    )


@fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(windows, "TOKENS", 32)
    monkeypatch.setattr(recording, "SHARD", 64)


@fixture
def write(lm, texts, tmp_path):
    """Records in a folder of a name, of these texts unless others are given."""

    def write(name="r", lm=lm, texts=texts, **options):
        return record(
            lm, texts, tmp_path / name, **{"layers": (0,), "context": 16, **options}
        )

    return write
