"""A file that holds what a fit has reached: the state to go on from, the model at a step, or both.

A file comes from whoever can write to the folder, so it is read as if from an enemy: nothing in it is executed, and nothing is
allocated but the arrays that the reader asked for, of the shapes and types that it expects.
"""

import contextlib
import copy
import io
import json
import math
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jaxtyping import PyTree

from sae_gap.runtime import devices, distributed
from sae_gap.storage import buckets
from sae_gap.storage.files import write_atomically
from sae_gap.storage.npy import read_header
from sae_gap.storage.results import plain

_LONGEST_NOTE = 2**16
_FAULTS = (
    *(OSError, TypeError, ValueError, KeyError, IndexError, AttributeError, EOFError, OverflowError, RecursionError),
    *(SyntaxError, MemoryError, NotImplementedError, RuntimeError, struct.error, zipfile.BadZipFile),
)


class Saved(NamedTuple):
    """What a file holds.

    Attributes:
      parts: the trees that were asked for, by name.
      note: what was written beside them: numbers, strings, and lists and mappings of these.
    """

    parts: dict[str, PyTree]
    note: dict[str, Any]


def write(path: pathlib.Path, parts: Mapping[str, PyTree], note: Mapping[str, Any]) -> bool:
    """Writes trees of arrays and a note, in place of an earlier file; whoever reads or kills finds the old file or the new.

    Args:
      path: the file; its folder is made.
      parts: trees of arrays, by name.
      note: what has a JSON form.

    Returns:
      Whether it is there now: a full disk or a folder that cannot be written to is only warned of, for what it holds can be
      fitted again.
    """
    arrays = {"note": np.frombuffer(json.dumps(plain(note), allow_nan=False).encode(), np.uint8)}
    arrays |= {f"{name}{i}": leaf for name, tree in parts.items() for i, leaf in enumerate(_leaves(tree))}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getbuffer())
    except OSError as error:
        logging.warning("going on without saving the fit: %s cannot be written (%s)", path, error.strerror or error)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        return False
    return True


def read(path: pathlib.Path, like: Mapping[str, PyTree]) -> Saved | None:
    """Reads trees that are like given ones.

    Args:
      path: the file.
      like: a tree of arrays, or of their shapes, for each part wanted; the file may hold more.

    Returns:
      The trees, on the devices of `like` where it is tied to any, and the note; None where there is no file, or it is damaged
      or holds something unlike what was asked for, with a line in the log.
    """
    found = _read_if_whole(path, like)
    return None if found is None else _restored_parts(found, like)


def read_or_raise(path: pathlib.Path, like: Mapping[str, PyTree]) -> Saved:
    """As `read`, for a file that has to be there.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged, or holds something unlike what was asked for; the message names both.
    """
    return _restored_parts(_read(path, like), like)


def _restored_parts(found: Saved, like: Mapping[str, PyTree]) -> Saved:
    return Saved({name: _restored(arrays, like[name]) for name, arrays in found.parts.items()}, found.note)


def _read(path: pathlib.Path, like: Mapping[str, PyTree]) -> Saved:
    """What a file holds, with NumPy arrays in a list for each tree, where a random key is its words."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a regular file")
        with zipfile.ZipFile(path) as archive:
            note = _read_note(archive)
            return Saved({name: _read_tree(archive, name, tree) for name, tree in like.items()}, note)
    except FileNotFoundError:
        raise
    except _FAULTS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} is not a fit that can be used ({reason})") from None


def _read_if_whole(path: pathlib.Path, like: Mapping[str, PyTree]) -> Saved | None:
    try:
        return _read(path, like)
    except FileNotFoundError:
        return None
    except ValueError as error:
        logging.warning("starting over: %s", error)
        return None


class Checkpoint:
    """One file for one fit, saved now and then and removed at its end; in many processes by the first.

    Args:
      path: the file; made with its folder when there is something to save.
      every: seconds between two saves, about.
      name: what tells the fit from all others, since a state says nothing of what it was reached by; a file of another is not
        taken.
    """

    def __init__(self, path: str | pathlib.Path, every: float = 60.0, name: str = ""):
        self.path, self.every, self.name = pathlib.Path(path), every, name

    def named(self, name: str) -> "Checkpoint":
        """The same file for the fit of this name."""
        other = copy.copy(self)
        other.name = name
        return other

    def store(self, state: PyTree, seconds: float, *, step: int = 0) -> None:
        """Saves a state, its step and the seconds spent on it, in place of an earlier one; a full disk is only warned of."""
        whole = distributed.whole(state)
        if distributed.is_first():
            write(self.path, {"state": whole}, {"fit": self.name, "step": step, "seconds": float(seconds)})

    def load(self, like: PyTree) -> tuple[PyTree, float] | None:
        """The saved state and its seconds; None where there is no file, or it is of another fit."""
        found = distributed.agree(lambda: _read_if_whole(self.path, {"state": like}))
        if found is None:
            return None
        seconds = found.note.get("seconds")
        if not isinstance(seconds, float) or not math.isfinite(seconds) or found.note.get("fit") != self.name:
            logging.warning("starting over: %s is of another fit", self.path)
            return None
        logging.info("going on from %s, after %.0f s", self.path, seconds)
        return _restored(found.parts["state"], like), seconds

    def discard(self) -> None:
        """Removes the file, of a fit whose results are safe, and its folder if that is empty then; as far as it can."""
        if not distributed.is_first():
            return
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)
            buckets.push(self.path)
            self.path.parent.rmdir()


def _open(archive: zipfile.ZipFile, name: str):
    """A member as it is written here: without compression, of which little on disk is much in memory."""
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is compressed")
    return archive.open(name)


def _read_note(archive: zipfile.ZipFile) -> dict[str, Any]:
    with _open(archive, "note.npy") as member:
        shape, dtype = _read_form(member)
        if dtype != np.uint8 or len(shape) != 1 or not 0 < shape[0] <= _LONGEST_NOTE:
            raise ValueError("its note has an unknown form")
        note = json.loads(member.read(shape[0] + 1)[: shape[0]])
    if not isinstance(note, dict):
        raise ValueError("its note has an unknown form")
    return note


def _read_tree(archive: zipfile.ZipFile, name: str, like: PyTree) -> list[np.ndarray]:
    leaves = jax.tree.leaves(like)
    if f"{name}{len(leaves)}.npy" in archive.namelist():
        raise ValueError(f"its {name} has more arrays than are expected")
    return [_read_array(archive, f"{name}{i}.npy", *_form(leaf)) for i, leaf in enumerate(leaves)]


def _read_array(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    with _open(archive, name) as member:
        found = _read_form(member)
        if found != (shape, dtype):
            raise ValueError(f"{name} is {found[1]} of shape {found[0]}, where {dtype} of shape {shape} is expected")
        array = np.empty(shape, dtype)
        data, place = memoryview(array.reshape(-1).view(np.uint8)), 0  # type: ignore[arg-type]
        # To the end of the member, where its checksum is verified.
        while chunk := member.read(2**20):
            if place + len(chunk) > len(data):
                raise ValueError(f"{name} is too long")
            data[place : place + len(chunk)] = chunk
            place += len(chunk)
        if place < len(data):
            raise ValueError(f"{name} is cut short")
    return array


def _read_form(member) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array, of none but plain C-ordered ones."""
    header = read_header(member)
    if header.fortran or header.dtype.hasobject or header.dtype.names is not None:
        raise ValueError("an array has an unknown form")
    return header.shape, header.dtype


def _is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _form(leaf) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array as it lies in a file, where a random key is its words."""
    if _is_key(leaf):
        words = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        return words.shape, np.dtype(words.dtype)
    return tuple(leaf.shape), np.dtype(leaf.dtype)


def _leaves(tree: PyTree) -> list[np.ndarray]:
    return [np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf, order="C") for leaf in jax.tree.leaves(tree)]


def _restored(found: list[np.ndarray], like: PyTree) -> PyTree:
    """A tree like a given one, and on its devices where it is tied to any."""
    leaves = jax.tree.leaves(like)
    return jax.tree.unflatten(jax.tree.structure(like), [_restored_leaf(*pair) for pair in zip(found, leaves, strict=True)])


def _restored_leaf(saved: np.ndarray, like) -> jax.Array:
    array = jax.random.wrap_key_data(jax.numpy.asarray(saved)) if _is_key(like) else saved
    # What is tied to no device stays so: a program is compiled anew for each array that is tied and was not.
    return devices.put(array, like.sharding) if getattr(like, "committed", False) else jax.numpy.asarray(array)
