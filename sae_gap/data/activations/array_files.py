"""Files of arrays: .npy, .npz and .safetensors. They are memory-mapped, except what is
compressed.
"""

import math
import pathlib
import struct
import zipfile

import ml_dtypes
import numpy as np
from safetensors import safe_open

from sae_gap.data.activations.tables import DOCUMENTS, Array, RefusedError, Table, as_table, choose
from sae_gap.storage.npy import Header, read_header

_TENSORS = {
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
    "I32": np.int32,
    "I64": np.int64,
}


def read_npy(path: pathlib.Path, key: str | None) -> Table:
    """The rows of an .npy file; beside `x.npy`, `x.documents.npy` may name the documents."""
    if key is not None:
        raise RefusedError(f"{path} holds one array, which has no name; leave out the key {key!r}.")
    companion = path.with_suffix(f".{DOCUMENTS}.npy")
    documents = _mapped(companion, 0, companion.stat().st_size) if companion.is_file() else None
    return as_table(path, _mapped(path, 0, path.stat().st_size), documents)


def _mapped(path: pathlib.Path, begin: int, size: int) -> Array:
    """An array that NumPy saved in `size` bytes of a file, from byte `begin` on."""
    with path.open("rb") as file:
        file.seek(begin)
        header = _checked(read_header(file), size)
    if header.dtype.hasobject or header.size == 0:
        return Array(header.shape, header.dtype, lambda start, stop: np.zeros(0))
    numbers = np.memmap(
        path, header.dtype, "r", begin + header.length, header.shape, "F" if header.fortran else "C"
    )
    return Array(header.shape, header.dtype, lambda start, stop: numbers[start:stop])


def _checked(header: Header, there: int) -> Header:
    """The header of an array whose numbers fill the rest of the `there` bytes."""
    if not header.dtype.hasobject and header.size != there - header.length:
        raise ValueError(
            f"its header promises {header.size} bytes of numbers, but there are "
            f"{there - header.length}"
        )
    # NumPy has no bfloat16 and saves it as two raw bytes.
    return (
        header._replace(dtype=np.dtype(ml_dtypes.bfloat16))
        if header.dtype == np.dtype("V2")
        else header
    )


def read_npz(path: pathlib.Path, key: str | None) -> Table:
    """The rows of an array in an .npz file; an array `documents` may name the documents."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    name = choose(path, list(members), key)
    documents = (
        _member(path, members[DOCUMENTS]) if DOCUMENTS in members and name != DOCUMENTS else None
    )
    return as_table(path, _member(path, members[name]), documents)


def _member(path: pathlib.Path, info: zipfile.ZipInfo) -> Array:
    if info.flag_bits & 1:
        raise ValueError("it is encrypted")
    if info.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as opened:
            opened.seek(info.header_offset)
            local = opened.read(30)
        if local[:4] != b"PK\x03\x04":
            raise ValueError(f"its entry {info.filename!r} is damaged")
        return _mapped(
            path, info.header_offset + 30 + sum(struct.unpack("<HH", local[26:30])), info.file_size
        )
    # Kept open: the next rows lie ahead, and to reach earlier ones the entry is decompressed again
    # from its start.
    with zipfile.ZipFile(path) as archive:
        file = archive.open(info)
    header = _checked(read_header(file), info.file_size)
    if header.fortran and len(header.shape) > 1:
        raise ValueError(
            "its columns are compressed one after the other, so that no row can be read by itself"
        )
    width = header.shape[1:]
    stride = math.prod(width) * header.dtype.itemsize

    def read(start: int, stop: int) -> np.ndarray:
        file.seek(header.length + start * stride)
        return np.frombuffer(file.read((stop - start) * stride), header.dtype).reshape(
            stop - start, *width
        )

    return Array(header.shape, header.dtype, read)


def read_safetensors(path: pathlib.Path, key: str | None) -> Table:
    """The rows of a tensor in a .safetensors file; a tensor `documents` may name the documents."""
    file = safe_open(path, framework="numpy")
    names = list(file.keys())

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

    name = choose(path, names, key)
    return as_table(
        path, tensor(name), tensor(DOCUMENTS) if DOCUMENTS in names and name != DOCUMENTS else None
    )
