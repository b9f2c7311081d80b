"""Reads arrays and configurations that others published, which may be damaged or hostile; a file
that `torch.save` wrote without PyTorch.

It executes nothing in a file, no array takes more memory than the file fills, and errors name
whatever is missing, left over, misshapen or not finite.

A file of `torch.save` is a zip archive of one pickle and one member for each storage. A pickle may
name functions to call; this reader has its own versions of those that rebuild a tensor, and refuses
every other name.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, partialmethod
from io import BytesIO
from json import loads
from math import prod
from pathlib import Path
from re import fullmatch
from types import SimpleNamespace
from typing import Any
from zipfile import ZIP_STORED, ZipFile
from zlib import crc32

# NumPy then knows its types by their names.
import ml_dtypes  # noqa: F401
import numpy as np
from jaxtyping import Float
from numpy import isfinite, memmap
from safetensors import safe_open

from sae_gap.core import (
    brief,
    check_choice,
    check_integer,
    check_number,
    printable,
    shown,
)

# Weights hardly compress: a file that unpacks to more than this many times its size is a zip bomb.
_MOST_COMPRESSED = 20
# NumPy's types by their names in a .safetensors file; weights have one of the first.
_FLOATS = {
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
_TYPES: dict[str, Any] = {
    f"{kind}{8 * size}": f"{kind.lower()}{size}"
    for kind in "IU"
    for size in (1, 2, 4, 8)
}
_TYPES |= _FLOATS | {"BOOL": "bool"}

_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
# Entries under which a training run keeps the weights beside its optimiser.
_NESTED = ("ae", "state_dict", "model", "model_state_dict")


@dataclass(eq=False)
class Tensors:
    """The tensors of one file, taken one by one with the shape that each must have.

    Args:
      path: the file, for messages.
      arrays: name to array.
    """

    path: Path
    arrays: Mapping[str, np.ndarray]
    _taken: set[str] = field(default_factory=set)

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __str__(self) -> str:
        return listed(sorted(self.arrays)) or "nothing"

    def shape(self, name: str) -> tuple[int, int]:
        """The shape of a matrix not taken yet; it must not be empty."""
        shape = self.sizes(name)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(
                f"{name} in {self.path} must be a non-empty matrix, but its shape is {shape}; save "
                "it again."
            )
        return shape

    def sizes(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor not taken yet."""
        return self._named(name).shape

    def take(self, name: str, *shape: int) -> Float[np.ndarray, "..."]:
        """A tensor of weights of exactly this shape, in float32 or float64.

        Raises:
          ValueError: it is missing, has another shape or type, or is not finite.
        """
        array = self._named(name)
        if array.shape != shape:
            turned = array.shape == shape[::-1]
            mend = "transpose it" if turned else "give what belongs together"
            raise ValueError(
                f"{name} in {self.path} has shape {array.shape} where {shape} is expected; {mend}."
            )
        if array.dtype.name not in _FLOATS.values():
            raise ValueError(
                f"{name} in {self.path} has the type {array.dtype}; save it as float32."
            )
        self._taken.add(name)
        wide = array.astype(np.promote_types(array.dtype, np.float32), copy=False)
        if not isfinite(wide).all():
            raise ValueError(
                f"{name} in {self.path} has NaN or infinite entries; train or download it again."
            )
        return wide

    def only(self) -> Float[np.ndarray, "rows columns"]:
        """The only matrix of the file, as `take` returns it."""
        if len(self.arrays) != 1:
            raise ValueError(
                f"{self.path} must hold one tensor, but has {self}; save it alone."
            )
        (name,) = self.arrays
        return self.take(name, *self.shape(name))

    def scalar(self, name: str) -> float:
        """A single finite number of any type."""
        array = self._named(name)
        value = np.nan
        if array.size == 1 and array.dtype.kind in "fiubV":
            value = float(array.item())
        if not isfinite(value):
            raise ValueError(
                f"{name} in {self.path} must be one finite number; train or download it again."
            )
        self._taken.add(name)
        return value

    def ignore(self, *names: str) -> None:
        """Marks tensors that may be present without effect on the codes."""
        self._taken.update(names)

    def dtypes(self) -> str:
        """The types on disk, for the notes."""
        return ", ".join(sorted({str(array.dtype) for array in self.arrays.values()}))

    def checksum(self) -> str:
        """A checksum of all numbers: safetensors has none of its own."""
        total = 0
        for name in sorted(self.arrays):
            total = crc32(self.arrays[name].tobytes(), total)
        return str(total)

    def finish(self, architecture: str) -> None:
        """Raises a ValueError if a tensor was not taken: the codes would miss its effect."""
        rest = sorted(self.arrays.keys() - self._taken)
        if rest:
            raise ValueError(
                f"{self.path} holds {listed(rest)}, which a {architecture} SAE does not have; "
                "correct the architecture in its configuration, or remove what is left over."
            )

    def _named(self, name: str) -> np.ndarray:
        if name not in self.arrays:
            raise ValueError(
                f"{self.path} has no tensor {name}, but {self}; check that it is the right file."
            )
        return self.arrays[name]


@contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """Turns any error while a file is read into one sentence.

    Raises:
      ValueError: there is no such file, or reading it raised anything: damaged files raise a dozen
        kinds of errors.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; check the path, or download it again.")
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as {kind} ({brief(error)}); save or download it again."
        ) from None


def map_safetensors(path: Path) -> dict[str, Callable[[], memmap]]:
    """For the name of each tensor of a .safetensors file, a function that maps it."""
    # It finds a header that does not fit the file.
    with safe_open(path, "numpy"), path.open("rb") as file:  # type: ignore[attr-defined]
        header = loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()

    def mapped(name: str) -> memmap:
        entry = header[name]
        place = start + entry["data_offsets"][0]
        shape = tuple(entry["shape"])
        return memmap(path, _TYPES[entry["dtype"]], "r", place, shape)

    return {name: partial(mapped, name) for name in header if name != "__metadata__"}


def read_safetensors(path: Path) -> Tensors:
    """The tensors of a .safetensors file.

    Raises:
      ValueError: it is no such file, or is cut short.
    """
    with reading(path, "a safetensors file"):
        maps = map_safetensors(path)
        return Tensors(
            path, {name: np.array(mapped()) for name, mapped in maps.items()}
        )


def read_npz(path: Path) -> Tensors:
    """The arrays of an .npz file; none may hold objects, or compress as no weights do.

    Raises:
      ValueError: it is no such file, or an array in it is not plain.
    """
    with reading(path, "an .npz file"), ZipFile(path) as archive:
        check_members(path, archive, _MOST_COMPRESSED)
        return Tensors(path, dict(np.load(path)))


def check_members(path: Path, archive: ZipFile, ratio: float = 1) -> None:
    """Raises a ValueError if a zip file would unpack to more than `ratio` times its own size."""
    unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > ratio * path.stat().st_size:
        raise ValueError(
            f"it would unpack to {unpacked} bytes, far more than weights do"
        )


def member_start(path: Path, member: zipfile.ZipInfo) -> tuple[int, int]:
    """The byte of a zip file at which a member's content begins, and its length.

    Raises:
      ValueError: the member is encrypted, compressed or damaged, so that it cannot be mapped.
    """
    if member.flag_bits & 1 or member.compress_type != ZIP_STORED:
        raise ValueError(f"its entry {member.filename!r} is encrypted or compressed")
    with path.open("rb") as file:
        file.seek(member.header_offset)
        local = file.read(30)
    if local[:4] != b"PK\x03\x04":
        raise ValueError(f"its entry {member.filename!r} is damaged")
    rest = sum(struct.unpack("<HH", local[26:30]))
    return member.header_offset + 30 + rest, member.file_size


def map_pt(path: Path) -> Any:
    """The contents of a .pt file of PyTorch 1.6 or newer, with memory-mapped tensors whose numbers
    are not read.

    Raises:
      Exception: of any kind, if it is no such file, names anything but tensors, or a tensor does
        not fit its storage.
    """
    with ZipFile(path) as archive:
        # torch.save compresses nothing, so the members together are no larger than the file.
        check_members(path, archive)
        return _Reader(path, archive).load()


def tensors_of(held: Any) -> dict[str, np.ndarray]:
    """The tensors by name in a saved dict, or in its first entry of a training run that is a dict.

    Raises:
      ValueError: it is no dict of names, or holds no tensors.
    """
    if isinstance(held, Mapping) and not _arrays_in(held):
        nested = (held.get(name) for name in _NESTED)
        held = next((part for part in nested if isinstance(part, Mapping)), held)
    if not isinstance(held, Mapping) or not all(isinstance(name, str) for name in held):
        raise ValueError(
            f"it holds a {type(held).__name__}, not a dict of tensors by name"
        )
    tensors = _arrays_in(held)
    if not tensors:
        raise ValueError("it holds no tensors")
    return tensors


def _arrays_in(held: Mapping[Any, Any]) -> dict[Any, np.ndarray]:
    return {name: part for name, part in held.items() if isinstance(part, np.ndarray)}


class _Reader(pickle._Unpickler):  # type: ignore[name-defined]
    """The unpickler in Python: the one in C allocates its memo up to the largest number that a
    pickle names.
    """

    def __init__(self, path: Path, archive: ZipFile):
        pickles = [
            name for name in archive.namelist() if fullmatch(r"[^/]+/data\.pkl", name)
        ]
        if len(pickles) != 1:
            raise ValueError("it has not one data.pkl, as torch.save writes")
        self._path = path
        self._archive = archive
        self._folder = pickles[0].removesuffix("data.pkl")
        order = f"{self._folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError(
                "its numbers are big-endian; save it on a little-endian machine"
            )
        super().__init__(BytesIO(archive.read(pickles[0])))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        # New functions for each pickle, since it can set attributes of what it gets.
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _rebuild(*arguments)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *rest: tensor
        if module == "torch" and (
            name in _STORAGES or fullmatch(r"b?float\d+|u?int\d+|bool", name)
        ):
            # Of a storage or of a number; nothing can call it.
            dtype = _STORAGES.get(name)
            return SimpleNamespace(dtype=dtype and np.dtype(dtype))
        raise ValueError(
            f"it names {module}.{name}, which is no tensor and is not executed"
        )

    def persistent_load(self, saved: Any) -> memmap:
        word, kind, key, _, _ = saved
        if word != "storage" or getattr(kind, "dtype", None) is None:
            raise ValueError("it refers to something that is not a storage")
        place, size = member_start(
            self._path, self._archive.getinfo(f"{self._folder}data/{key}")
        )
        return memmap(self._path, kind.dtype, "r", place, size // kind.dtype.itemsize)


def _rebuild(
    storage: Any, offset: int, shape: Sequence[int], strides: Sequence[int], *rest: Any
) -> np.ndarray:
    """A tensor with any strides as a view of its storage."""
    if not isinstance(storage, np.ndarray) or prod(shape) > storage.size:
        raise ValueError(f"a tensor of shape {shape} does not fit in its storage")
    # NumPy refuses strides that leave the buffer.
    size = storage.itemsize
    apart = [stride * size for stride in strides]
    return np.ndarray(shape, storage.dtype, storage, offset * size, apart)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a configuration.

    Raises:
      ValueError: the file is missing, or is not a JSON object.
    """
    with reading(path, "a configuration in JSON"):
        entries = loads(path.read_bytes())
        if not isinstance(entries, dict):
            raise ValueError(f"it holds a {type(entries).__name__}, not an object")
        return entries


@dataclass
class Config:
    """A configuration whose entries are read by type; a missing entry or null takes the default.

    Args:
      path: the file, for messages.
      entries: entries of the JSON object.
    """

    path: Path
    entries: dict[str, Any]

    def __contains__(self, name: str) -> bool:
        return self.entries.get(name) is not None

    def size(self, name: str, default: int | None = None, **limits: int) -> int:
        """An integer, within the limits of `check_integer`."""
        value = self._value(name, default)
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        check_integer(f"{name} in {self.path}", value, **limits)
        return value

    def number(self, name: str, default: float | None = None, **limits: float) -> float:
        """A finite number, within the limits of `check_number`."""
        value = self._value(name, default)
        check_number(f"{name} in {self.path}", value, **limits)
        return float(value)

    def choice(self, name: str, default: str, choices: Iterable[str]) -> str:
        """One of several texts."""
        value = self._value(name, default)
        check_choice(f"{name} in {self.path}", value, choices)
        return value

    def part(self, name: str) -> "Config":
        """An entry that is an object itself; empty if it is missing."""
        return Config(self.path, self._typed(name, {}, dict, "an object"))

    def texts(self, *names: str) -> dict[str, str]:
        """The entries of some names, as texts; those that are missing are left out."""
        return {name: str(self.entries[name]) for name in names if name in self}

    def _typed(self, name: str, default: Any, kind: type, wanted: str) -> Any:
        value = self._value(name, default)
        if not isinstance(value, kind):
            raise ValueError(
                f"{name} in {self.path} must be {wanted}, but it is {shown(value)}."
            )
        return value

    flag = partialmethod(_typed, kind=bool, wanted="true or false")
    text = partialmethod(_typed, kind=str, wanted="a text")

    def _value(self, name: str, default: Any) -> Any:
        value = self.entries.get(name)
        return default if value is None else value


def listed(names: Sequence[Any], folder: Path | None = None) -> str:
    """The first of some names, or of paths within a folder, for a message."""
    first = (name.relative_to(folder) if folder else name for name in names[:8])
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(printable(str(name)) for name in first) + more
