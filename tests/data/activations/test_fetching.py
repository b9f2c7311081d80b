"""Activations in a bucket are copied once for each version, and what cannot be copied is one
sentence.
"""

import itertools

import fsspec
import pytest

from sae_gap.data import fetched, open_activations


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder of a bucket that lies in memory, by its URL."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    store = fsspec.filesystem("memory")
    names = ("rows.npy", "rows.documents.npy", "inner/other.npy")
    store.pipe({f"/bucket/{name}": name.encode() for name in names})
    yield "memory://bucket"
    store.rm("/bucket", recursive=True)


def test_a_path_stays_a_file_brings_its_documents_and_a_folder_its_files(bucket, tmp_path):
    assert fetched(tmp_path / "x.npy") == fetched("~/x.npy") == tmp_path / "x.npy"
    for copy in (fetched(f"{bucket}/rows.npy"), fetched(bucket) / "rows.npy"):
        files = {file.name: file.read_bytes().decode() for file in copy.parent.iterdir()}
        assert files == {name: name for name in ("rows.npy", "rows.documents.npy")}


def test_a_copy_is_made_once_for_each_version_and_replaces_the_last(bucket, monkeypatch):
    store, signed = fsspec.filesystem("memory"), itertools.count()
    kind, info = type(store), store.info
    # Over HTTP fsspec takes objects for unchanging, and a server may sign their URL anew.
    monkeypatch.setattr(kind, "ukey", lambda self, path: path)
    monkeypatch.setattr(kind, "info", lambda self, *path: info(*path) | {"url": next(signed)})
    first = fetched(f"{bucket}/rows.npy")
    first.write_bytes(b"copied once")
    assert fetched(f"{bucket}/rows.npy").read_bytes() == b"copied once"
    store.pipe("/bucket/rows.npy", b"second")
    second = fetched(f"{bucket}/rows.npy")
    assert second.read_bytes() == b"second"
    # Nothing is left beside the copy.
    for place in second.parents[1:3]:
        assert len([*place.iterdir()]) == 1


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("memory://bucket/none.npy", "is neither a file nor a folder"),
        ("nowhere://bucket/x.npy", r"cannot be reached \(Protocol not known: nowhere\)"),
        ("memory://bucket/rows.npy", "cannot be copied to"),
    ],
)
def test_what_cannot_be_copied_is_one_sentence(bucket, tmp_path, url, fault):
    if "copied" in fault:
        (tmp_path / "cache").write_text("a file in the place of the cache")
    with pytest.raises(ValueError, match=rf"^[^\n]*{fault}[^\n]*\.$"):
        open_activations(url)
