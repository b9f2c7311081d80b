"""Names of things by their content: stable hashes of plain values, of arrays and of files."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np


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
    return json_digest(plain(mapping, whole=True))


def json_digest(value: Any) -> str:
    """Sixteen hexadecimal digits of a value in its JSON form."""
    text = dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()[:16]


def digest(arrays: Iterable[Any]) -> str:
    """Sixteen hexadecimal digits that identify arrays by their types, shapes and bytes."""
    hashed = sha256()
    for array in map(np.asarray, arrays):
        hashed.update(f"{array.dtype}{array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()[:16]


def file_digest(*paths: Path) -> str:
    """Sixteen hexadecimal digits of the content of files, taken one after the other."""
    hashed = sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: hashed)
    return hashed.hexdigest()[:16]


def plain(value: Any, *, whole: bool = False) -> Any:
    """A value in its JSON form: NaN and infinity as None, tuples as lists and, with `whole`, whole
    floats as integers.
    """
    # `tolist` turns arrays and scalars of NumPy and JAX into Python's own, without importing
    # either.
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, Mapping):
        return {str(name): plain(entry, whole=whole) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, whole=whole) for entry in value]
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return int(value) if whole and value.is_integer() else value
