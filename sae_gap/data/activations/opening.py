"""Opens files and folders of activations by their headers, or an array; saves an .npz file."""

import os
import pathlib
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from sae_gap.core import as_matrix, as_real, check_path, check_type, check_unmasked
from sae_gap.data import (
    ACTIVATIONS,
    DOCUMENTS,
    READERS,
    Activations,
    RefusedError,
    Table,
    as_table,
    choose,
    fetched,
    map_npy,
)
from sae_gap.storage import brief


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
            raise ValueError(f"an array in memory has no name; leave out the key {key!r}.")
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
    check_path("path", source)
    check_type("key", key, (str, type(None)), "give the name of an array")
    path = fetched(source)
    if os.path.isdir(path):
        return _activations(_read_folder(path, key))
    if not os.path.isfile(path):
        raise ValueError(f"{path} is neither a file nor a folder; give the path of activations.")
    return _activations([_read_file(path, key)])


def _activations(tables):
    return Activations(tuple(tables), np.arange(sum(table.num_rows for table in tables)))


def _read_folder(folder, key):
    """Reads the files of activations in a folder, in the order of their names."""
    entries = sorted(folder.iterdir())
    companion = f".{DOCUMENTS}.npy"
    files = [
        path
        for path in entries
        if path.suffix in READERS and path.is_file() and not path.name.endswith(companion)
    ]
    if not files:
        inner = ", ".join(repr(path.name) for path in entries if path.is_dir())[:100]
        mend = (
            f"give one of its folders, such as {inner}"
            if inner
            else f"give one with {', '.join(READERS)}"
        )
        raise ValueError(f"the folder {folder} holds no file of activations; {mend}.")
    tables: list[Table] = []
    counted = 0
    for file in files:
        table = _read_file(file, key)
        if table.counted and table.documents is not None:
            table = table._replace(documents=table.documents + counted)
            counted = int(table.documents.max()) + 1  # type: ignore[union-attr]
        tables.append(table)
        first, form = _form(files[0], tables[0]), _form(file, table)
        if form != first:
            fault = (
                f"{folder} must hold files of one form, but {files[0].name} is {first} and "
                f"{file.name} {form}"
            )
            raise ValueError(f"{fault}; move one of them to another folder.")
    return tables


def _form(file, table):
    """Describes the properties that all files of a folder must share."""
    documents = "no documents" if table.documents is None else "documents"
    return (
        f"{file.suffix} of width {table.width} with "
        f"{documents}{' of many rows each' if table.counted else ''}"
    )


def _read_file(path, key):
    if path.suffix not in READERS:
        raise ValueError(
            f"{path} has no ending that tells its kind; rename it to one of {', '.join(READERS)}."
        )
    beside = path.with_suffix(f".{DOCUMENTS}.npy")
    try:
        arrays = READERS[path.suffix](path)
        name = choose(path, [*arrays], key)
        if DOCUMENTS in arrays:
            documents = arrays[DOCUMENTS]()
        else:
            documents = map_npy(beside) if beside.is_file() else None
        return as_table(path, arrays[name](), documents)
    except RefusedError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as activations ({brief(error)}); write it again."
        ) from error


def save_activations(
    path: str | pathlib.Path,
    activations: Float[np.ndarray, "n input_dim"],
    documents: Int[np.ndarray, " n"] | None = None,
    **others: np.ndarray,
) -> None:
    """Writes an .npz that `open_activations` maps. The file appears whole, or not at all.

    Args:
      path: the file; a missing folder is made.
      activations: rows.
      documents: the document of each row.
      others: further arrays by name, which are not activations.

    Raises:
      TypeError: the path is not one.
      ValueError: the activations are not a finite, non-empty matrix, or the documents are not an
        integer for each row.
    """
    check_path("path", path)
    path = pathlib.Path(os.path.expanduser(path))
    rows = as_matrix("activations", activations)
    opened = open_activations(rows, documents=documents)
    # It reads all rows, and names one that float32 cannot hold.
    opened.mean()
    arrays: dict[str, Any] = {ACTIVATIONS: rows}
    if documents is not None:
        arrays[DOCUMENTS] = opened.documents
    for name, values in others.items():
        check_unmasked(name, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays, **others)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
