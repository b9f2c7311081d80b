"""Opens files and folders of activations by their headers, or an array; saves an .npz file.

Files are .npy, .npz, .safetensors and .pt, and columns of Arrow and Parquet, which need pyarrow,
from the extra `arrow`. All are memory-mapped, but a compressed .npz is read whole, and a Parquet
file is mapped as a temporary copy in Arrow's format.
"""

import os
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from zipfile import ZIP_STORED, ZipFile

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int
from numpy import arange, unique
from numpy.lib.format import read_array, read_magic

from sae_gap.core import as_matrix, as_real, brief, check_path, check_type
from sae_gap.data import (
    ACTIVATIONS,
    DOCUMENTS,
    Activations,
    RefusedError,
    Table,
    as_table,
    choose,
    fetched,
)
from sae_gap.storage import map_pt, map_safetensors, member_start, tensors_of

# For the name of each array a function that maps it.
Arrays = dict[str, Callable[[], Any]]


def map_npy(path: Path, begin: int = 0, size: int | None = None) -> np.ndarray:
    """Maps an array that NumPy saved in `size` bytes of a file, or in all, from a byte on; objects
    cannot be mapped.
    """
    with path.open("rb") as file:
        file.seek(begin)
        version = "_".join(map(str, read_magic(file)))
        read_header = getattr(np.lib.format, f"read_array_header_{version}")
        shape, fortran, dtype = read_header(file)
        order: Any = "F" if fortran else "C"
        array = np.memmap(path, dtype, "r", file.tell(), shape, order)
        there = begin + (size or path.stat().st_size) - file.tell()
        if there != array.nbytes and not dtype.hasobject:
            raise ValueError(
                "its header promises another number of bytes than there are"
            )
        return array


def _read_npz(path: Path) -> Arrays:
    with ZipFile(path) as archive:
        members = archive.infolist()
    return {
        info.filename.removesuffix(".npy"): partial(_member, path, info)
        for info in members
    }


def _member(path: Path, info: zipfile.ZipInfo) -> np.ndarray:
    if info.compress_type == ZIP_STORED:
        return map_npy(path, *member_start(path, info))
    with ZipFile(path) as archive, archive.open(info) as file:
        return read_array(file)


def _read_pt(path: Path) -> Arrays:
    held = map_pt(path)
    tensors = {ACTIVATIONS: held} if isinstance(held, np.ndarray) else tensors_of(held)
    return {name: partial(tensors.get, name) for name in tensors}


def read_arrow_table(path: Path) -> Any:
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
    with NamedTemporaryFile() as copy:
        if path.suffix == ".parquet":
            file = pyarrow.parquet.ParquetFile(path)
            with pyarrow.ipc.new_stream(copy.name, file.schema_arrow) as writer:
                for batch in file.iter_batches(4_096):
                    writer.write_batch(batch)
            path = Path(copy.name)
        source = pyarrow.memory_map(str(path))
    try:
        return pyarrow.ipc.open_stream(source).read_all()
    except pyarrow.ArrowInvalid:
        return pyarrow.ipc.open_file(source).read_all()


def _read_arrow(path: Path) -> Arrays:
    """Reads columns whose entries are lists of numbers, and the documents."""
    table = read_arrow_table(path)
    from pyarrow.types import is_nested

    arrays: Arrays = {
        field.name: partial(_Lists, path, table[field.name])
        for field in table.schema
        if is_nested(field.type)
    }
    if DOCUMENTS in table.column_names:
        arrays[DOCUMENTS] = table[DOCUMENTS].to_numpy
    return arrays


class _Lists:
    """A column of lists, all of one length, as the rows of an array that is read by slices."""

    def __init__(self, path: Path, column: Any):
        import pyarrow.compute

        kind = column.type.value_type
        if not len(column) or not pyarrow.types.is_floating(kind):
            raise RefusedError(
                f"{path} must hold a column of lists of floats; write it so."
            )
        widths = unique(pyarrow.compute.list_value_length(column).fill_null(0))
        if len(widths) > 1:
            raise RefusedError(
                f"{path} has lists of {widths.tolist()[:5]} numbers; drop the others."
            )
        self.shape = (len(column), int(widths[0]))
        self.dtype = np.dtype(kind.to_pandas_dtype())
        self._column = column

    def __getitem__(self, part: slice) -> Float[np.ndarray, "rows width"]:
        flat = self._column[part].combine_chunks().flatten()
        return flat.to_numpy(zero_copy_only=False).reshape(-1, self.shape[1])


# The reader for each file ending, which gives for the name of each array a function that maps it:
# anything with a shape, a type and slices.
READERS: dict[str, Any] = {
    ".npy": lambda path: {ACTIVATIONS: partial(map_npy, path)},
    ".npz": _read_npz,
    ".safetensors": map_safetensors,
    ".pt": _read_pt,
    ".arrow": _read_arrow,
    ".parquet": _read_arrow,
}


def open_activations(
    source: Activations | ArrayLike | str | os.PathLike[str],
    *,
    key: str | None = None,
    documents: Int[ArrayLike, " n"] | None = None,
) -> Activations:
    """Opens activations, rows of one vector each, without reading them; a compressed .npz is
    read whole, and a .parquet copied, uncompressed, to a file in `$TMPDIR`.

    A file is .npy, .npz, .safetensors, .pt, .arrow or .parquet. The last two need the extra
    `arrow`; a .pt, one tensor or a dict of them from `torch.save`, needs no PyTorch. A folder holds
    files of one of these kinds, in the order of their names, as Hugging Face's datasets write them.
    Floats of any width and byte order become float32 as they are read, also bfloat16, which NumPy
    saves as two raw bytes.

    Arrays of (documents, tokens, input_dim) give a row for each token, and define the documents.
    Otherwise an array or a column `documents`, or the file `x.documents.npy` beside `x.npy` or
    `x.pt`, may name them by an integer for each row. One number in several files of a folder is one
    document.

    An array in memory is treated as one in a file, and is not copied.

    Args:
      source: a file, a folder or, with the extra `buckets`, a URL such as gs:// or s3://, copied
        into the user's cache; an array, (n, input_dim) or (documents, tokens, input_dim); or open
        activations, which are returned.
      key: the name of the array or the column in a file; None takes `activations`, or else the only
        one.
      documents: for an array in memory, an integer for each row or for each document.

    Returns:
      The activations.

    Raises:
      ValueError: the file is missing or damaged, does not hold activations, or its reader is not
        installed.
    """
    if not isinstance(source, Activations | str | os.PathLike):
        if key is not None:
            raise ValueError(
                f"an array in memory has no name; leave out the key {key!r}."
            )
        form = "rows of floating-point numbers, documents of unequal lengths joined"
        array = as_real("the array", source, form)
        if documents is not None:
            documents = as_real("documents", documents, "a vector of integers")
        return _activations([as_table("the array", array, documents)])
    if documents is not None:
        raise ValueError(
            "a file names its own documents; leave documents out, or give the array itself."
        )
    if isinstance(source, Activations):
        return source
    check_type("key", key, (str, type(None)), "give the name of an array")
    path = fetched(source)
    if os.path.isdir(path):
        return _activations(_read_folder(path, key))
    if not os.path.isfile(path):
        raise ValueError(
            f"{path} is neither a file nor a folder; give the path of activations."
        )
    return _activations([_read_file(path, key)])


def _activations(tables: list[Table]) -> Activations:
    return Activations(tuple(tables), arange(sum(table.num_rows for table in tables)))


def _read_folder(folder: Path, key: str | None) -> list[Table]:
    """Reads the files of activations in a folder, in the order of their names."""
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in READERS
        and path.is_file()
        and not path.match(f"*.{DOCUMENTS}.npy")
    ]
    if not files:
        raise ValueError(
            f"the folder {folder} holds no file of activations; give one with "
            f"{', '.join(READERS)}, such as one of its folders."
        )
    tables: list[Table] = []
    forms = []
    counted = 0
    for file in files:
        table = _read_file(file, key)
        documents = "no documents" if table.documents is None else "documents"
        if table.counted:
            numbers: Any = counted + table.documents  # type: ignore[operator]
            counted = numbers[-1] + 1
            table = table._replace(documents=numbers)
            documents = "documents of many rows each"
        tables.append(table)
        forms.append(f"{file.suffix} of width {table.width} with {documents}")
        if forms[0] != forms[-1]:
            raise ValueError(
                f"{folder} must hold files of one form, but {files[0].name} is {forms[0]} and "
                f"{file.name} {forms[-1]}; move one of them to another folder."
            )
    return tables


def _read_file(path: Path, key: str | None) -> Table:
    if path.suffix not in READERS:
        raise ValueError(
            f"{path} has no ending that tells its kind; rename it to one of {', '.join(READERS)}."
        )
    try:
        arrays = READERS[path.suffix](path)
        name = choose(path, [*arrays], key)
        beside = path.with_suffix(f".{DOCUMENTS}.npy")
        if beside.is_file():
            arrays.setdefault(DOCUMENTS, partial(map_npy, beside))
        return as_table(path, arrays[name](), arrays.get(DOCUMENTS, lambda: None)())
    except RefusedError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as activations ({brief(error)}); write it again."
        ) from error


def save_activations(
    path: str | Path,
    activations: Float[np.ndarray, "n input_dim"],
    documents: Int[np.ndarray, " n"] | None = None,
) -> None:
    """Writes an .npz that `open_activations` maps. The file appears whole, or not at all.

    Args:
      path: the file; a missing folder is made.
      activations: rows.
      documents: the document of each row.

    Raises:
      TypeError: the path is not one.
      ValueError: the activations are not a finite, non-empty matrix, or the documents are not an
        integer for each row.
    """
    path = check_path("path", path)
    rows = as_matrix("activations", activations)
    opened = open_activations(rows, documents=documents)
    # It reads all rows, and names one that float32 cannot hold.
    opened.mean()
    arrays: dict[str, Any] = {ACTIVATIONS: rows}
    if documents is not None:
        arrays[DOCUMENTS] = opened.documents
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
