"""A file is replaced whole or not at all, and what killed processes left of it is swept."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sae_gap.storage import files
from sae_gap.storage.results import Store


def test_an_interrupted_replacement_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.csv"
    files.write_atomically(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def draft_of_another(path):
    """A draft that a process of this machine has left, which is gone by now."""
    code = "import sys, pathlib; from sae_gap import files; print(files.draft_of(pathlib.Path(sys.argv[1])))"
    return Path(subprocess.check_output([sys.executable, "-c", code, str(path)], text=True).strip())


def test_a_store_sweeps_what_killed_processes_left(tmp_path):
    gone = draft_of_another(tmp_path / "summary.csv")
    gone.write_bytes(b"half")
    folder = draft_of_another(tmp_path / "sae")
    folder.mkdir()
    (folder / "weights").write_bytes(b"half")
    own = files.draft_of(tmp_path / "summary.csv")
    elsewhere = gone.with_name(re.sub(r"[0-9a-f]{8}-", "00000000-", gone.name, count=1))
    old = elsewhere.with_name(elsewhere.name[:-1] + ("0" if elsewhere.name[-1] != "0" else "1"))
    kept = [own, elsewhere, tmp_path / ".hidden", tmp_path / ".summary.csv.12-ab"]
    for path in (*kept, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    Store(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in kept}
