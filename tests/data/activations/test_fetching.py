"""Activations in a bucket are copied once for each version, and what cannot be copied is one
sentence.
"""

import itertools

import fsspec
import pytest

from sae_gap.data import fetched, open_activations
from tests.data.activations.test_opening import refused

NAMES = "rows.documents.npy", "rows.npy"


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A bucket that lies in memory. Over HTTP a server may sign an object's URL anew each time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    store, signed = fsspec.filesystem("memory"), itertools.count()
    info = store.info
    monkeypatch.setattr(type(store), "info", lambda _, *path: info(*path) | {"url": next(signed)})
    store.pipe({f"/bucket/{name}": name.encode() for name in (*NAMES, "inner/other.npy")})
    yield store
    store.rm("/bucket", recursive=True)


def test_each_version_of_a_file_with_its_documents_or_of_a_folder_is_copied_once(bucket, tmp_path):
    assert fetched(tmp_path / "x.npy") == fetched("~/x.npy") == tmp_path / "x.npy"
    for url in ("memory://bucket/rows.npy", "memory://bucket"):
        copy = fetched(url) if url.endswith("npy") else fetched(url) / "rows.npy"
        assert sorted(file.name for file in copy.parent.iterdir()) == [*NAMES]
        copy.write_bytes(b"once")
        assert fetched(url) in (copy, copy.parent) and copy.read_bytes() == b"once"
        bucket.pipe("/bucket/rows.npy", url.encode())
        assert fetched(url).exists() and not copy.exists()
        # Nothing is left beside the copy.
        assert len([*copy.parents[1].iterdir()]) == 1


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("memory://bucket/none.npy", "is neither a file nor a folder"),
        ("nowhere://bucket/x.npy", "cannot be reached (Protocol not known: nowhere)"),
        ("memory://bucket/rows.npy", "cannot be copied to"),
    ],
)
def test_what_cannot_be_copied_is_one_sentence(bucket, tmp_path, url, fault):
    if "copied" in fault:
        (tmp_path / "cache").write_text("a file in the place of the cache")
    refused(lambda: open_activations(url), fault)
