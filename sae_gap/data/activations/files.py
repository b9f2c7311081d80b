"""Arrays in files: .npy, .npz, .safetensors and .pt, and columns of Arrow and Parquet, which need
pyarrow, from the extra `arrow`. All are memory-mapped, but a compressed .npz is read whole, and a
Parquet file is mapped as a temporary copy in Arrow's format.
"""

import pathlib
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from sae_gap.data import ACTIVATIONS, DOCUMENTS, RefusedError
from sae_gap.storage import map_pt, map_safetensors, member_start, tensors_of

# For the name of each array, a function that maps it: anything with a shape, a type and slices.
Arrays = dict[str, Callable[[], Any]]
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def map_npy(path: pathlib.Path, begin: int = 0, size: int | None = None) -> np.ndarray:
    """Maps an array that NumPy saved in `size` bytes of a file, or in all, from a byte on; objects
    cannot be mapped.
    """
    with path.open("rb") as file:
        file.seek(begin)
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
        order: Any = "F" if fortran else "C"
        array = np.memmap(path, dtype, "r", file.tell(), shape, order)
        there = begin + (size or path.stat().st_size) - file.tell()
        if there != array.nbytes and not dtype.hasobject:
            raise ValueError("its header promises another number of bytes than there are")
        return array


def _read_npz(path):
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    return {info.filename.removesuffix(".npy"): partial(_member, path, info) for info in members}


def _member(path, info):
    if info.compress_type == zipfile.ZIP_STORED:
        return map_npy(path, *member_start(path, info))
    with zipfile.ZipFile(path) as archive, archive.open(info) as file:
        return np.lib.format.read_array(file)


def _read_pt(path):
    held = map_pt(path)
    tensors = {ACTIVATIONS: held} if isinstance(held, np.ndarray) else tensors_of(held)
    return {name: partial(tensors.get, name) for name in tensors}


def read_arrow_table(path: pathlib.Path) -> Any:
    """Opens a Parquet file, or one in Arrow's stream or file format, as a `pyarrow.Table` that is
    memory-mapped. Of a Parquet file that is a temporary copy, made a batch at a time.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise RefusedError(
            f"{path} needs pyarrow; install it with pip install 'sae_gap[arrow]'."
        ) from None
    # Its name is no longer needed once it is mapped.
    with tempfile.NamedTemporaryFile() as copy:
        if path.suffix == ".parquet":
            file = pyarrow.parquet.ParquetFile(path)
            with pyarrow.ipc.new_stream(copy.name, file.schema_arrow) as writer:
                for batch in file.iter_batches(4_096):
                    writer.write_batch(batch)
            path = pathlib.Path(copy.name)
        source = pyarrow.memory_map(str(path))
    try:
        return pyarrow.ipc.open_stream(source).read_all()
    except pyarrow.ArrowInvalid:
        return pyarrow.ipc.open_file(source).read_all()


def _read_arrow(path):
    """Reads columns whose entries are lists of numbers, and the documents."""
    table = read_arrow_table(path)
    from pyarrow.types import is_nested

    lists = [field.name for field in table.schema if is_nested(field.type)]
    arrays: Arrays = {name: partial(_Lists, path, table[name]) for name in lists}
    if DOCUMENTS in table.column_names:
        arrays[DOCUMENTS] = table[DOCUMENTS].to_numpy
    return arrays


class _Lists:
    """A column of lists, all of one length, as the rows of an array that is read by slices."""

    def __init__(self, path, column):
        import pyarrow.compute

        kind = column.type.value_type
        if not len(column) or not pyarrow.types.is_floating(kind):
            raise RefusedError(f"{path} must hold a column of lists of floats; write it so.")
        widths = np.unique(pyarrow.compute.list_value_length(column).fill_null(0))
        if len(widths) > 1:
            raise RefusedError(
                f"{path} has lists of {widths.tolist()[:5]} numbers; drop the others."
            )
        self.shape, self.dtype = (len(column), int(widths[0])), np.dtype(kind.to_pandas_dtype())
        self._column = column

    def __getitem__(self, part):
        flat = self._column[part].combine_chunks().flatten()
        return flat.to_numpy(zero_copy_only=False).reshape(-1, self.shape[1])


# The reader for each file ending.
READERS: dict[str, Callable[[pathlib.Path], Arrays]] = {
    ".npy": lambda path: {ACTIVATIONS: partial(map_npy, path)},
    ".npz": _read_npz,
    ".safetensors": map_safetensors,
    ".pt": _read_pt,
    ".arrow": _read_arrow,
    ".parquet": _read_arrow,
}
