"""Arrays and configurations from files that others published, read as if from an enemy.

Nothing in a file is executed, no memory is taken that the file does not itself fill, and whatever is missing, left over, of
another shape or not finite is named.
"""

import json
import re
import sys
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
from jaxtyping import Float

from sae_gap.storage.npy import read_header

# A configuration is a page; a header of an array, a line.
_LONGEST_JSON = 2**24
# Weights hardly compress: what unpacks to much more is made to fill the memory.
_MOST_COMPRESSED = 20
_FAULTS = (OSError, ValueError, KeyError, EOFError, MemoryError, OverflowError, NotImplementedError, RuntimeError)
# What a damaged archive may raise.
ZIP_FAULTS = (*_FAULTS, zipfile.BadZipFile, zlib.error)

# The floats that weights are computed with.
WIDE = (np.dtype(np.float32), np.dtype(np.float64))
# The floats that weights may be kept in besides.
NARROW = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


class Tensors:
    """The tensors of one file, taken one by one with the shape that each must have.

    Args:
      path: the file, for messages.
      arrays: name to array.
    """

    def __init__(self, path: Path, arrays: Mapping[str, np.ndarray]):
        self.path, self._arrays, self._taken = path, dict(arrays), set[str]()

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __iter__(self):
        return iter(self._arrays)

    def shape(self, name: str) -> tuple[int, int]:
        """The shape of a matrix, before it is taken; it must not be empty."""
        shape = self._named(name).shape
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"{name} in {self.path} must be a non-empty matrix, but its shape is {shape}; save it again.")
        return shape

    def take(self, name: str, *shape: int) -> Float[np.ndarray, "..."]:
        """A tensor of weights of exactly this shape, in float32 or float64.

        Raises:
          ValueError: it is not there, has another shape or type, or is not finite.
        """
        array = self._named(name)
        if array.shape != shape:
            turned = len(shape) == 2 and shape[0] != shape[1] and array.shape == shape[::-1]
            mend = "it is transposed; save it the other way round" if turned else "it belongs to a model of another size"
            raise ValueError(f"{name} in {self.path} has shape {array.shape} where {shape} is expected: {mend}.")
        if array.dtype not in (*WIDE, *NARROW):
            raise ValueError(
                f"{name} in {self.path} is of type {array.dtype}, not floating-point of 16 bits or more; save it as float32."
            )
        self._taken.add(name)
        wide = array if array.dtype in WIDE else array.astype(np.float32)
        if wide.dtype == np.float64 and np.abs(wide).max(initial=0) > np.finfo(np.float32).max and np.isfinite(wide).all():
            raise ValueError(f"{name} in {self.path} has entries that float32 cannot hold; train or download it again.")
        # A double sum of what float32 holds is finite unless an entry is not, and takes no memory of the array's size.
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(wide.sum(dtype=np.float64))
        if not finite:
            raise ValueError(f"{name} in {self.path} has NaN or infinite entries; train or download it again.")
        return wide

    def scalar(self, name: str) -> float:
        """A single number, whatever its type."""
        array = self._named(name)
        if array.size != 1 or (array.dtype.kind not in "fiub" and array.dtype not in NARROW):
            raise ValueError(f"{name} in {self.path} must be one number, but its shape is {array.shape}.")
        self._taken.add(name)
        value = float(array.reshape(()))
        if not np.isfinite(value):
            raise ValueError(f"{name} in {self.path} must be finite, but it is {value}.")
        return value

    def ignore(self, *names: str) -> None:
        """Marks tensors that may be there and make no difference to the codes."""
        self._taken.update(names)

    def dtypes(self) -> str:
        """The types on disk, for the notes."""
        return ", ".join(sorted({str(array.dtype) for array in self._arrays.values()}))

    def finish(self, architecture: str) -> None:
        """Raises a ValueError where a tensor was not taken: it would mean something that the codes do not show."""
        rest = sorted(set(self._arrays) - self._taken)
        if rest:
            raise ValueError(
                f"{self.path} holds {_listed(rest)}, which a {architecture} SAE does not have; "
                "correct the architecture in its configuration, or remove what is left over."
            )

    def _named(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise ValueError(
                f"{self.path} has no tensor {name}, but {_listed(sorted(self._arrays)) or 'nothing'}; "
                "check that the file and its configuration belong together."
            )
        return self._arrays[name]


def read_safetensors(path: Path) -> Tensors:
    """The tensors of a .safetensors file.

    Raises:
      ValueError: it is not such a file, is cut short, or its header does not fit it.
    """
    _require_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:  # type: ignore[attr-defined]
            return Tensors(path, {name: _one(path, file, name) for name in file.keys()})  # noqa: SIM118
    except (*_FAULTS, AttributeError, TypeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} is not a safetensors file that can be read ({brief(error)}); download it again.") from None


def _one(path: Path, file: Any, name: str) -> np.ndarray:
    if 0 in file.get_slice(name).get_shape():
        return np.zeros(0)
    return file.get_tensor(name)


def read_npz(path: Path) -> Tensors:
    """The arrays of a .npz file; none of objects, and none that takes more memory than the file could fill.

    Raises:
      ValueError: it is not such a file, or an array in it is not plain.
    """
    _require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_members(path, members, _MOST_COMPRESSED)
            return Tensors(path, {member.filename.removesuffix(".npy"): _read_npy(archive, member) for member in members})
    except (*ZIP_FAULTS, TypeError, SyntaxError, RecursionError) as error:
        raise ValueError(f"{path} is not an .npz file that can be read ({brief(error)}); download it again.") from None


def check_members(path: Path, members: Iterable[zipfile.ZipInfo], ratio: float = 1) -> None:
    """Raises a ValueError where a zip file would unpack to more than `ratio` times its own size."""
    unpacked = sum(member.file_size for member in members)
    if unpacked > ratio * path.stat().st_size:
        raise ValueError(f"it would unpack to {unpacked} bytes, far more than weights do")


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        header = read_header(stream)
        if header.dtype.hasobject or header.dtype.names is not None or header.size > member.file_size:
            raise ValueError(f"{member.filename} is not a plain array of the size it declares")
        content = stream.read()
    if len(content) != header.size:
        raise ValueError(f"{member.filename} is cut short or too long")
    return np.frombuffer(content, header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


def read_json(path: Path) -> dict[str, Any]:
    """A configuration.

    Raises:
      ValueError: the file is not there, or is not a JSON object.
    """
    _require_file(path)
    try:
        if path.stat().st_size > _LONGEST_JSON:
            raise ValueError("it is far too long for a configuration")
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, not an object")
    except (*_FAULTS, RecursionError) as error:
        raise ValueError(f"{path} is not a configuration in JSON ({brief(error)}); download it again.") from None
    return found


class Config:
    """A configuration whose entries are asked for with their types.

    Args:
      path: the file, for messages.
      entries: of the JSON object.
    """

    def __init__(self, path: Path, entries: Mapping[str, Any]):
        self.path, self.entries = path, dict(entries)

    def __contains__(self, name: str) -> bool:
        return self.entries.get(name) is not None

    def _value(self, name: str, default: Any) -> Any:
        """An entry; the default where it is missing or null."""
        found = self.entries.get(name)
        return default if found is None else found

    def size(self, name: str, default: int | None = None, least: int = 1) -> int:
        """An integer from 1 or 0 on; None and a missing entry take the default, and without one are a fault."""
        value = self._value(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            kind = "positive" if least else "non-negative"
            raise ValueError(
                f"{name} in {self.path} must be a {kind} integer below 2**31, but it is {value!r:.60}; "
                "correct the configuration."
            )
        return value

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            raise ValueError(
                f"{name} in {self.path} must be a finite number, but it is {value!r:.60}; correct the configuration."
            )
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """An entry that is true or false; raises a ValueError if it is neither."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise ValueError(
                f"{name} in {self.path} must be true or false, but it is {value!r:.60}; correct the configuration."
            )
        return value

    def text(self, name: str, default: str) -> str:
        """An entry that is a text; raises a ValueError if it is none."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise ValueError(f"{name} in {self.path} must be a text, but it is {value!r:.60}; correct the configuration.")
        return value

    def part(self, name: str) -> "Config":
        """An entry that is an object itself; empty where there is none."""
        value = self._value(name, {})
        if not isinstance(value, dict):
            raise ValueError(f"{name} in {self.path} must be an object, but it is {value!r:.60}; correct the configuration.")
        return Config(self.path, value)

    def among(self, name: str, number: int, most: int) -> int:
        """A count that cannot be above another."""
        if number > most:
            raise ValueError(
                f"{name} in {self.path} is {number}, but the SAE has only {most} latents; correct the configuration."
            )
        return number


def brief(error: BaseException) -> str:
    """What an exception says, on one line."""
    words = re.sub(r"[\s.]*$", "", " ".join(str(error).split())[:200])
    return words or type(error).__name__


def printable(text: str) -> str:
    """A text of a file as a message may show it: on one line, not too long, and no command to a terminal."""
    kept = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:80])
    return kept if len(text) <= 80 else f"{kept}..."


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is not a file; check the path, or download it again.")


def _listed(names: list[str]) -> str:
    return ", ".join(map(printable, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
