"""Arrays and configurations from files that others published, which may be damaged or hostile.

Nothing in a file is executed, no array takes more memory than the file fills, and whatever is missing, left over, misshapen or
not finite is named.
"""

import json
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
import safetensors
from jaxtyping import Float

from sae_gap.storage.npy import read_header

# Weights hardly compress: a file that unpacks to more than this many times its size is a zip bomb.
_MOST_COMPRESSED = 20
# The floats that weights are computed with, and those that they may be kept in besides.
WIDE = (np.dtype(np.float32), np.dtype(np.float64))
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

    def shape(self, name: str) -> tuple[int, int]:
        """The shape of a matrix, before it is taken; it must not be empty."""
        shape = self._named(name).shape
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"{name} in {self.path} must be a non-empty matrix, but its shape is {shape}; save it again.")
        return shape

    def take(self, name: str, *shape: int) -> Float[np.ndarray, "..."]:
        """A tensor of weights of exactly this shape, in float32 or float64.

        Raises:
          ValueError: it is missing, has another shape or type, or is not finite.
        """
        array = self._named(name)
        if array.shape != shape:
            turned = len(shape) == 2 and shape[0] != shape[1] and array.shape == shape[::-1]
            mend = "it is transposed; save it the other way round" if turned else "it belongs to a model of another size"
            raise ValueError(f"{name} in {self.path} has shape {array.shape} where {shape} is expected: {mend}.")
        native = array.dtype.newbyteorder("=")
        if native not in (*WIDE, *NARROW):
            raise ValueError(f"{name} in {self.path} has the type {array.dtype}; save it as float32.")
        self._taken.add(name)
        wide = array.astype(native if native in WIDE else np.float32, copy=False)
        if wide.dtype == np.float64 and np.abs(wide).max(initial=0) > np.finfo(np.float32).max and np.isfinite(wide).all():
            raise ValueError(f"{name} in {self.path} has entries that float32 cannot hold; train or download it again.")
        # The float64 sum of finite float32 numbers is finite, and needs no array of flags.
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(wide.sum(dtype=np.float64))
        if not finite:
            raise ValueError(f"{name} in {self.path} has NaN or infinite entries; train or download it again.")
        return wide

    def scalar(self, name: str) -> float:
        """A single finite number of any type."""
        array = self._named(name)
        value = float(array.reshape(())) if array.size == 1 and array.dtype.kind in "fiubV" else np.nan
        if not np.isfinite(value):
            raise ValueError(f"{name} in {self.path} must be one finite number; train or download it again.")
        self._taken.add(name)
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
      ValueError: it is no such file, is cut short, or its header does not fit it.
    """
    _require_file(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:  # type: ignore[attr-defined]
            return Tensors(path, {name: _one(file, name) for name in file.keys()})  # noqa: SIM118
    except Exception as error:  # The library documents no errors.
        raise ValueError(f"{path} cannot be read as a safetensors file ({brief(error)}); download it again.") from None


def _one(file: Any, name: str) -> np.ndarray:
    return np.zeros(0) if 0 in file.get_slice(name).get_shape() else file.get_tensor(name)


def read_npz(path: Path) -> Tensors:
    """The arrays of an .npz file: none of objects, and none that takes more memory than the file could fill.

    Raises:
      ValueError: it is no such file, or an array in it is not plain.
    """
    _require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_members(path, members, _MOST_COMPRESSED)
            return Tensors(path, {member.filename.removesuffix(".npy"): _read_npy(archive, member) for member in members})
    except Exception as error:  # A damaged archive raises a dozen kinds.
        raise ValueError(f"{path} cannot be read as an .npz file ({brief(error)}); download it again.") from None


def check_members(path: Path, members: Iterable[zipfile.ZipInfo], ratio: float = 1) -> None:
    """Raises a ValueError where a zip file would unpack to more than `ratio` times its own size."""
    unpacked = sum(member.file_size for member in members)
    if unpacked > ratio * path.stat().st_size:
        raise ValueError(f"it would unpack to {unpacked} bytes, far more than weights do")


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as stream:
        header = read_header(stream)
        if header.dtype.hasobject or header.dtype.names is not None or header.size != member.file_size - header.length:
            raise ValueError(f"{member.filename} is not a plain array of the size it declares")
        return np.frombuffer(stream.read(), header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


def read_json(path: Path) -> dict[str, Any]:
    """A configuration.

    Raises:
      ValueError: the file is missing, or is not a JSON object.
    """
    _require_file(path)
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a configuration in JSON ({brief(error)}); download it again.") from None
    return found


class Config:
    """A configuration whose entries are asked for with their types; a missing entry and null take the default.

    Args:
      path: the file, for messages.
      entries: of the JSON object.
    """

    def __init__(self, path: Path, entries: Mapping[str, Any]):
        self.path, self.entries = path, dict(entries)

    def __contains__(self, name: str) -> bool:
        return self.entries.get(name) is not None

    def size(self, name: str, default: int | None = None, least: int = 1, most: int | None = None) -> int:
        """An integer from `least` on; `most` is the number of latents that it counts."""
        value = self._value(name, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            self._refuse(name, f"a {'positive' if least else 'non-negative'} integer below 2**31", value)
        if most is not None and value > most:
            self._refuse(name, f"at most {most}, as the SAE has only {most} latents", value)
        return value

    def number(self, name: str, default: float) -> float:
        """A finite number."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            self._refuse(name, "a finite number", value)
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._value(name, default)
        return value if isinstance(value, bool) else self._refuse(name, "true or false", value)

    def text(self, name: str, default: str) -> str:
        """A text."""
        value = self._value(name, default)
        return value if isinstance(value, str) else self._refuse(name, "a text", value)

    def choice(self, name: str, default: str, choices: Iterable[str]) -> str:
        """One of several texts."""
        value = self.text(name, default)
        return value if value in choices else self._refuse(name, f"one of {', '.join(choices)}", value)

    def part(self, name: str) -> "Config":
        """An entry that is an object itself; empty where it is missing."""
        value = self._value(name, {})
        return Config(self.path, value if isinstance(value, dict) else self._refuse(name, "an object", value))

    def _value(self, name: str, default: Any) -> Any:
        found = self.entries.get(name)
        return default if found is None else found

    def _refuse(self, name: str, wanted: str, value: Any) -> NoReturn:
        raise ValueError(f"{name} in {self.path} must be {wanted}, but it is {value!r:.60}; correct the configuration.")


def brief(error: BaseException) -> str:
    """What an exception says, on one line."""
    return printable(" ".join(str(error).split()), 200).rstrip(" .") or type(error).__name__


def printable(text: str, most: int = 80) -> str:
    """A text from a file as a message may show it: on one line, not too long, and no command to a terminal."""
    kept = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text[:most])
    return kept if len(text) <= most else f"{kept}..."


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path} is not a file; check the path, or download it again.")


def _listed(names: list[str]) -> str:
    return ", ".join(map(printable, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
