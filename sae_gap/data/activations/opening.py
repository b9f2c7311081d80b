"""Files and folders of activations, opened by their headers, and an .npz of one's own."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sae_gap.core.checks import as_real, check_path, check_type, check_unmasked, shown
from sae_gap.data.activations.arrow_files import read_arrow
from sae_gap.data.activations.bucket_copies import fetch
from sae_gap.data.activations.layout import ACTIVATIONS, DOCUMENTS, RefusedError
from sae_gap.data.activations.numpy_files import read_npy, read_npz
from sae_gap.data.activations.rows import FAULTS, Activations, Table
from sae_gap.data.activations.safetensor_files import read_safetensors

# How a file is read, by its ending: with the name of the array, where it is given. A new kind is a function here.
READERS: dict[str, Callable[[pathlib.Path, str | None], Table]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".safetensors": read_safetensors,
    ".arrow": read_arrow,
    ".parquet": read_arrow,
}


def open_activations(path: str | pathlib.Path, *, key: str | None = None) -> Activations:
    """Opens activations, rows of one vector each, without reading them.

    A file is .npy, .npz, .safetensors, .arrow or .parquet; the last two need the extra `arrow`. A folder holds files of one of
    these kinds, which follow each other in the order of their names; such are the folders that Hugging Face's datasets write.
    float16, bfloat16, which numpy saves as two raw bytes, and float64 become float32 as they are read.

    Rows of (documents, tokens, input_dim), or a column of lists of lists, are taken token by token, and then the documents are
    known. Otherwise they are what an array or a column `documents` says, or beside `x.npy` the file `x.documents.npy`: an
    integer for each row. A number that occurs in several files of a folder is one document.

    Args:
      path: the file or the folder, or with the extra `buckets` a URL, gs:// or s3://, of what is copied into the user's cache.
      key: the name of the array or of the column; None takes `activations`, or the only one there is.

    Returns:
      The activations.

    Raises:
      ValueError: there is no such file, it does not hold what it should, or what reads it is not installed; the message names
        the fault and the mend.
    """
    check_path("path", path)
    check_type("key", key, (str, type(None)), "give the name of an array")
    path = fetched(path)
    if os.path.isdir(path):
        files = _inside(path)
    elif os.path.isfile(path):
        files = [path]
    else:
        raise ValueError(f"{path} is neither a file nor a folder; give the path of activations.")
    tables = tuple(_open(file, key) for file in files)
    _check_alike(path, tables)
    counted, numbered = 0, []
    for table in tables:
        if table.counted and table.documents is not None:
            documents = table.documents + counted
            counted, table = int(documents.max()) + 1, table._replace(documents=documents)
        numbered.append(table)
    return Activations(tuple(numbered), np.array([[0, sum(table.num_rows for table in tables)]]))


def fetched(path: str | os.PathLike[str]) -> pathlib.Path:
    """A path as it is, and for the URL of a file or folder in a bucket the path of its copy in the user's cache.

    Raises:
      ValueError: see `copies.fetch`.
    """
    named = pathlib.PurePosixPath(path)
    return fetch(path, [named.with_suffix(f".{DOCUMENTS}.npy").name] if named.suffix == ".npy" else [])


def save_activations(
    path: str | pathlib.Path,
    activations: Float[np.ndarray, "n input_dim"],
    documents: Int[np.ndarray, " n"] | None = None,
    **others: np.ndarray,
) -> None:
    """Writes an .npz that `open_activations` maps, whole or not at all.

    Args:
      path: the file; its folder is made if it is not there.
      activations: rows.
      documents: the document of each.
      others: arrays that are of use to someone else, by their names.

    Raises:
      TypeError: the path is none.
      ValueError: the activations are no finite, non-empty matrix of real numbers, or the documents not an integer for each row.
    """
    check_path("path", path)
    path = pathlib.Path(path)
    activations = _rows("activations", activations, 2)
    if documents is not None:
        documents = _rows("documents", documents, 1)
        if documents.dtype.kind not in "iu" or len(documents) != len(activations):
            raise ValueError(
                f"documents must be {len(activations)} integers, one for each row, but they are {shown(documents)}."
            )
    for name, values in others.items():
        check_unmasked(name, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {ACTIVATIONS: activations} | ({} if documents is None else {DOCUMENTS: documents}) | others
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _rows(name: str, values: Any, ndim: int) -> np.ndarray:
    """What can be read again as rows."""
    array = as_real(name, values, "a matrix of real numbers" if ndim == 2 else "a vector of integers")
    if array.ndim != ndim or not array.size:
        raise ValueError(f"{name} must be a non-empty {'matrix' if ndim == 2 else 'vector'}, but the shape is {array.shape}.")
    # Rows are read as float32.
    if not np.all(np.abs(array) <= np.finfo(np.float32).max):
        raise ValueError(f"{name} must be finite in float32, but some are NaN, infinite or too large; drop or mend those rows.")
    return array


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a folder that hold activations, by their names."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be read ({error}); give one that can.") from None
    companion = f".{DOCUMENTS}.npy"
    files = [path for path in entries if path.suffix in READERS and path.is_file() and not path.name.endswith(companion)]
    if not files:
        inner = ", ".join(repr(path.name) for path in entries if path.is_dir())[:100]
        mend = f"give one of its folders, such as {inner}" if inner else f"give one with {', '.join(READERS)}"
        raise ValueError(f"the folder {folder} holds no file of activations; {mend}.")
    return files


def _check_alike(path: pathlib.Path, tables: Sequence[Table]) -> None:
    first = tables[0]
    for table in tables:
        for word, mine, other in (
            ("files of one kind", first.path.suffix, table.path.suffix),
            ("one width", first.width, table.width),
            ("one type", first.dtype, table.dtype),
            ("documents in all files or in none", first.documents is not None, table.documents is not None),
            ("documents in one form", first.counted, table.counted),
        ):
            if mine != other:
                names = first.path.name, table.path.name
                raise ValueError(f"{path} must hold {word}, but it is {mine} in {names[0]} and {other} in {names[1]}.")


def _open(path: pathlib.Path, key: str | None) -> Table:
    if path.suffix not in READERS:
        raise ValueError(f"{path} has no ending that tells its kind; rename it to one of {', '.join(READERS)}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; write it again.")
    try:
        return READERS[path.suffix](path, key)
    except RefusedError as refused:
        raise ValueError(str(refused)) from None
    except FAULTS as error:
        words = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
        raise ValueError(f"{path} cannot be read as activations ({words[:200]}); write it again.") from None
