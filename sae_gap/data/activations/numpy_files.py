"""Arrays as NumPy saves them: .npy and .npz, memory-mapped but for what is compressed."""

import math
import pathlib
import struct
import zipfile

import ml_dtypes
import numpy as np

from sae_gap.data.activations.layout import DOCUMENTS, Array, RefusedError, as_table, choose, mapped
from sae_gap.data.activations.rows import Table
from sae_gap.storage.npy import Header, read_header


def read_npy(path: pathlib.Path, key: str | None) -> Table:
    """The rows of an .npy file, with the documents that a file beside it names."""
    if key is not None:
        raise RefusedError(f"{path} holds one array, which has no name; leave out the key {key!r}.")
    companion = path.with_suffix(f".{DOCUMENTS}.npy")
    documents = _saved(companion, 0, companion.stat().st_size) if companion.is_file() else None
    return as_table(path, _saved(path, 0, path.stat().st_size), documents)


def _saved(path: pathlib.Path, begin: int, size: int) -> Array:
    """An array as NumPy saves it, in a file from a byte on, memory-mapped."""
    with path.open("rb") as file:
        file.seek(begin)
        header = _checked(read_header(file), size)
    return mapped(path, begin + header.length, header.shape, header.dtype, fortran=header.fortran)


def _checked(header: Header, there: int) -> Header:
    """The header of an entry of so many bytes, header included, whose numbers are all there."""
    if not header.dtype.hasobject and header.size != there - header.length:
        raise ValueError(f"its header promises {header.size} bytes of numbers, but there are {there - header.length}")
    # bfloat16 is no type of NumPy's own, which saves it as two bytes of nothing in particular.
    return header._replace(dtype=np.dtype(ml_dtypes.bfloat16)) if header.dtype == np.dtype("V2") else header


def read_npz(path: pathlib.Path, key: str | None) -> Table:
    """The rows of an array in an .npz file, with the documents that another one names."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    name = choose(path, list(members), key)
    documents = read_member(path, members[DOCUMENTS]) if DOCUMENTS in members and name != DOCUMENTS else None
    return as_table(path, read_member(path, members[name]), documents)


def read_member(path: pathlib.Path, info: zipfile.ZipInfo) -> Array:
    """An array of an archive, by its entry there, memory-mapped where it is stored as it is."""
    if info.flag_bits & 1:
        raise ValueError("it is encrypted")
    if info.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as opened:
            opened.seek(info.header_offset)
            local = opened.read(30)
        if local[:4] != b"PK\x03\x04":
            raise ValueError(f"its entry {info.filename!r} is damaged")
        return _saved(path, info.header_offset + 30 + sum(struct.unpack("<HH", local[26:30])), info.file_size)
    # Kept open: the next rows lie ahead, and whoever asks for earlier ones reads the entry from its start.
    with zipfile.ZipFile(path) as archive:
        file = archive.open(info)
    header = _checked(read_header(file), info.file_size)
    if header.fortran and len(header.shape) > 1:
        raise ValueError("its columns are compressed one after the other, so that no row can be read by itself")
    width = header.shape[1:]
    stride = math.prod(width) * header.dtype.itemsize

    def read(start: int, stop: int) -> np.ndarray:
        file.seek(header.length + start * stride)
        return np.frombuffer(file.read((stop - start) * stride), header.dtype).reshape(stop - start, *width)

    return Array(header.shape, header.dtype, read)
