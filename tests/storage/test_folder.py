"""Whole files on disk and in a bucket: the old content or the new, whenever a process is killed."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from sae_gap.storage.folder import BucketError, Folder


@pytest.fixture(params=["disk", "file", "memory"])
def folder(request, tmp_path):
    if request.param == "memory":
        import fsspec

        fsspec.filesystem("memory").store.clear()
    return Folder(
        {"disk": tmp_path / "a", "file": f"file://{tmp_path}/a/", "memory": "memory://bucket/a"}[
            request.param
        ]
    )


def test_files_are_put_got_listed_and_removed(folder):
    assert (
        folder.names() == folder.folders() == []
        and not folder.exists("x")
        and folder.obstacle() is None
    )
    folder.write("x", b"old")
    folder.write("x", b"new")
    (folder / "inner").write("y", b"")
    assert folder.read("x") == b"new" and (folder / "inner").read("y") == b""
    assert (
        folder.names() == ["x"]
        and folder.folders() == ["inner"]
        and (folder / "inner").names() == ["y"]
    )
    assert folder.exists("x") and not folder.exists("inner") and not (folder / "none").exists("y")
    assert (
        folder.name == "a"
        and str(folder / "inner") == f"{folder}/inner"
        and (folder / "inner").name == "inner"
    )
    for _ in range(2):
        folder.remove("x")
    assert folder.names() == []
    with pytest.raises(FileNotFoundError):
        folder.read("x")


def test_only_a_folder_on_disk_has_a_path(folder, tmp_path):
    assert folder.local in (tmp_path / "a", None) and (folder.local is None) == (
        "://" in str(folder)
    )


def test_the_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    Folder("~/here").write("x", b"1")
    assert (tmp_path / "here" / "x").read_bytes() == b"1"


def test_a_file_is_as_open_to_others_as_any(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    Folder(tmp_path).write("x", b"1")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


WRITER = """
import sys
from sae_gap.storage.folder import Folder
while True:
    for letter in (b"a", b"b"):
        Folder(sys.argv[1]).write("x", letter * 100_000)
"""


def test_a_killed_writer_leaves_the_old_content_or_the_new(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path])
    while not (tmp_path / "x").exists():
        time.sleep(0.01)
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    content = (tmp_path / "x").read_bytes()
    assert len(content) == 100_000 and len(set(content)) == 1
    # What it left of a draft is no file of the folder, and goes after a day.
    draft = tmp_path / ".draft-0123456789abcdef"
    draft.write_bytes(b"half")
    Folder(tmp_path).write("y", b"")
    assert draft.exists() and Folder(tmp_path).names() == ["x", "y"]
    os.utime(draft, (0, 0))
    Folder(tmp_path).write("y", b"")
    assert not draft.exists()


def test_a_full_disk_leaves_the_old_content(tmp_path, monkeypatch):
    Folder(tmp_path).write("x", b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        Folder(tmp_path).write("x", b"new")
    assert error.value.filename == str(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"old" and [
        path.name for path in tmp_path.iterdir()
    ] == ["x"]


def test_where_nothing_can_be_written_is_told_beforehand_and_nothing_is_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ValueError,
        match=r"results cannot be written to .*/file/inner \(Not a directory\); choose another",
    ):
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
    with pytest.raises(
        BucketError, match=r"^memory://bucket/a/x cannot be written \(403 Forbidden\)\.$"
    ):
        folder.write("x", b"")
    assert "403" in folder.obstacle()
