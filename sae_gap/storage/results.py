"""Rows of results: one immutable file for each, and the provenance of a row; and a folder of whole
files, on disk or in a bucket: it puts, gets, lists and removes files, and never appends to one.

A row is a flat dictionary, one per result. Reading rows needs no JAX.
"""

import collections
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import re
import secrets
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sae_gap.core import check_path

# A line of results: a value for each column.
Row = dict[str, Any]
# Columns for the size of a row's problem: those of every table, and others that a sweep may vary.
CELL = ("num_latents", "sparsity", "num_samples")
SIZES = (*CELL, "input_dim", "noise_db", "width")
_FORM = "sae_gap rows 1"
# Age in seconds after which a killed process's draft is removed.
_STALE = 86_400


def grouped(
    rows: Iterable[Mapping[str, Any]], by: Collection[str]
) -> dict[Any, list[Any]]:
    """Groups rows by their values of some columns, None for a missing column, in the order of the
    groups' first rows.
    """
    groups = collections.defaultdict(list)
    for row in rows:
        groups[tuple(row.get(name) for name in by)].append(row)
    return dict(groups)


def key(mapping: Mapping[str, Any]) -> str:
    """A stable hash of a mapping: the same in every process, whatever the order of its entries.

    Whole floats count as integers, so that 1 and 1.0 have one key.

    Args:
      mapping: names to numbers, strings, None, and lists or mappings of these.

    Returns:
      Sixteen hexadecimal digits.

    Raises:
      TypeError: a value has no JSON form.
    """

    def canonical(value):
        if isinstance(value, dict):
            return {name: canonical(entry) for name, entry in value.items()}
        if isinstance(value, list):
            return [canonical(entry) for entry in value]
        return int(value) if isinstance(value, float) and value.is_integer() else value

    return _digest(canonical(plain(mapping)))


def digest(arrays: Iterable[Any]) -> str:
    """Sixteen hexadecimal digits that identify arrays by their types, shapes and bytes."""
    found = hashlib.sha256()
    for array in map(np.asarray, arrays):
        found.update(
            f"{array.dtype}{array.shape}".encode()
            + np.ascontiguousarray(array).tobytes()
        )
    return found.hexdigest()[:16]


def file_digest(*paths: Path) -> str:
    """Sixteen hexadecimal digits of the content of files, taken one after the other."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: found)
    return found.hexdigest()[:16]


def _digest(value):
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class BucketError(OSError):
    """The bucket refused; the message is a sentence."""


class Folder:
    """A folder, made when its first file is written.

    A reader finds the old content or the new, even if the writing process is killed.

    Args:
      path: a path, in which `~` is expanded, or a URL such as gs://bucket/folder, which needs
        fsspec.

    Attributes:
      local: its path on this machine; None in a bucket.

    Raises:
      ValueError: the URL cannot be used; the message says why.
    """

    def __init__(self, path: "str | os.PathLike[str] | Folder"):
        if isinstance(path, Folder):
            vars(self).update(vars(path), _swept=False)
            return
        check_path("directory", path)
        text = os.fspath(path)
        self._url = text.rstrip("/")
        self._swept = False
        self._bucket: Any = (
            connect(text) if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text) else None
        )
        self.local = None if self._bucket else Path(os.path.expanduser(text))

    def __str__(self) -> str:
        return str(self.local or self._url)

    def __truediv__(self, name: str) -> "Folder":
        """The folder of that name within this one."""
        inner = Folder(self)
        inner.local, inner._url = (
            self.local and self.local / name,
            f"{self._url}/{name}",
        )
        return inner

    @property
    def name(self) -> str:
        """The last part of the path."""
        return str(self).rpartition("/")[2]

    def names(self) -> list[str]:
        """The names of its files, sorted; none if the folder does not exist."""
        return [name for name, is_file in self._entries() if is_file]

    def folders(self) -> list[str]:
        """The names of its folders, sorted."""
        return [name for name, is_file in self._entries() if not is_file]

    def exists(self, name: str) -> bool:
        """True if there is a file of this name."""
        if self.local:
            return (self.local / name).is_file()
        with self._asking(name, "read"):
            self._bucket.invalidate_cache()
            return bool(self._bucket.isfile(self._remote(name)))

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
          FileNotFoundError: there is none.
          OSError: it cannot be read.
        """
        if self.local:
            try:
                return (self.local / name).read_bytes()
            except NotADirectoryError as error:
                raise FileNotFoundError(*error.args) from None
        with self._asking(name, "read"):
            return self._bucket.cat_file(self._remote(name))

    def write(self, name: str, content: bytes) -> None:
        """Writes a whole file, in place of an earlier one.

        Raises:
          OSError: it cannot be written; nothing is left behind.
        """
        if not self.local:
            with self._asking(name, "written"):
                self._bucket.pipe_file(self._remote(name), content)
            return
        draft = self.local / f".draft-{secrets.token_hex(8)}"
        try:
            self.local.mkdir(parents=True, exist_ok=True)
            self._sweep(self.local)
            with draft.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self.local / name)
        except OSError as error:
            # For a full disk Python gives no name, otherwise the draft's.
            raise OSError(
                error.errno, error.strerror, str(self.local / name)
            ) from error
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        if self.local:
            (self.local / name).unlink(missing_ok=True)
        elif self.exists(name):
            with self._asking(name, "removed"):
                self._bucket.rm_file(self._remote(name))

    def obstacle(self) -> str | None:
        """The reason why nothing can be written to it, or None. Only a trial write tells:
        permission bits do not.
        """
        try:
            if self.local:
                above = self.local.absolute().parents
                there = next(
                    path for path in (self.local, *above) if os.path.lexists(path)
                )
                with tempfile.TemporaryFile(dir=there) as probe:
                    probe.write(b"\n")
            else:
                probe_name = f".probe-{secrets.token_hex(8)}"
                self.write(probe_name, b"\n")
                self.remove(probe_name)
        except OSError as error:
            return error.strerror or str(error)
        return None

    def require_writable(self) -> None:
        """Raises a ValueError if nothing can be written to it."""
        found = self.obstacle()
        if found is not None:
            raise ValueError(
                f"results cannot be written to {self} ({found}); choose another folder."
            )

    def _entries(self):
        if self.local:
            found = [
                (path.name, path.is_file())
                for path in (self.local.iterdir() if self.local.is_dir() else ())
            ]
        else:
            with self._asking("", "read"):
                self._bucket.invalidate_cache()
                remote = self._remote("").rstrip("/")
                listed = (
                    self._bucket.ls(remote, detail=True)
                    if self._bucket.exists(remote)
                    else []
                )
            # Some stores list the folder itself, as an object of no bytes.
            found = [
                (name.rpartition("/")[2], entry["type"] == "file")
                for entry in listed
                if (name := entry["name"].rstrip("/")) != remote
            ]
        return sorted(entry for entry in found if not entry[0].startswith("."))

    def _sweep(self, folder):
        """Removes, once, drafts of killed processes."""
        if not self._swept:
            self._swept = True
            for draft in folder.glob(".draft-*"):
                with contextlib.suppress(OSError):
                    if time.time() - draft.stat().st_mtime > _STALE:
                        draft.unlink()

    def _remote(self, name):
        return f"{self._bucket._strip_protocol(self._url)}/{name}"

    @contextlib.contextmanager
    def _asking(self, name, verb):
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            from sae_gap.storage import brief

            raise BucketError(
                f"{self}/{name} cannot be {verb} ({brief(error)})."
            ) from error


def connect(url: str) -> Any:
    """The file system of a URL; nothing is read yet.

    Raises:
      ValueError: the URL cannot be used; the message says why.
    """
    if (
        "://" not in url
        or ".." in url.split("/")
        or not url.partition("://")[2].strip("/")
    ):
        raise ValueError(
            f"{url!r} is no bucket that can be used; write it as gs://bucket/folder or "
            "s3://bucket/folder."
        )
    try:
        from fsspec.core import url_to_fs

        return url_to_fs(
            url, **({"auto_mkdir": True} if url.startswith("file:") else {})
        )[0]
    except ImportError:
        raise ValueError(
            f"{url} needs fsspec, gcsfs and s3fs; install them with pip install 'sae_gap[buckets]'."
        ) from None
    except Exception as error:
        raise ValueError(
            f"{url} cannot be reached ({error}); check its name and your credentials."
        ) from error


class Store:
    """The rows of one study: a file `rows/<key>.json` for each, written once and whole.

    A killed process loses only the row in progress; processes that share the folder write separate
    files.

    Args:
      directory: the folder, a path or the URL of one in a bucket; made when the first rows arrive.
    """

    def __init__(self, directory: str | os.PathLike[str] | Folder):
        self.folder = Folder(directory)
        self._files: dict[str, list[Row]] = {}

    def put(self, row: Mapping[str, Any]) -> None:
        """Writes a row, which must have a `key`, unless it is there already. NaN and infinity
        become null.

        Raises:
          OSError: the file cannot be written.
        """
        folder = self.folder / "rows"
        rows = [plain(row)]
        name = f"{row['key']}.json"
        if not folder.exists(name):
            whole = {"form": _FORM, "digest": _digest(rows), "rows": rows}
            folder.write(name, json.dumps(whole, allow_nan=False).encode())

    def rows(self) -> list[Row]:
        """Every stored row, this process's and others', in the order of their files; the first of
        each key.

        Raises:
          ValueError: a file is damaged, was edited, or is not one of rows; the message names it.
        """
        folder = self.folder / "rows"
        there = [name for name in folder.names() if name.endswith(".json")]
        self._files = {
            name: self._files.get(name) or _read(folder, name) for name in there
        }
        found: dict[str, Row] = {}
        for name in there:
            for row in self._files[name]:
                found.setdefault(row["key"], row)
        return list(found.values())


def _read(folder, name):
    try:
        found = json.loads(folder.read(name))
        form = found["form"]
        rows = found["rows"]
        if not isinstance(rows, list) or not all(
            isinstance(row["key"], str) for row in rows
        ):
            raise ValueError
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ValueError(
            f"{folder}/{name} is damaged or holds no rows; move it away to have them made again."
        ) from None
    if form != _FORM:
        raise ValueError(
            f"{folder}/{name} is of the form {form!r}, not {_FORM!r}; move it away or choose "
            "another folder."
        )
    if found.get("digest") != _digest(rows):
        raise ValueError(
            f"{folder}/{name} was edited after it was written; move it away to have its rows made "
            "again."
        )
    return rows


def plain(value: Any) -> Any:
    """A value in its JSON form: NaN and infinity as None, tuples as lists."""
    # `tolist` turns arrays and scalars of NumPy and JAX into Python's own, without importing
    # either.
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def provenance() -> dict[str, str | None]:
    """Versions, the machine, and the revision of this code, as a row's provenance.

    Returns:
      Versions of `python`, `jax`, `jaxlib`, `equinox`, `optax`, `numpy`, `scipy` and `sae_gap`
      (None if not installed); `revision`, the git commit, ending in `-dirty` after uncommitted
      edits (None if the code is not a checkout); and `machine`.
    """
    packages = "jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "sae_gap"
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "revision": _revision(Path(__file__).parent),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


@functools.cache
def version(package: str) -> str | None:
    """The version of a package, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _revision(folder):
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("GIT_")
    }

    def git(*arguments):
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.check_output(
            command, stderr=subprocess.DEVNULL, text=True, timeout=10, env=environment
        ).strip()

    try:
        # An installed copy may lie inside another project's checkout, whose revision says nothing
        # about this code.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None


def package_folders(package: str) -> list[Path]:
    """The folders of a package, none if it is not installed, without importing it: some print, or
    need missing libraries.
    """
    spec = importlib.util.find_spec(package)
    return [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]


def library(name: str) -> Any:
    """Imports a library of the extra `real`; raises a ValueError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"language models are read by the library {name}; pip install 'sae_gap[real]'."
        ) from None
