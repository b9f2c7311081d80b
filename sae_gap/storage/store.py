"""Rows of results: an immutable file for each. Reading them needs no JAX."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from json import dumps, loads
from typing import Any

from sae_gap.storage import Folder, json_digest, plain

# A line of results: a value for each column.
Row = dict[str, Any]
# Columns for the size of a row's problem: those of every table, and others that a sweep may vary.
CELL = ("num_latents", "sparsity", "num_samples")
SIZES = (*CELL, "input_dim", "noise_db", "width")
_FORM = "sae_gap rows 1"


def grouped(
    rows: Iterable[Mapping[str, Any]], by: Collection[str]
) -> dict[Any, list[Any]]:
    """Groups rows by their values of some columns, None for a missing column, in the order of the
    groups' first rows.
    """
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row.get(name) for name in by)].append(row)
    return dict(groups)


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
            whole = {"form": _FORM, "digest": json_digest(rows), "rows": rows}
            folder.write(name, dumps(whole, allow_nan=False).encode())

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
        by_key: dict[str, Row] = {}
        for name in there:
            for row in self._files[name]:
                by_key.setdefault(row["key"], row)
        return list(by_key.values())


def _read(folder: Folder, name: str) -> list[Row]:
    try:
        content = loads(folder.read(name))
        form = content["form"]
        rows = content["rows"]
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
    if content.get("digest") != json_digest(rows):
        raise ValueError(
            f"{folder}/{name} was edited after it was written; move it away to have its rows made "
            "again."
        )
    return rows
