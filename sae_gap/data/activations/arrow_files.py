"""Reads columns of Arrow and Parquet files, Parquet a row group at a time. Needs pyarrow, from the
extra `arrow`.
"""

import functools
import pathlib
from typing import Any

import numpy as np

from sae_gap.data.activations.tables import (
    DOCUMENTS,
    Array,
    RefusedError,
    Table,
    as_table,
    choose,
    in_memory,
    read_documents,
)


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
    """Opens a Parquet file, or one in Arrow's stream or file format, as a `pyarrow.Table`."""
    pyarrow = arrow_library(path)
    if path.suffix == ".parquet":
        return pyarrow.parquet.read_table(path)
    source = pyarrow.memory_map(str(path))
    try:
        return pyarrow.ipc.open_stream(source).read_all()
    except pyarrow.ArrowInvalid:
        return pyarrow.ipc.open_file(source).read_all()


def read_arrow(path: pathlib.Path, key: str | None) -> Table:
    """Reads a column whose entries are rows (lists of numbers), or documents of any length (lists
    of rows).
    """
    pyarrow = arrow_library(path)
    if path.suffix == ".parquet":
        file = pyarrow.parquet.ParquetFile(path, memory_map=True)
        schema, sizes = (
            file.schema_arrow,
            [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)],
        )

        def column(piece: int, name: str):
            return file.read_row_group(piece, columns=[name]).column(0).combine_chunks()
    else:
        table = read_arrow_table(path)
        batches = table.to_batches()
        schema, sizes = table.schema, [batch.num_rows for batch in batches]

        def column(piece: int, name: str):
            return batches[piece].column(name)

    def depth(kind) -> int:
        kind = getattr(kind, "storage_type", kind)
        lists = (
            pyarrow.types.is_list(kind)
            or pyarrow.types.is_large_list(kind)
            or pyarrow.types.is_fixed_size_list(kind)
        )
        return 1 + depth(kind.value_type) if lists else 0

    depths = {field.name: depth(field.type) for field in schema}
    name = choose(path, [name for name, deep in depths.items() if deep], key)
    if depths[name] > 2 or not sum(sizes):
        raise RefusedError(
            f"column {name!r} of {path} must hold lists of numbers, or documents of such; write it "
            "so."
        )

    def lists(piece: int) -> tuple[Any, np.ndarray]:
        """Returns a piece's rows as a column of lists, and the number of rows in each entry."""
        found = column(piece, name)
        found = getattr(found, "storage", found)
        if depths[name] == 1:
            return found, np.ones(len(found), int)
        return found.flatten(), np.asarray(pyarrow.compute.list_value_length(found).fill_null(0))

    @functools.lru_cache(maxsize=1)
    def values(piece: int) -> np.ndarray:
        found, _ = lists(piece)
        lengths = np.unique(np.asarray(pyarrow.compute.list_value_length(found).fill_null(-1)))
        flat = found.flatten()
        if len(lengths) != 1 or lengths[0] < 1 or flat.null_count:
            raise ValueError(
                f"column {name!r} has missing values, or lists of {lengths.tolist()[:5]} numbers"
            )
        return flat.to_numpy(zero_copy_only=False).reshape(-1, lengths[0])

    nested = depths[name] == 2
    lengths = (
        [lists(piece)[1] for piece in range(len(sizes))]
        if nested
        else [np.ones(size, int) for size in sizes]
    )
    ends = np.cumsum([part.sum() for part in lengths])
    first = values(int(np.flatnonzero(np.diff(ends, prepend=0))[0]) if ends[-1] else 0)

    def read(start: int, stop: int) -> np.ndarray:
        found = []
        for piece in range(
            int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, stop)) + 1
        ):
            offset = int(ends[piece - 1]) if piece else 0
            found.append(values(piece)[max(0, start - offset) : stop - offset])
        return found[0] if len(found) == 1 else np.concatenate(found)

    # A column may name the documents. Otherwise, if the entries are documents, they are numbered.
    documents, has_names = None, depths.get(DOCUMENTS) == 0
    if has_names:
        names = np.concatenate(
            [column(piece, DOCUMENTS).to_numpy(zero_copy_only=False) for piece in range(len(sizes))]
        )
        documents = read_documents(path, in_memory(names), sum(sizes))
    elif nested:
        documents = np.arange(sum(sizes))
    if documents is not None:
        documents = np.repeat(documents, np.concatenate(lengths))
    array = Array((int(ends[-1]), first.shape[1]), first.dtype, read)
    return as_table(
        path,
        array,
        None if documents is None else in_memory(documents),
        counted=nested and not has_names,
    )
