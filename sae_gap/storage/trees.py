"""Trees of arrays as .safetensors files, with a note in the header: models, and the state from
which a killed fit resumes.

A file may come from anyone who can write to the folder: nothing in it is executed, and a tree is
read only if its arrays have the expected names, shapes and types.
"""

from collections.abc import Mapping
from contextlib import suppress
from json import dumps, loads
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl import logging
from jax import eval_shape
from jax.random import key_data, wrap_key_data
from jax.tree_util import tree_leaves, tree_structure, tree_unflatten
from jaxtyping import PyTree
from safetensors import SafetensorError

from sae_gap.runtime import devices, distributed
from sae_gap.runtime.distributed import is_key
from sae_gap.storage import Folder, Tensors, plain


def dump(tree: PyTree, note: Mapping[str, Any]) -> bytes:
    """A tree of arrays and a note, as the content of a .safetensors file.

    Args:
      tree: any tree of arrays; a tensor is named after its place, such as `.encoder.weight`.
      note: anything with a JSON form.
    """
    arrays = {
        name: np.asarray(key_data(leaf) if is_key(leaf) else leaf, order="C")
        for name, leaf in _named(tree)
    }
    header = {
        "note": dumps(plain(note), allow_nan=False),
        "crc32": Tensors(Path(), arrays).checksum(),
    }
    return safetensors.numpy.save(arrays, metadata=header)


def load(content: bytes, like: PyTree) -> PyTree:
    """The tree in such a file.

    Args:
      content: content of the file.
      like: a tree of arrays, or of their shapes and types.

    Returns:
      The tree, on the devices of `like` if that is committed to any.

    Raises:
      ValueError: the file is damaged, or holds something else.
    """
    checksum = read_note(content)["crc32"]
    try:
        found = safetensors.numpy.load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"its tensors cannot be read ({error})") from None
    wanted = {name: _form(leaf) for name, leaf in _named(like)}
    have = {name: _form(array) for name, array in found.items()}
    for name in wanted | have:
        if have.get(name) != wanted.get(name):
            raise ValueError(
                f"{name} is {have.get(name, 'missing')}, where {wanted.get(name, 'missing')} is "
                "expected"
            )
    if checksum != Tensors(Path(), found).checksum():
        raise ValueError("its numbers are not those that were written")
    leaves = (_restored(found[name], leaf) for name, leaf in _named(like))
    return tree_unflatten(tree_structure(like), leaves)


def read_note(content: bytes) -> dict[str, Any]:
    """The note in such a file, and `crc32`, the checksum of its arrays.

    Raises:
      ValueError: the file is damaged, or has no note.
    """
    try:
        metadata = loads(content[8 : 8 + int.from_bytes(content[:8], "little")])[
            "__metadata__"
        ]
        return loads(metadata["note"]) | {"crc32": metadata["crc32"]}
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ValueError(
            "it is no .safetensors file, is damaged, or has no note"
        ) from None


class Checkpoint:
    """One file for one fit, saved periodically and removed at its end; the first process writes
    states that span processes, and all read.

    Args:
      folder: its folder.
      name: its file name.
      every: approximate seconds between two saves.
      fit: identifies the fit, since a state does not say what led to it.
    """

    def __init__(
        self,
        folder: Folder | str,
        name: str = "state.safetensors",
        *,
        every: float = 60.0,
        fit: str = "",
    ):
        self.folder = Folder(folder)
        self.name = name
        self.every = every
        self.fit = fit

    def named(self, fit: str) -> "Checkpoint":
        """The same file for the fit of this name."""
        return Checkpoint(self.folder, self.name, every=self.every, fit=fit)

    def store(self, state: PyTree, seconds: float) -> None:
        """Saves a state and the seconds spent on it, in place of an earlier one. A full disk causes
        only a warning.
        """
        spans = any(
            isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
            for leaf in tree_leaves(state)
        )
        whole = distributed.whole(state)
        if distributed.is_first() or not spans:
            note = {"fit": self.fit, "seconds": float(seconds)}
            try:
                self.folder.write(self.name, dump(whole, note))
            except OSError as error:
                logging.warning("going on without saving the fit: %s", error)

    def load(self, like: PyTree) -> tuple[PyTree, float] | None:
        """The saved state and its seconds; None if there is no file, or it is damaged or of another
        fit.
        """
        try:
            content = self.folder.read(self.name)
            note = read_note(content)
            if note.get("fit") != self.fit:
                raise ValueError("it is of another fit")
            state = load(content, like)
            seconds = float(note["seconds"])
        except FileNotFoundError:
            return None
        except (KeyError, TypeError, ValueError) as error:
            logging.warning(
                "starting over: %s/%s cannot be used: %s", self.folder, self.name, error
            )
            return None
        logging.info(
            "going on from %s/%s, after %.0f s", self.folder, self.name, seconds
        )
        return state, seconds

    def discard(self) -> None:
        """Removes the file, if possible, once the results of the fit are safe."""
        with suppress(OSError):
            self.folder.remove(self.name)


def _named(tree: PyTree) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path) or "tree", leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _form(leaf: Any) -> str:
    """Type and shape of an array in a file, where a random key is stored as its words."""
    if is_key(leaf):
        leaf = eval_shape(key_data, leaf)
    return f"{np.dtype(leaf.dtype)} of shape {tuple(leaf.shape)}"


def _restored(saved: Any, like: Any) -> Any:
    """An array on the devices of `like`, if that is committed to any."""
    array = jnp.asarray(saved)
    if is_key(like):
        array = wrap_key_data(array)
    # Keep uncommitted arrays uncommitted: JAX compiles again for each array that becomes committed.
    if getattr(like, "committed", False):
        return devices.put(array, like.sharding)
    return array
