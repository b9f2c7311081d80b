"""Files of arrays: .npy, .npz, .safetensors and .pt. They are memory-mapped, but a compressed
.npz is read whole.
"""

import pathlib
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import safe_open

from sae_gap.data import (
    ACTIVATIONS,
    DOCUMENTS,
    Array,
    RefusedError,
    Table,
    as_table,
    choose,
    in_memory,
)
from sae_gap.storage import map_pt, member_start, read_header, tensors_of

_TENSORS = {
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "I32": np.int32,
    "I64": np.int64,
}


def read_npy(path: pathlib.Path, key: str | None) -> Table:
    """Reads the rows of an .npy file; beside `x.npy`, `x.documents.npy` may name the documents."""
    if key is not None:
        raise RefusedError(f"{path} holds one array, which has no name; leave out the key {key!r}.")
    return as_table(path, _mapped(path, 0, path.stat().st_size), _companion(path))


def _companion(path: pathlib.Path) -> Array | None:
    """Returns the documents that a file beside this one names."""
    companion = path.with_suffix(f".{DOCUMENTS}.npy")
    return _mapped(companion, 0, companion.stat().st_size) if companion.is_file() else None


def _mapped(path: pathlib.Path, begin: int, size: int) -> Array:
    """Maps an array that NumPy saved in `size` bytes of a file, from byte `begin` on."""
    with path.open("rb") as file:
        file.seek(begin)
        header = read_header(file)
    if header.dtype.hasobject:
        return Array(header.shape, header.dtype, lambda start, stop: np.zeros(0))
    if header.size != size - header.length:
        raise ValueError(
            f"its header promises {header.size} bytes of numbers, but there are "
            f"{size - header.length}"
        )
    if not header.size:
        return in_memory(np.zeros(header.shape, header.dtype))
    place, shape = begin + header.length, header.shape
    order: Any = "F" if header.fortran else "C"
    return _numbers(np.memmap(path, header.dtype, "r", place, shape, order))


def _numbers(values: np.ndarray) -> Array:
    """Wraps an array that NumPy saved; it has no bfloat16 and saves it as two raw bytes."""
    return in_memory(values.view(ml_dtypes.bfloat16) if values.dtype == np.dtype("V2") else values)


def read_npz(path: pathlib.Path, key: str | None) -> Table:
    """Reads the rows of an array in an .npz file; an array `documents` may name the documents."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    return _table(path, [*members], key, lambda name: _member(path, members[name]))


def _table(
    path: pathlib.Path,
    names: Sequence[str],
    key: str | None,
    array: Callable[[str], Array],
    companion: Array | None = None,
) -> Table:
    """Reads the rows of one of several arrays. Another, or the companion, names the documents."""
    name = choose(path, names, key)
    documents = array(DOCUMENTS) if DOCUMENTS in names else companion
    return as_table(path, array(name), documents if name != DOCUMENTS else None)


def _member(path: pathlib.Path, info: zipfile.ZipInfo) -> Array:
    if info.compress_type == zipfile.ZIP_STORED:
        return _mapped(path, *member_start(path, info))
    with zipfile.ZipFile(path) as archive, archive.open(info) as file:
        return _numbers(np.lib.format.read_array(file))


def read_pt(path: pathlib.Path, key: str | None) -> Table:
    """Reads the rows of a tensor that `torch.save` wrote, alone or in a dict. A tensor `documents`
    of the dict may name the documents; else `x.documents.npy` beside `x.pt` may.
    """
    held = map_pt(path)
    tensors = {ACTIVATIONS: held} if isinstance(held, np.ndarray) else tensors_of(held)
    return _table(path, [*tensors], key, lambda name: in_memory(tensors[name]), _companion(path))


def read_safetensors(path: pathlib.Path, key: str | None) -> Table:
    """Reads a tensor's rows in a .safetensors file; a tensor `documents` may name the documents."""
    file = safe_open(path, framework="numpy")

    def tensor(name: str) -> Array:
        part = file.get_slice(name)
        if part.get_dtype() not in _TENSORS:
            raise RefusedError(
                f"{name!r} in {path} has the type {part.get_dtype()}; save it as float32."
            )
        return Array(
            tuple(part.get_shape()),
            np.dtype(_TENSORS[part.get_dtype()]),
            lambda start, stop: part[start:stop],
        )

    return _table(path, [*file.keys()], key, tensor)
