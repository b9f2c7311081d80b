"""Reads tensors from a file that `torch.save` wrote, without PyTorch and without executing anything
in it.

Such a file is a zip archive of one pickle and one member for each storage. A pickle may name
functions to call; this reader has its own versions of those that rebuild a tensor, and refuses
every other name.
"""

import collections
import io
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sae_gap.storage import check_members, member_start

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
# Entries under which a training run keeps the weights beside its optimiser.
NESTED = ("ae", "state_dict", "model", "model_state_dict")


class _Named:
    """A name in a pickle that nothing calls: a type of storage, or of number."""

    def __init__(self, dtype: Any = None):
        self.dtype = None if dtype is None else np.dtype(dtype)


def map_pt(path: Path) -> Any:
    """The contents of a .pt file, with memory-mapped tensors whose numbers are not read.

    Raises:
      Exception: of any kind, if it is no file that `torch.save` of version 1.6 or newer wrote, it
        names anything but tensors, or a tensor does not fit its storage.
    """

    def mapped(name: str) -> np.memmap:
        return np.memmap(path, np.uint8, "r", *member_start(path, archive.getinfo(name)))

    with zipfile.ZipFile(path) as archive:
        return _load(path, archive, mapped)


def tensors_of(held: Any, nested: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """The tensors by name in a saved dict, or in its first entry among `nested` that is a dict.

    Raises:
      ValueError: it is no dict of names, or holds no tensors.
    """
    if isinstance(held, Mapping) and not any(
        isinstance(value, np.ndarray) for value in held.values()
    ):
        held = next((held[name] for name in nested if isinstance(held.get(name), Mapping)), held)
    if not isinstance(held, Mapping) or not all(isinstance(name, str) for name in held):
        raise ValueError(f"it holds a {type(held).__name__}, not a dict of tensors by name")
    tensors = {name: value for name, value in held.items() if isinstance(value, np.ndarray)}
    if not tensors:
        raise ValueError("it holds no tensors")
    return tensors


def _load(path: Path, archive: zipfile.ZipFile, read: Callable[[str], Any]) -> Any:
    # torch.save compresses nothing, so the members together are no larger than the file.
    check_members(path, archive)
    return _Reader(archive, read).load()


class _Reader(pickle._Unpickler):  # type: ignore[name-defined]
    """The unpickler in Python: the one in C allocates its memo up to the largest number that a
    pickle names.
    """

    def __init__(self, archive: zipfile.ZipFile, read: Callable[[str], Any]):
        pickles = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise ValueError("it has not one data.pkl, as torch.save writes")
        self._read, self._folder = read, pickles[0].removesuffix("data.pkl")
        order = f"{self._folder}byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("its numbers are big-endian; save it on a little-endian machine")
        super().__init__(io.BytesIO(archive.read(pickles[0])))

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        # New functions for each pickle, since it can set attributes of what it gets.
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: _rebuild(*arguments)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *rest: tensor
        if module == "torch" and (
            name in _STORAGES or re.fullmatch(r"b?float\d+|u?int\d+|bool", name)
        ):
            return _Named(_STORAGES.get(name))
        raise ValueError(f"it names {module}.{name}, which is no tensor and is not executed")

    def persistent_load(self, saved):
        word, kind, key, _, _ = saved
        if word != "storage" or getattr(kind, "dtype", None) is None:
            raise ValueError("it refers to something that is not a storage")
        return np.frombuffer(self._read(f"{self._folder}data/{key}"), kind.dtype)


def _rebuild(storage, offset, shape, strides, *rest) -> np.ndarray:
    """A tensor with any strides as a view of its storage."""
    if not isinstance(storage, np.ndarray) or math.prod(shape) > storage.size:
        raise ValueError(f"a tensor of shape {shape} does not fit in its storage")
    apart = [stride * storage.itemsize for stride in strides]
    # NumPy refuses strides that leave the buffer.
    return np.ndarray(shape, storage.dtype, storage, offset * storage.itemsize, apart)
