"""Activations of one's own: rows in files of any size, read in chunks, and split by the documents that they come from.

A file is opened by its header alone, and rows are read when they are asked for, so that what is held is a chunk and not the
file. An array is memory-mapped where it lies on disk as it is: .npy, .safetensors, Arrow, and .npz as `numpy.savez` writes it.
A compressed .npz is read through in order, and Parquet a row group at a time.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np
from jaxtyping import Float, Int, Shaped
from safetensors import SafetensorError, safe_open

from sae_gap.types import check_seed, check_size

# What the array is called where a file holds several, and that of its documents.
ACTIVATIONS, DOCUMENTS = "activations", "documents"
# No model is as wide; a header that says more is damaged or hostile.
MOST_DIMS = 2**20
# Contiguous pieces that rows of unknown documents are cut into, of which some are held out.
BLOCKS = 100
# Rows read at once where rows are picked or averaged, and rows between two picked ones that are cheaper read than skipped.
SPAN, NEAR = 4_096, 16

_FAULTS = (
    *(OSError, EOFError, KeyError, RuntimeError, MemoryError, OverflowError, ValueError),
    *(zipfile.BadZipFile, zlib.error, SafetensorError),
)
_TENSORS = {"F16": "<f2", "BF16": ml_dtypes.bfloat16, "F32": "<f4", "F64": "<f8", "I32": "<i4", "I64": "<i8"}


@dataclasses.dataclass(frozen=True, eq=False)
class Activations:
    """Rows of one or several files, or those of them that `split` chose. Opened by `open_activations`."""

    _tables: "tuple[_Table, ...]"
    # (runs, 2): where each run of rows begins and ends, counted through all files.
    _runs: Int[np.ndarray, "runs 2"]

    @property
    def num_samples(self) -> int:
        return int((self._runs[:, 1] - self._runs[:, 0]).sum())

    @property
    def input_dim(self) -> int:
        return self._tables[0].width

    @property
    def files(self) -> tuple[pathlib.Path, ...]:
        """The files that the rows lie in, in their order."""
        return tuple(table.path for table in self._tables)

    @functools.cached_property
    def documents(self) -> Int[np.ndarray, " num_samples"] | None:
        """The document of each row, or None where the files do not tell."""
        if self._tables[0].documents is None:
            return None
        whole = np.concatenate([table.documents for table in self._tables])
        return np.concatenate([whole[start:stop] for start, stop in self._runs])

    def chunks(self, size: int) -> Iterator[Float[np.ndarray, "rows input_dim"]]:
        """All rows in their order, as float32, `size` at a time and fewer at the end.

        Raises:
          ValueError: a row holds a NaN or an infinity, or a file is damaged; the message names the file and the row.
        """
        check_size("size", size)
        for start in range(0, self.num_samples, size):
            yield self._gather(self._places(np.arange(start, min(start + size, self.num_samples))))

    def take(self, indices: Int[Any, " rows"]) -> Float[np.ndarray, "rows input_dim"]:
        """The rows of these numbers, as float32, in the order in which they are asked for.

        Raises:
          ValueError: a number is no row's, or a row cannot be read or is not finite.
        """
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise ValueError(f"indices must be a vector of integers, but they are {wanted.dtype} of shape {wanted.shape}.")
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < self.num_samples:
            raise ValueError(
                f"indices must lie from 0 to {self.num_samples - 1}, but they go from {wanted.min()} to {wanted.max()}."
            )
        unique, back = np.unique(wanted.astype(np.int64), return_inverse=True)
        return self._gather(self._places(unique))[back]

    def mean(self) -> Float[np.ndarray, " input_dim"]:
        """The mean of all rows, summed in float64."""
        total = np.zeros(self.input_dim)
        for chunk in self.chunks(SPAN):
            total += chunk.sum(axis=0, dtype=np.float64)
        return (total / self.num_samples).astype(np.float32)

    def split(self, held_out: float = 0.1, seed: int = 0) -> "tuple[Activations, Activations]":
        """A training part and a held-out part.

        Tokens of one text are alike, so that a token drawn by itself is hardly held out: its neighbours stay behind. Whole
        documents are therefore held out where the files tell them apart, drawn in random order as long as each brings the
        held-out share nearer to `held_out`. Elsewhere it is contiguous blocks, a hundredth of the rows each, at whose edges a
        text may still be cut in two. Rows are never drawn one by one.

        Args:
          held_out: share of the rows to hold out, about.
          seed: draws the documents or the blocks.

        Returns:
          The two parts, rows in the order of the files.

        Raises:
          ValueError: an argument is out of range, or there is only one document or row.
        """
        if isinstance(held_out, bool) or not isinstance(held_out, int | float) or not 0 < held_out < 1:
            raise ValueError(f"held_out must be a share between 0 and 1, but it is {held_out!r}.")
        check_seed(seed)
        documents = self.documents
        if documents is None:
            documents = np.arange(self.num_samples) * min(BLOCKS, self.num_samples) // self.num_samples
        names, member, sizes = np.unique(documents, return_inverse=True, return_counts=True)
        if len(names) < 2:
            raise ValueError(f"{self.files[0]} holds one document alone; give several, some of which can be held out.")
        left, held = held_out * self.num_samples, np.zeros(len(names), bool)
        order = np.random.default_rng(seed).permutation(len(names))
        for name in order:
            if abs(left - sizes[name]) < abs(left):
                held[name] = True
                left -= sizes[name]
        if not held.any():
            held[order[np.argmin(sizes[order])]] = True
        if held.all():
            held[order[np.argmin(sizes[order])]] = False
        return self._where(~held[member]), self._where(held[member])

    def _where(self, chosen: Shaped[np.ndarray, " num_samples"]) -> "Activations":
        """The rows that are chosen, as the runs that they lie in."""
        places = self._places(np.flatnonzero(chosen))
        edges = np.flatnonzero(np.diff(places) != 1)
        starts, ends = places[np.concatenate([[0], edges + 1])], places[np.concatenate([edges, [len(places) - 1]])]
        return Activations(self._tables, np.stack([starts, ends + 1], axis=1))

    def _places(self, rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"]:
        """Numbers of rows among all rows of all files."""
        ends = np.cumsum(self._runs[:, 1] - self._runs[:, 0])
        run = np.searchsorted(ends, rows, side="right")
        return rows + (self._runs[:, 1] - ends)[run]

    def _gather(self, places: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows input_dim"]:
        """The rows at places that rise, read in spans."""
        found = np.empty((len(places), self.input_dim), np.float32)
        done = first = 0
        for table in self._tables:
            stop = int(np.searchsorted(places, first + table.num_rows))
            while done < stop:
                # As far as the next gap.
                ahead = places[done : min(stop, done + SPAN)] - first
                gaps = np.flatnonzero(np.diff(ahead) > NEAR)
                ahead = ahead[: gaps[0] + 1] if gaps.size else ahead
                found[done : done + len(ahead)] = table.rows(ahead)
                done += len(ahead)
            first += table.num_rows
        return found


class _Array(NamedTuple):
    """An array in a file, read along its first axis from one index up to another."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]


class _Table(NamedTuple):
    """An array in a file as rows. Documents that the file does not name are `counted`, from zero."""

    path: pathlib.Path
    num_rows: int
    width: int
    dtype: np.dtype
    read: Callable[[int, int], np.ndarray]
    documents: Int[np.ndarray, " num_rows"] | None
    counted: bool = False

    def rows(self, wanted: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows width"]:
        """Rows that rise, read from the first to the last."""
        start, stop = int(wanted[0]), int(wanted[-1]) + 1
        try:
            raw = self.read(start, stop)
        except _FAULTS as error:
            raise ValueError(f"{self.path} cannot be read at rows {start} to {stop - 1} ({error}); write it again.") from None
        with np.errstate(over="ignore"):
            rows = np.asarray(raw if len(raw) == len(wanted) else raw[wanted - start], np.float32)
        finite = np.isfinite(rows).all(axis=1)
        if not finite.all():
            bad = wanted[np.argmin(finite)]
            raise ValueError(f"row {bad} of {self.path} has a NaN or an infinity, as float32; drop or mend such rows.")
        return rows


def open_activations(path: str | pathlib.Path, *, key: str | None = None) -> Activations:
    """Opens activations, rows of one vector each, without reading them.

    A file is .npy, .npz, .safetensors, .arrow or .parquet; the last two need the extra `arrow`. A folder holds files of one of
    these kinds, which follow each other in the order of their names; such are the folders that Hugging Face's datasets write.
    float16, bfloat16, which numpy saves as two raw bytes, and float64 become float32 as they are read.

    Rows of (documents, tokens, input_dim), or a column of lists of lists, are taken token by token, and then the documents are
    known. Otherwise they are what an array or a column `documents` says, or beside `x.npy` the file `x.documents.npy`: an
    integer for each row. A number that occurs in several files of a folder is one document.

    Args:
      path: the file or the folder.
      key: the name of the array or of the column; None takes `activations`, or the only one there is.

    Returns:
      The activations.

    Raises:
      ValueError: there is no such file, it does not hold what it should, or what reads it is not installed; the message names
        the fault and the mend.
    """
    path = pathlib.Path(path)
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
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {ACTIVATIONS: activations} | ({} if documents is None else {DOCUMENTS: documents}) | others
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _inside(folder: pathlib.Path) -> list[pathlib.Path]:
    """The files of a folder that hold activations, by their names."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ValueError(f"the folder {folder} cannot be read ({error}); give one that can.") from None
    companion = f".{DOCUMENTS}.npy"
    files = [path for path in entries if path.suffix in _READERS and path.is_file() and not path.name.endswith(companion)]
    if not files:
        inner = ", ".join(repr(path.name) for path in entries if path.is_dir())[:100]
        mend = f"give one of its folders, such as {inner}" if inner else f"give one with {', '.join(_READERS)}"
        raise ValueError(f"the folder {folder} holds no file of activations; {mend}.")
    return files


def _check_alike(path: pathlib.Path, tables: Sequence[_Table]) -> None:
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


def _open(path: pathlib.Path, key: str | None) -> _Table:
    if path.suffix not in _READERS:
        raise ValueError(f"{path} has no ending that tells its kind; rename it to one of {', '.join(_READERS)}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; write it again.")
    try:
        return _READERS[path.suffix](path, key)
    except _RefusedError as refused:
        raise ValueError(str(refused)) from None
    except _FAULTS as error:
        words = " ".join(str(error).split()).removesuffix(".") or type(error).__name__
        raise ValueError(f"{path} cannot be read as activations ({words[:200]}); write it again.") from None


class _RefusedError(Exception):
    """A sentence on what a file holds, which needs no further words."""


def _choose(path: pathlib.Path, names: Sequence[str], key: str | None) -> str:
    said = ", ".join(repr(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")
    if key is not None:
        if key not in names:
            raise _RefusedError(f"{path} has no array {key!r}; " + (f"choose one of {said}." if names else "it has none."))
        return key
    if ACTIVATIONS in names:
        return ACTIVATIONS
    others = [name for name in names if name != DOCUMENTS]
    if len(others) != 1:
        raise _RefusedError(
            f"{path} holds {'several arrays, ' + said if others else 'no activations'}; "
            f"{'name one with key' if others else f'save them as {ACTIVATIONS}'}."
        )
    return others[0]


def _table(path: pathlib.Path, array: _Array, documents: _Array | None, *, counted: bool = False) -> _Table:
    """An array of rows, or of documents of equally many rows, with the documents that the file names."""
    shape, dtype = array.shape, array.dtype
    if dtype.hasobject:
        raise _RefusedError(f"{path} holds pickled objects, which are never loaded; save plain numeric arrays.")
    if dtype.kind != "f" and dtype != ml_dtypes.bfloat16:
        raise _RefusedError(f"{path} must hold floating-point numbers, but they are {dtype}; save the activations as float32.")
    if len(shape) not in (2, 3) or 0 in shape:
        raise _RefusedError(
            f"{path} must hold rows, or documents of rows, but its shape is {shape}; reshape it to (samples, input_dim)."
        )
    if shape[-1] > MOST_DIMS:
        raise _RefusedError(
            f"{path} says that it has {shape[-1]} dimensions, more than {MOST_DIMS}; write it as (samples, input_dim)."
        )
    if len(shape) == 2:
        named = None if documents is None else _named(path, documents, shape[0])
        return _Table(path, *shape, dtype, array.read, named, counted)
    count, length, width = shape

    def rows(start: int, stop: int) -> np.ndarray:
        first, last = start // length, -(-stop // length)
        return array.read(first, last).reshape(-1, width)[start - first * length : stop - first * length]

    if documents is None:
        return _Table(path, count * length, width, dtype, rows, np.repeat(np.arange(count), length), True)
    each = documents.shape == (count * length,)
    named = _named(path, documents, count * length if each else count)
    return _Table(path, count * length, width, dtype, rows, named if each else np.repeat(named, length))


def _named(path: pathlib.Path, documents: _Array, count: int) -> np.ndarray:
    """The documents that a file names, read only if there are as many as there should be."""
    if documents.shape != (count,) or documents.dtype.kind not in "iu":
        raise _RefusedError(
            f"the documents of {path} must be {count} integers, one a row, but they are {documents.dtype} of shape "
            f"{documents.shape}."
        )
    return documents.read(0, count).astype(np.int64)


def _read_npy(path: pathlib.Path, key: str | None) -> _Table:
    if key is not None:
        raise _RefusedError(f"{path} holds one array, which has no name; leave out the key {key!r}.")
    companion = path.with_suffix(f".{DOCUMENTS}.npy")
    documents = _saved(companion, 0, companion.stat().st_size) if companion.is_file() else None
    return _table(path, _saved(path, 0, path.stat().st_size), documents)


def _saved(path: pathlib.Path, begin: int, size: int) -> _Array:
    """An array as numpy saves it, in a file from a byte on, memory-mapped."""
    with path.open("rb") as file:
        file.seek(begin)
        shape, fortran, dtype, used = _header(file)
    _check_bytes(shape, dtype, size - used)
    return _mapped(path, begin + used, shape, dtype, "F" if fortran else "C")


def _mapped(path: pathlib.Path, begin: int, shape: tuple[int, ...], dtype: np.dtype, order: Any = "C") -> _Array:
    if dtype.hasobject or math.prod(shape) == 0:
        return _Array(shape, dtype, lambda start, stop: np.zeros(0))
    mapped = np.memmap(path, dtype, "r", begin, shape, order)
    return _Array(shape, dtype, lambda start, stop: mapped[start:stop])


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether columns come first, type, and length of the header, of an array as numpy saves it."""
    begin = file.tell()
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"the version {version} of its header is unknown")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    # bfloat16 is no type of numpy's own, which saves it as two bytes of nothing in particular.
    return shape, fortran, np.dtype(ml_dtypes.bfloat16) if dtype == np.dtype("V2") else dtype, file.tell() - begin


def _check_bytes(shape: tuple[int, ...], dtype: np.dtype, there: int) -> None:
    promised = math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and (promised != there or min(shape, default=0) < 0):
        raise ValueError(f"its header promises {promised} bytes of numbers, but there are {there}")


def _read_npz(path: pathlib.Path, key: str | None) -> _Table:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    name = _choose(path, list(members), key)
    documents = _member(path, members[DOCUMENTS]) if DOCUMENTS in members and name != DOCUMENTS else None
    return _table(path, _member(path, members[name]), documents)


def _member(path: pathlib.Path, info: zipfile.ZipInfo) -> _Array:
    """An array of an archive, memory-mapped where it is stored as it is."""
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
    shape, fortran, dtype, used = _header(file)
    _check_bytes(shape, dtype, info.file_size - used)
    if fortran and len(shape) > 1:
        raise ValueError("its columns are compressed one after the other, so that no row can be read by itself")
    stride = math.prod(shape[1:]) * dtype.itemsize

    def read(start: int, stop: int) -> np.ndarray:
        file.seek(used + start * stride)
        return np.frombuffer(file.read((stop - start) * stride), dtype).reshape(stop - start, *shape[1:])

    return _Array(shape, dtype, read)


def _read_safetensors(path: pathlib.Path, key: str | None) -> _Table:
    # The library checks the header, but has no bfloat16 for numpy, nor a map of the file.
    with safe_open(path, framework="numpy") as file:
        names = list(file.keys())
    with path.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))

    def tensor(name: str) -> _Array:
        entry = header[name]
        if entry["dtype"] not in _TENSORS:
            raise _RefusedError(f"{name!r} in {path} has the type {entry['dtype']}; save it as float32.")
        begin, _ = entry["data_offsets"]
        return _mapped(path, 8 + length + begin, tuple(entry["shape"]), np.dtype(_TENSORS[entry["dtype"]]))

    name = _choose(path, names, key)
    return _table(path, tensor(name), tensor(DOCUMENTS) if DOCUMENTS in names and name != DOCUMENTS else None)


def _read_arrow(path: pathlib.Path, key: str | None) -> _Table:
    """A column of lists of numbers, or of lists of such lists, a document each, however long."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise _RefusedError(f"{path} needs pyarrow; install it with pip install 'sae_gap[arrow]'.") from None
    if path.suffix == ".parquet":
        file = pyarrow.parquet.ParquetFile(path, memory_map=True)
        schema, sizes = file.schema_arrow, [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]

        def column(piece: int, name: str):
            return file.read_row_group(piece, columns=[name]).column(0).combine_chunks()
    else:
        source = pyarrow.memory_map(str(path))
        try:
            table = pyarrow.ipc.open_stream(source).read_all()
        except pyarrow.ArrowInvalid:
            table = pyarrow.ipc.open_file(source).read_all()
        batches = table.to_batches()
        schema, sizes = table.schema, [batch.num_rows for batch in batches]

        def column(piece: int, name: str):
            return batches[piece].column(name)

    def depth(kind) -> int:
        kind = getattr(kind, "storage_type", kind)
        lists = pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind)
        return 1 + depth(kind.value_type) if lists else 0

    depths = {field.name: depth(field.type) for field in schema}
    name = _choose(path, [name for name, deep in depths.items() if deep], key)
    if depths[name] > 2 or not sum(sizes):
        raise _RefusedError(f"column {name!r} of {path} must hold lists of numbers, or documents of such; write it so.")

    def lists(piece: int) -> tuple[Any, np.ndarray]:
        """The rows of a piece as a column of lists, and how many each document has, where there are documents."""
        found = column(piece, name)
        found = getattr(found, "storage", found)
        if depths[name] == 1:
            return found, np.zeros(0, int)
        return found.flatten(), np.asarray(pyarrow.compute.list_value_length(found).fill_null(0))

    @functools.lru_cache(maxsize=1)
    def values(piece: int) -> np.ndarray:
        found, _ = lists(piece)
        lengths = np.unique(np.asarray(pyarrow.compute.list_value_length(found).fill_null(-1)))
        flat = found.flatten()
        if len(lengths) != 1 or lengths[0] < 1 or flat.null_count:
            raise ValueError(f"column {name!r} has missing values, or lists of {lengths.tolist()[:5]} numbers")
        return flat.to_numpy(zero_copy_only=False).reshape(-1, lengths[0])

    members = [lists(piece)[1] for piece in range(len(sizes))] if depths[name] == 2 else []
    ends = np.cumsum([part.sum() for part in members] if members else sizes)
    first = values(int(np.flatnonzero(np.diff(ends, prepend=0))[0]) if ends[-1] else 0)

    def read(start: int, stop: int) -> np.ndarray:
        pieces = range(int(np.searchsorted(ends, start, side="right")), int(np.searchsorted(ends, stop)) + 1)
        found = []
        for piece in pieces:
            offset = int(ends[piece - 1]) if piece else 0
            found.append(values(piece)[max(0, start - offset) : stop - offset])
        return found[0] if len(found) == 1 else np.concatenate(found)

    named = None
    if DOCUMENTS in depths and not depths[DOCUMENTS]:
        named = np.concatenate([column(piece, DOCUMENTS).to_numpy(zero_copy_only=False) for piece in range(len(sizes))])
    counted = bool(members) and named is None
    if members:
        per_entry = np.arange(sum(sizes)) if named is None else _named(path, _vector(named), sum(sizes))
        named = np.repeat(per_entry, np.concatenate(members))
    array = _Array((int(ends[-1]), first.shape[1]), first.dtype, read)
    return _table(path, array, None if named is None else _vector(named), counted=counted)


def _vector(values: np.ndarray) -> _Array:
    return _Array(values.shape, values.dtype, lambda start, stop: values[start:stop])


_READERS = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".safetensors": _read_safetensors,
    ".arrow": _read_arrow,
    ".parquet": _read_arrow,
}

__all__ = ["Activations", "open_activations", "save_activations"]
