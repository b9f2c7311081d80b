"""Rows of results: one immutable file for each, and the provenance of a row.

A row is a flat dictionary, one per result. Reading rows needs no JAX.
"""

import collections
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import subprocess
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sae_gap.storage import Folder

# A line of results: a value for each column.
Row = dict[str, Any]
# Columns for the size of a row's problem: those of every table, and others that a sweep may vary.
CELL = ("num_latents", "sparsity", "num_samples")
SIZES = (*CELL, "input_dim", "noise_db", "width")
_FORM = "sae_gap rows 1"


def grouped(rows: Iterable[Mapping[str, Any]], by: Collection[str]) -> dict[Any, list[Any]]:
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
        found.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
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
        folder, rows = self.folder / "rows", [plain(row)]
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
        self._files = {name: self._files.get(name) or _read(folder, name) for name in there}
        found: dict[str, Row] = {}
        for name in there:
            for row in self._files[name]:
                found.setdefault(row["key"], row)
        return list(found.values())


def _read(folder, name):
    try:
        found = json.loads(folder.read(name))
        form, rows = found["form"], found["rows"]
        if not isinstance(rows, list) or not all(isinstance(row["key"], str) for row in rows):
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
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

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
