"""Results in a bucket, gs:// or s3://, through a folder of this machine that mirrors it.

Object stores replace objects whole and cannot append. So a run with its results in a bucket works in a local folder, where rows
are appended and synced as ever. What lies in the bucket is pulled when the run first asks for its folder, and each file is
pushed as soon as it is written: a block of rows, a model, the state of a fit, a figure, a page. A killed run thus goes on from
the bucket, on whatever machine.
"""

import contextlib
import dataclasses
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from sae_gap.storage import stores

# How the folders that hold mirrors begin, among others for temporary files.
_HOME = "sae_gap-mirror-"


class BucketError(OSError):
    """A sentence on what a store refused or lacks."""


@dataclasses.dataclass(frozen=True)
class _Mirror:
    """A folder of a bucket, `prefix` in `store`, and the local folder `root` that stands for it.

    `known` says how each file was when it was last pulled or pushed, `versions` which object that was, for those of one writer.
    """

    url: str
    store: Any
    prefix: str
    home: Path
    lock: IO[str]
    root: Path
    known: dict[Path, tuple[int, int]] = dataclasses.field(default_factory=dict)
    versions: dict[Path, Any] = dataclasses.field(default_factory=dict)
    pulled: dict[Path, list[Path]] = dataclasses.field(default_factory=dict)

    def inner(self, path: Path) -> str:
        within = path.relative_to(self.root).as_posix()
        return "" if within == "." else f"/{within}"

    def push(self, path: Path, alone: bool) -> None:
        remote = self.prefix + self.inner(path)
        try:
            if alone and stores.version(self.store, remote) != self.versions.get(path):
                raise BucketError(f"{name(path)} is written by another run as well; give each a --shard of its own")
            if path.exists():
                self.store.put_file(str(path), remote)
                self.known[path] = _stamp(path)
            elif self.known.pop(path, None) is not None:
                with contextlib.suppress(FileNotFoundError):
                    self.store.rm_file(remote)
            if alone:
                self.versions[path] = stores.version(self.store, remote)
        except BucketError:
            raise
        except Exception as error:
            raise BucketError(f"{name(path)} cannot be written: {stores.reason(error)}") from error

    def pull(self, folder: Path) -> list[Path]:
        """Brings the files of a folder, unless that was done, and names the folders in it."""
        if folder in self.pulled:
            return self.pulled[folder]
        inside = []
        try:
            for entry in stores.entries(self.store, self.prefix + self.inner(folder)):
                path = folder / PurePosixPath(entry["name"]).name
                if path.name.startswith("."):
                    # Another run's probe, or its draft where the store is a file system.
                    continue
                if entry["type"] == "directory":
                    inside.append(path)
                elif path not in self.known:
                    folder.mkdir(parents=True, exist_ok=True)
                    version = stores.version(self.store, entry["name"])
                    self.store.get_file(entry["name"], str(path))
                    self.known[path], self.versions[path] = _stamp(path), version
        except Exception as error:
            raise BucketError(f"{name(folder)} cannot be read: {stores.reason(error)}") from error
        self.pulled[folder] = inside
        return inside

    def sync(self) -> None:
        """Pushes what was written otherwise, and removes what was removed; rows are their store's to push."""
        there = {path for path in self.root.rglob("*") if path.is_file() and not path.name.startswith(".")}
        for path in sorted(there | self.known.keys()):
            if path.suffix == ".jsonl":
                continue
            if path not in there or self.known.get(path) != _stamp(path):
                self.push(path, False)


_mirrors: dict[str, _Mirror] = {}


def local(folder: str | os.PathLike[str]) -> Path:
    """The folder to work in: a path as it is, and for a URL a new folder that mirrors the bucket until the end of `held`.

    Raises:
      ValueError: the URL is none of a bucket, cannot be reached, or what reads it is not installed.
    """
    parts = stores.parse(folder)
    if parts is None:
        return Path(folder)
    url = "{}://{}".format(*parts)
    if url not in _mirrors:
        store, prefix = stores.connect(url)
        home, lock = _home()
        root = home.joinpath(parts[0], *PurePosixPath(parts[1].lstrip("/")).parts)
        _mirrors[url] = _Mirror(url, store, prefix, home, lock, root)
    return _mirrors[url].root


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Mirrors of buckets last until its end, where what is new in them is pushed, unless an error ended it."""
    try:
        yield
        for mirror in _mirrors.values():
            mirror.sync()
    finally:
        for mirror in _mirrors.values():
            shutil.rmtree(mirror.home, ignore_errors=True)
            mirror.lock.close()
        _mirrors.clear()


def push(path: Path, *, alone: bool = False) -> None:
    """Makes an object what its local file is by now, or removes it if that is gone. Of no effect outside of mirrors.

    Args:
      path: a file.
      alone: whether only this run may write it, so that another's object in its place is an error.

    Raises:
      BucketError: the store refused, or another run has written the object.
    """
    mirror = _mirror(path)
    if mirror is not None:
        mirror.push(path, alone)


def pull(folder: Path, *, below: bool = False) -> None:
    """Brings the files of a folder from the bucket, once. Of no effect outside of mirrors.

    Args:
      folder: a local one.
      below: whether to bring those of the folders in it as well, but of none further down.

    Raises:
      BucketError: the store refused.
    """
    mirror = _mirror(folder)
    if mirror is not None:
        inside = mirror.pull(folder)
        for one in inside if below else []:
            mirror.pull(one)


def obstacle(folder: Path) -> str | None:
    """Why nothing can be written to the bucket of a mirrored folder, or None: an object is written, replaced and removed."""
    mirror = _mirror(folder)
    if mirror is None:
        return None
    probe = f"{mirror.prefix}/.sae_gap-{secrets.token_hex(8)}"
    try:
        # Keys that may create but not replace would fail at the second block of rows.
        for content in (b"first", b"second"):
            mirror.store.pipe_file(probe, content)
        found = mirror.store.cat_file(probe)
        mirror.store.rm_file(probe)
    except Exception as error:
        return stores.reason(error)
    return None if found == b"second" else "what is written there does not stay"


def name(path: Path) -> str:
    """What a user knows a path by: its URL in a mirror, else itself."""
    mirror = _mirror(path)
    return str(path) if mirror is None else mirror.url + mirror.inner(path)


def _home() -> tuple[Path, IO[str]]:
    """A new folder for a mirror, and the lock that says that its process lives; those of killed ones are removed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_HOME}*/.lock"):
        with contextlib.suppress(OSError), path.open("r+") as left:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
    home = Path(tempfile.mkdtemp(prefix=_HOME))
    draft = home / ".draft"
    lock = draft.open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    # Named once it is locked, lest another process finds it free.
    draft.rename(home / ".lock")
    return home, lock


def _mirror(path: Path) -> _Mirror | None:
    return next((mirror for mirror in _mirrors.values() if path.is_relative_to(mirror.root)), None)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


__all__ = ["BucketError", "held", "local", "name", "obstacle", "pull", "push"]
