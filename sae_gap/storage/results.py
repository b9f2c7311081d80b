"""Rows of results: a store that only grows and survives a kill, and where a row came from.

A row is a flat dictionary, one per result; a job is the work whose rows are written together. Nothing here needs JAX, so rows
can be read where there is none.
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sae_gap.core.checks import check_path, check_shard, check_type, shown
from sae_gap.storage import buckets, files

# A line of results: a value for each column.
Row = dict[str, Any]
# The columns that say how large the problem of a row is: those of every table, and the others that a sweep may vary.
CELL = ("num_latents", "sparsity", "num_samples")
SIZES = (*CELL, "input_dim", "noise_db")


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

    text = json.dumps(canonical(plain(mapping)), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """The rows of one study, in a folder. It only grows, and each job's rows arrive together or not at all.

    A block of rows is one write to a file opened for appending, under an advisory lock and synced to disk; what a killed
    process leaves of its last block is ignored by readers and cut off by the next writer. A shard of several writes a file of
    its own, because such locks do not hold across machines that share a folder; readers merge the files, so a run may go on
    with another number of shards than it began with.

    Args:
      directory: the folder; made if it is not there.
      shard: `(index, count)` of this process among those that share the folder.

    Raises:
      ValueError: the folder cannot be written to, the shard is not one of its count, or a file in the folder is corrupt.
    """

    def __init__(self, directory: str | os.PathLike[str], shard: tuple[int, int] = (0, 1)):
        check_path("directory", directory)
        self.directory, self.shard = Path(directory), check_shard(shard)
        index, count = self.shard
        self.path = self.directory / ("rows.jsonl" if count == 1 else f"rows-{index}-of-{count}.jsonl")
        self._files: dict[Path, _File] = {}
        files.ensure_writable(self.directory, self.path)
        files.sweep(self.directory)
        buckets.pull(self.directory)
        self._read()

    @classmethod
    def peek(cls, directory: str | os.PathLike[str]) -> set[str]:
        """The keys of the rows in a folder, which is left as it is, and need not be there."""
        store = cls.__new__(cls)
        store.directory, store._files = Path(directory), {}
        buckets.pull(store.directory)
        return store.keys()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes the rows of one job as one block, and returns once they are on disk.

        Rows whose key is there already are left out, so that a job done twice counts once. NaN and infinity become null.
        `job_rows`, the size of the block, is filled in, and `checksum`, by which a row that was edited is told.

        Args:
          rows: rows with a `key` each and one `job` between them.

        Raises:
          TypeError: the rows are no list of mappings.
          ValueError: a row lacks its key or job, two rows share a key, the rows belong to several jobs, or a value has no form
            in JSON.
          OSError: the disk refused the block; none of it is left behind.
        """
        if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
            raise TypeError(f"rows must be a list of mappings, but they are {shown(rows)}; give one for each row.")
        given = list(rows)
        for row in given:
            check_type("a row", row, Mapping, "give a value for each column")
        block: list[Row] = [plain(row) for row in given]
        keys = [row.get("key") for row in block]
        if not all(isinstance(name, str) for row in block for name in (row.get("key"), row.get("job"))):
            raise ValueError("every row must carry the strings `key` and `job`, but one of them does not.")
        if len({row["job"] for row in block}) > 1 or len(set(keys)) < len(keys):
            raise ValueError("the rows of one append must belong to one job and have different keys, but they do not.")
        with self._locked() as descriptor:
            present = self.keys()
            block = [row for row in block if row["key"] not in present]
            block = [row | {"job_rows": len(block)} for row in block]
            lines = [_line(row) for row in block]
            if lines:
                self._write(descriptor, "".join(lines).encode())

    def rows(self) -> list[Row]:
        """Every row on disk, this process's and others', in the order of their files; the first of each key."""
        self._read()
        found: dict[str, Row] = {}
        for path in sorted(self._files):
            for row in self._files[path].rows:
                found.setdefault(row["key"], row)
        return list(found.values())

    def keys(self) -> set[str]:
        """The keys of the rows on disk: what a resumed run may skip."""
        self._read()
        return {row["key"] for file in self._files.values() for row in file.rows}

    def _read(self) -> None:
        paths = [*self.directory.glob("rows.jsonl"), *self.directory.glob("rows-*-of-*.jsonl")]
        self._files = {path: self._files.get(path) or _File(path) for path in paths}
        for file in self._files.values():
            file.read()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            # Some network file systems have no locks; a shard of several is the only writer of its file there.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int, block: bytes) -> None:
        end = self._files[self.path].end
        try:
            os.ftruncate(descriptor, end)
            view = memoryview(block)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            if end == 0:
                files.sync_folder(self.directory)
            buckets.push(self.path, alone=True)
        except OSError as error:
            os.ftruncate(descriptor, end)
            if isinstance(error, buckets.BucketError) or error.errno is None:
                raise
            raise OSError(error.errno, error.strerror, str(self.path)) from error


def held(store: Store | None) -> Store:
    """The store of the process that keeps rows.

    Raises:
      ValueError: there is none.
    """
    if store is None:
        raise ValueError("rows need a store to be kept in; give one in the first process, or in the only one.")
    return store


class _File:
    """The complete blocks of one file, as far as it has been read."""

    def __init__(self, path: Path):
        self.path, self.end, self.lines, self.rows = path, 0, 0, list[Row]()

    def read(self) -> None:
        with open(self.path, "rb") as file:
            if os.fstat(file.fileno()).st_size < self.end:
                self.end, self.lines, self.rows = 0, 0, []
            file.seek(self.end)
            *lines, rest = file.read().split(b"\n")
        last = self.lines + len(lines)
        block: list[Row] = []
        size = 0
        for number, line in enumerate(lines, self.lines + 1):
            row, fault = _parse(line)
            # A kill tears only the end of a file; damage further up, or to what is still a row, is someone's edit.
            if fault == _NO_ROW and number == last and not rest:
                return
            if any(row[name] != first[name] for first in block[:1] for name in ("job", "job_rows")) if row else False:
                fault = "begins a job before the one above it is complete"
            if row is None or fault:
                raise ValueError(f"{buckets.name(self.path)}, line {number}, {fault}; mend that line or move the file away.")
            block.append(row)
            size += len(line) + 1
            if len(block) == row["job_rows"]:
                self.rows += block
                self.lines += len(block)
                self.end += size
                block, size = [], 0


_NO_ROW = "is not a row of results"


def _parse(line: bytes) -> tuple[Row | None, str]:
    """A row, or what is wrong with the line."""
    try:
        row = json.loads(line)
    except ValueError:
        return None, _NO_ROW
    except RecursionError:
        return None, "is nested too deep for a row of results"
    shape = isinstance(row, dict) and isinstance(row.get("key"), str) and isinstance(row.get("job"), str)
    count = row.get("job_rows") if shape else None
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        return None, _NO_ROW
    checksum = row.pop("checksum", None)
    if checksum is None:
        return None, "is a row of an earlier form, or has lost its checksum"
    try:
        same = checksum == _checksum(row)
    except (ValueError, RecursionError):
        same = False
    return (row, "") if same else (None, "was edited after it was written")


def _line(row: Row) -> str:
    try:
        return json.dumps(row | {"checksum": _checksum(row)}, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100].removesuffix(".")
        raise ValueError(f"a row has no form in JSON ({reason}); give numbers, texts, lists and mappings.") from None


def _checksum(row: Row) -> str:
    """A digest of a row as it lies on disk, where unlike in a key 1 is not 1.0 and NaN has no place."""
    text = json.dumps(row, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any) -> Any:
    """A value in its JSON form: NaN and infinity as None, tuples as lists."""
    # Arrays and scalars of NumPy and of JAX alike turn into Python's own, without an import of either.
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def provenance() -> dict[str, str | None]:
    """What made a row: versions, the machine, and the revision of this code.

    Returns:
      Versions of `python`, `jax`, `jaxlib`, `equinox`, `optax`, `numpy`, `scipy` and `sae_gap` (None where not installed);
      `revision`, the git commit,
      ending in `-dirty` after uncommitted edits (None where the code is not a checkout); and `machine`.
    """
    found: dict[str, str | None] = {"python": platform.python_version()}
    found |= {package: version(package) for package in ("jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "sae_gap")}
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return found | {"revision": _revision(Path(__file__).parent), "machine": machine}


@functools.cache
def version(package: str) -> str | None:
    """The version of an installed package, None where it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _revision(folder: Path) -> str | None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=10, env=environment).stdout.strip()

    try:
        # An installed copy may lie inside the checkout of something else, whose revision says nothing about this code.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None
