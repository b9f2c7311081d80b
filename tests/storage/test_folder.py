"""Whole files on disk and in a bucket: the old content or the new."""

import errno
import os
import time

import fsspec
import pytest

from sae_gap.storage import BucketError, Folder


@pytest.mark.parametrize("place", ["{}/a", "file://{}/a/", "memory://bucket/a"])
def test_files_are_put_got_listed_and_removed(place, tmp_path):
    fsspec.filesystem("memory").store.clear()
    folder = Folder(place.format(tmp_path))
    inner = folder / "inner"
    assert folder.names() == folder.folders() == [] and folder.obstacle() is None
    for content in (b"old", b"new"):
        folder.write("x", content)
        inner.write("y", b"")
    assert folder.read("x") == b"new" and inner.read("y") == b""
    assert (folder.names(), folder.folders(), inner.names()) == (["x"], ["inner"], ["y"])
    assert folder.exists("x") and not folder.exists("inner") and not (folder / "none").exists("y")
    assert (folder.name, str(inner)) == ("a", f"{folder}/inner")
    # Only a folder on disk has a path.
    assert folder.local == (None if "://" in place else tmp_path / "a")
    for _ in range(2):
        folder.remove("x")
    assert folder.names() == []
    with pytest.raises(FileNotFoundError):
        folder.read("x")


def test_a_draft_of_a_killed_process_is_no_file_and_goes_after_a_day(tmp_path):
    draft = tmp_path / ".draft-0123456789abcdef"
    draft.write_bytes(b"half")
    for age, there in ((time.time(), True), (0, False)):
        os.utime(draft, (age, age))
        Folder(tmp_path).write("y", b"")
        assert draft.exists() == there and Folder(tmp_path).names() == ["y"]


def test_a_full_disk_leaves_the_old_content(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Folder("~").write("x", b"old")
    # As open to others as any file.
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        Folder(tmp_path).write("x", b"new")
    assert error.value.filename == str(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"old" and len([*tmp_path.iterdir()]) == 2


def test_where_nothing_can_be_written_is_said_beforehand_and_nothing_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"/file/inner \(Not a directory\); choose another"):
        Folder(tmp_path / "file" / "inner").require_writable()
    Folder(tmp_path / "not" / "yet").require_writable()
    assert not (tmp_path / "not").exists()


@pytest.mark.parametrize("url", ["gs:/bucket", "gs://", "gs://a/../b", "nonsense://bucket/x"])
def test_a_url_of_no_bucket_is_refused(url):
    with pytest.raises(ValueError, match=r"bucket|cannot be reached"):
        Folder(url)


def test_a_bucket_that_refuses_is_named(monkeypatch):
    folder = Folder("memory://bucket/a")

    def refuse(*_, **__):
        raise RuntimeError("403 Forbidden.")

    monkeypatch.setattr(folder._bucket, "pipe_file", refuse)
    fault = r"^memory://bucket/a/x cannot be written \(403 Forbidden\)\.$"
    with pytest.raises(BucketError, match=fault):
        folder.write("x", b"")
    assert "403" in folder.obstacle()
