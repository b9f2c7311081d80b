"""Arrays of .safetensors files, memory-mapped."""

import json
import pathlib

import ml_dtypes
import numpy as np
from safetensors import safe_open

from sae_gap.data.activations.layout import DOCUMENTS, Array, RefusedError, as_table, choose, mapped
from sae_gap.data.activations.rows import Table

_TENSORS = {"F16": "<f2", "BF16": ml_dtypes.bfloat16, "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}


def read_safetensors(path: pathlib.Path, key: str | None) -> Table:
    """The rows of a tensor in a .safetensors file, with the documents that another one names."""
    # The library checks the header, but has no bfloat16 for numpy, nor a map of the file.
    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
    with path.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))

    def tensor(name: str) -> Array:
        entry = header[name]
        if entry["dtype"] not in _TENSORS:
            raise RefusedError(f"{name!r} in {path} has the type {entry['dtype']}; save it as float32.")
        begin, _ = entry["data_offsets"]
        return mapped(path, 8 + length + begin, tuple(entry["shape"]), np.dtype(_TENSORS[entry["dtype"]]))

    name = choose(path, names, key)
    return as_table(path, tensor(name), tensor(DOCUMENTS) if DOCUMENTS in names and name != DOCUMENTS else None)
