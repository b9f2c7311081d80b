"""Activations in a bucket are copied once for each version, and what cannot be copied is one
sentence.
"""

import itertools
import pathlib

import fsspec
import numpy as np
import pytest

from sae_gap.data.activations import fetched, open_activations


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A folder of a bucket that lies in memory, by its URL."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    store = fsspec.filesystem("memory")
    store.pipe(
        {
            "/bucket/rows.npy": b"first",
            "/bucket/rows.documents.npy": b"beside",
            "/bucket/inner/other.npy": b"inner",
        }
    )
    yield "memory://bucket"
    store.rm("/bucket", recursive=True)


def test_a_path_stays_and_the_home_is_found(bucket, tmp_path):
    assert fetched(tmp_path / "x.npy") == tmp_path / "x.npy"
    assert fetched("~/x.npy") == tmp_path / "x.npy"


def test_a_file_brings_its_documents_and_a_folder_its_files(bucket):
    for copy in (fetched(f"{bucket}/rows.npy"), fetched(bucket) / "rows.npy"):
        assert copy.read_bytes() == b"first"
        assert copy.with_name("rows.documents.npy").read_bytes() == b"beside"
        assert len(list(copy.parent.iterdir())) == 2


def test_a_copy_is_made_once_for_each_version_and_replaces_the_last(bucket, monkeypatch):
    store, gets = fsspec.filesystem("memory"), []
    get_file = store.get_file
    monkeypatch.setattr(
        type(store),
        "get_file",
        lambda self, *names, **options: gets.append(names) or get_file(*names, **options),
    )
    # Over HTTP fsspec takes objects for unchanging, and a server may sign their URL anew.
    info, signed = store.info, itertools.count()
    monkeypatch.setattr(type(store), "ukey", lambda self, path: path)
    monkeypatch.setattr(
        type(store), "info", lambda self, *path: info(*path) | {"url": f"?{next(signed)}"}
    )
    first, again = fetched(f"{bucket}/rows.npy"), fetched(f"{bucket}/rows.npy")
    assert first == again and len(gets) == 2
    store.pipe("/bucket/rows.npy", b"second")
    second = fetched(f"{bucket}/rows.npy")
    assert second.read_bytes() == b"second" and len(gets) == 4 and not first.exists()
    # Nothing is left beside the copy.
    assert list(second.parents[1].iterdir()) == [second.parent]
    assert list(second.parents[2].iterdir()) == [second.parents[1]]


def test_activations_are_opened_by_their_url(bucket):
    with fsspec.open(f"{bucket}/new.npz", "wb") as file:
        np.savez(file, activations=np.ones((3, 2), np.float32))
    assert open_activations(f"{bucket}/new.npz").take([1]).tolist() == [[1, 1]]


def test_what_cannot_be_copied_is_one_sentence(bucket, monkeypatch):
    for url, message in (
        (f"{bucket}/none.npy", "is neither a file nor a folder"),
        ("nowhere://bucket/x.npy", r"cannot be reached \(Protocol not known: nowhere\)"),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            fetched(url)
        assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
    (pathlib.Path.home() / "cache").write_text("a file in the place of the cache")
    with pytest.raises(ValueError, match="cannot be copied to"):
        fetched(f"{bucket}/rows.npy")
