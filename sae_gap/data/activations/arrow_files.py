"""Reads columns of Arrow files, which are memory-mapped, and of Parquet files, by a copy in Arrow's
format. Needs pyarrow, from the extra `arrow`.
"""

import pathlib
import tempfile
from typing import Any

import numpy as np

from sae_gap.data import DOCUMENTS, Array, RefusedError, Table, as_table, choose, in_memory


def arrow_library(path: pathlib.Path) -> Any:
    """Imports `pyarrow` and its modules that read and compute; the error names the file."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise RefusedError(
            f"{path} needs pyarrow; install it with pip install 'sae_gap[arrow]'."
        ) from None
    return pyarrow


def read_arrow_table(path: pathlib.Path) -> Any:
    """Opens a Parquet file, or one in Arrow's stream or file format, as a `pyarrow.Table` that is
    memory-mapped. Of a Parquet file that is a temporary copy, made a batch at a time.
    """
    pyarrow = arrow_library(path)
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


def read_arrow(path: pathlib.Path, key: str | None) -> Table:
    """Reads a column whose entries are rows: lists of numbers, all of one length. A column
    `documents` may name the documents.
    """
    pyarrow, table = arrow_library(path), read_arrow_table(path)
    lists = [field.name for field in table.schema if pyarrow.types.is_nested(field.type)]
    column = table[choose(path, lists, key)]
    kind = getattr(column.type, "value_type", column.type)
    if not len(column) or not pyarrow.types.is_floating(kind):
        raise RefusedError(f"{path} must hold a column of lists of floats; write it so.")
    widths = np.unique(pyarrow.compute.list_value_length(column).fill_null(0))
    if len(widths) > 1:
        raise RefusedError(f"{path} has lists of {widths.tolist()[:5]} numbers; drop the others.")

    def read(start: int, stop: int) -> np.ndarray:
        flat = column.slice(start, stop - start).combine_chunks().flatten()
        return flat.to_numpy(zero_copy_only=False).reshape(stop - start, -1)

    array = Array((len(column), int(widths[0])), np.dtype(kind.to_pandas_dtype()), read)
    named = DOCUMENTS in table.column_names
    return as_table(path, array, in_memory(table[DOCUMENTS].to_numpy()) if named else None)
