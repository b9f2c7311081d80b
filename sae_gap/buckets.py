"""Results and activations in a bucket, gs:// or s3://, each through a folder of this machine.

Object stores replace objects whole and cannot append. So a run with its results in a bucket works in a local folder, where rows
are appended and synced as ever. What lies in the bucket is pulled when the run first asks for its folder, and each file is
pushed as soon as it is written: a block of rows, a model, the state of a fit, a figure, a page. A killed run thus goes on from
the bucket, on whatever machine.

Activations are copied once into the user's cache: rows are read in random order and several times, a request each from afar.

The library that talks to the stores is fsspec, with gcsfs and s3fs behind it; they come with the extra `buckets`.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

# The last two are for tests, and for who wants to try.
SCHEMES = ("gs", "s3", "file", "memory")
# How the folders that hold mirrors begin, among others for temporary files.
_HOME = "sae_gap-mirror-"
# What tells one version of an object from the next, by the names of one store or another.
_VERSION = ("ETag", "etag", "generation", "created", "mtime", "size")


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
            if alone and _version(self.store, remote) != self.versions.get(path):
                raise BucketError(f"{name(path)} is written by another run as well; give each a --shard of its own")
            if path.exists():
                self.store.put_file(str(path), remote)
                self.known[path] = _stamp(path)
            elif self.known.pop(path, None) is not None:
                with contextlib.suppress(FileNotFoundError):
                    self.store.rm_file(remote)
            if alone:
                self.versions[path] = _version(self.store, remote)
        except BucketError:
            raise
        except Exception as error:
            raise BucketError(f"{name(path)} cannot be written: {_reason(error)}") from error

    def pull(self, folder: Path) -> list[Path]:
        """Brings the files of a folder, unless that was done, and names the folders in it."""
        if folder in self.pulled:
            return self.pulled[folder]
        inside = []
        try:
            for entry in _entries(self.store, self.prefix + self.inner(folder)):
                path = folder / PurePosixPath(entry["name"]).name
                if path.name.startswith("."):
                    # Another run's probe, or its draft where the store is a file system.
                    continue
                if entry["type"] == "directory":
                    inside.append(path)
                elif path not in self.known:
                    folder.mkdir(parents=True, exist_ok=True)
                    version = _version(self.store, entry["name"])
                    self.store.get_file(entry["name"], str(path))
                    self.known[path], self.versions[path] = _stamp(path), version
        except Exception as error:
            raise BucketError(f"{name(folder)} cannot be read: {_reason(error)}") from error
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
    parts = _parts(folder)
    if parts is None:
        return Path(folder)
    url = "{}://{}".format(*parts)
    if url not in _mirrors:
        store, prefix = _open(url)
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
        return _reason(error)
    return None if found == b"second" else "what is written there does not stay"


def name(path: Path) -> str:
    """What a user knows a path by: its URL in a mirror, else itself."""
    mirror = _mirror(path)
    return str(path) if mirror is None else mirror.url + mirror.inner(path)


def fetch(path: str | os.PathLike[str], beside: Sequence[str] = ()) -> Path:
    """A file, or a folder of files, to read: a path as it is, and for a URL its copy in the user's cache.

    It is copied once for each version of its objects, in the place of an earlier one.

    Args:
      path: path or URL.
      beside: names of files that belong to a file and lie in its folder, if they are there.

    Raises:
      ValueError: nothing is there, it cannot be read, does not fit on the disk, or what reads it is not installed.
    """
    parts = _parts(path)
    if parts is None:
        return Path(path)
    url = "{}://{}".format(*parts)
    store, remote = _open(url)
    try:
        store.invalidate_cache()
        found = store.info(remote)
        if found["type"] == "file":
            inside = _entries(store, remote.rpartition("/")[0]) if beside else []
            entries = [found, *(entry for entry in inside if PurePosixPath(entry["name"]).name in beside)]
        else:
            entries = [entry for entry in _entries(store, remote) if entry["type"] == "file"]
        versions = sorted((entry["name"], str(_version(store, entry["name"]))) for entry in entries)
    except FileNotFoundError:
        raise ValueError(f"{url} is neither a file nor a folder; give the path of activations.") from None
    except Exception as error:
        raise ValueError(f"{url} cannot be read ({_reason(error)}); check its name and your credentials.") from error
    place = cache_home() / "sae_gap" / "buckets" / _digest(url)
    copy = place / _digest(repr(versions))
    try:
        place.mkdir(parents=True, exist_ok=True)
        # Several processes of one machine may want the same file at once.
        with place.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not copy.is_dir():
                _copy(store, entries, url, place, copy)
    except OSError as error:
        raise ValueError(f"{url} cannot be copied to {place} ({error}); free some space or choose XDG_CACHE_HOME.") from error
    return copy / PurePosixPath(remote).name if found["type"] == "file" else copy


def _copy(store: Any, entries: Sequence[dict[str, Any]], url: str, place: Path, copy: Path) -> None:
    for old in place.glob("*"):
        shutil.rmtree(old)
    needed, free = sum(entry["size"] for entry in entries), shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(
            f"{url} takes {needed / 2**30:.1f} GiB, but there are {free / 2**30:.1f} in {place}; choose XDG_CACHE_HOME."
        )
    with tempfile.TemporaryDirectory(dir=place) as draft:
        inner = Path(draft) / "whole"
        inner.mkdir()
        for entry in entries:
            try:
                store.get_file(entry["name"], str(inner / PurePosixPath(entry["name"]).name))
            except OSError:
                raise
            except Exception as error:
                raise ValueError(f"{url} cannot be read ({_reason(error)}); check your credentials.") from error
        inner.rename(copy)


def cache_home() -> Path:
    """The user's cache folder, by the XDG convention."""
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The convention has a relative path ignored: it would scatter caches over working folders.
    return chosen if chosen.is_absolute() else Path.home() / ".cache"


def _parts(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """The scheme of a URL and what follows, without slashes at its end; None for a path."""
    text = os.fspath(path)
    match = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]+):/", text)
    if match is None:
        return None
    rest = text[len(match[0]) + 1 :].rstrip("/")
    if match[1] not in SCHEMES or not text.startswith(f"{match[1]}://") or not rest or ".." in rest.split("/"):
        raise ValueError(f"{text!r} is no bucket that can be used; write it as gs://bucket/folder or s3://bucket/folder.")
    return match[1], rest


def _open(url: str) -> tuple[Any, str]:
    """The store of a URL, and the path in it."""
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(url, **({"auto_mkdir": True} if url.startswith("file:") else {}))
    except ImportError:
        raise ValueError(f"{url} needs fsspec, gcsfs and s3fs; install them with pip install 'sae_gap[buckets]'.") from None
    except Exception as error:
        raise ValueError(f"{url} cannot be reached ({_reason(error)}); check its name and your credentials.") from error


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


def _entries(store: Any, remote: str) -> list[dict[str, Any]]:
    """What lies in a folder; nothing where there is none."""
    store.invalidate_cache()
    try:
        found = store.ls(remote, detail=True)
    except FileNotFoundError:
        return []
    # Some stores list the folder itself, by an object of no bytes.
    return [entry for entry in found if entry["name"].rstrip("/") != remote.rstrip("/")]


def _version(store: Any, remote: str) -> Any:
    store.invalidate_cache()
    try:
        found = store.info(remote)
    except FileNotFoundError:
        return None
    return tuple(str(found[field]) for field in _VERSION if field in found)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        # Some stores say no more than an address of theirs.
        return "it is not there"
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()).rstrip(".")[:200] or type(error).__name__


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


__all__ = ["SCHEMES", "BucketError", "cache_home", "fetch", "held", "local", "name", "obstacle", "pull", "push"]
