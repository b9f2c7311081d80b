"""Tensors out of a file that `torch.save` wrote, without PyTorch and without executing anything in it.

Such a file is a zip archive of one pickle and one member for each storage. The pickle may name functions to call; here it may
name those that rebuild a tensor, which are this module's own, and nothing else.
"""

import collections
import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sae_gap.storage.tensor_files import ZIP_FAULTS, Tensors, brief, check_members

# The pickle of a state dict names each tensor and is some kilobytes long; an optimiser's adds as much again.
_LONGEST_PICKLE = 2**24
_STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# Where a training run keeps the weights beside its optimiser.
_NESTED = ("ae", "state_dict", "model", "model_state_dict")


class _Storage:
    """A type of storage as a pickle names it; an instance of a class of its own, so that nothing can call it."""

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype)


class _Named:
    """Something that a pickle names and that makes no difference to the weights, such as a type of number."""


def read_pt(path: Path) -> Tensors:
    """The tensors of a .pt file: of a state dict, or of one nested in what a training run saved.

    Args:
      path: a file that `torch.save` of version 1.6 or newer wrote.

    Returns:
      The tensors by name.

    Raises:
      ValueError: it is not such a file, it names anything but tensors, or a tensor does not fit its storage.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; check the path, or download the SAE again.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a zip archive, as torch.save has written since version 1.6; save it again with that.")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # As it is written, nothing is compressed and nothing overlaps, so that all members together fit in the file.
            check_members(path, members)
            found = _Reader(archive, [member.filename for member in members]).load()
        return Tensors(path, _state(found))
    except (*ZIP_FAULTS, pickle.UnpicklingError, AttributeError, IndexError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a file of weights that can be read ({brief(error)}); save its state dict again."
        ) from None


def _state(found: Any) -> dict[str, np.ndarray]:
    """The state dict in what was saved."""
    if isinstance(found, Mapping) and not any(isinstance(value, np.ndarray) for value in found.values()):
        found = next((found[name] for name in _NESTED if isinstance(found.get(name), Mapping)), found)
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"it holds a {type(found).__name__}, not a state dict")
    tensors = {name: value for name, value in found.items() if isinstance(value, np.ndarray)}
    if not tensors:
        raise ValueError("it holds no tensors")
    return tensors


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, names: list[str]):
        pickles = [name for name in names if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise ValueError("it has not one data.pkl, as torch.save writes")
        self._archive, self._folder = archive, pickles[0].removesuffix("data.pkl")
        order = f"{self._folder}byteorder"
        if order in names and self._read(order, 16) != b"little":
            raise ValueError("its numbers are big-endian")
        content = self._read(pickles[0], _LONGEST_PICKLE)
        _check_opcodes(content)
        self._storages: dict[str, np.ndarray] = {}
        super().__init__(io.BytesIO(content))

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            # A function made anew: a pickle can set attributes of what it is given.
            return lambda *arguments: _rebuild(*arguments)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *rest: tensor
        if module == "torch" and name in _STORAGES:
            return _Storage(_STORAGES[name])
        if module == "torch" and re.fullmatch(r"b?float\d+|u?int\d+|bool", name):
            return _Named()
        raise ValueError(f"it names {module}.{name}, which is no tensor and is not executed".replace("\n", " "))

    def persistent_load(self, saved):
        if not isinstance(saved, tuple) or len(saved) != 5 or saved[0] != "storage" or not isinstance(saved[1], _Storage):
            raise ValueError("it refers to something that is not a storage")
        _, kind, key, _, count = saved
        if not isinstance(key, str) or not re.fullmatch(r"[0-9A-Za-z_]{1,64}", key) or not isinstance(count, int):
            raise ValueError("it refers to a storage by a strange name")
        if key not in self._storages:
            content = self._read(f"{self._folder}data/{key}", None)
            if len(content) % kind.dtype.itemsize or len(content) // kind.dtype.itemsize < count:
                raise ValueError(f"storage {key} is shorter than it says")
            self._storages[key] = np.frombuffer(content, kind.dtype)
        if self._storages[key].dtype != kind.dtype:
            raise ValueError(f"storage {key} is of two types")
        return self._storages[key]

    def _read(self, name: str, most: int | None) -> bytes:
        member = self._archive.getinfo(name)
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed, as torch.save does not write it")
        if most is not None and member.file_size > most:
            raise ValueError(f"{name} is too long")
        return self._archive.read(member)


def _check_opcodes(content: bytes) -> None:
    """Raises a ValueError where a number in the pickle would make the unpickler itself take memory without end."""
    for opcode, argument, _ in pickletools.genops(content):
        # The memo is a table as long as its largest index.
        if "PUT" in opcode.name and int(argument or 0) > len(content):
            raise ValueError("its pickle numbers its objects wildly")
        if "EXT" in opcode.name:
            raise ValueError("its pickle uses extension codes")


def _rebuild(storage, offset, shape, strides, *rest) -> np.ndarray:
    """A tensor that lies in a storage with any strides, copied out of it."""
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, np.ndarray) or len(shape) != len(strides) or len(shape) > 8:
        raise ValueError("a tensor has an unknown form")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a tensor has an unknown form")
    count = int(np.prod(shape, dtype=object))
    end = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True)) if count else 0
    if count > storage.size or end >= max(storage.size, 1):
        raise ValueError(f"a tensor of shape {tuple(shape)} does not fit in its storage of {storage.size} numbers")
    bytes_apart = [stride * storage.itemsize for stride in strides]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(storage[offset:], tuple(shape), bytes_apart)).reshape(shape)
