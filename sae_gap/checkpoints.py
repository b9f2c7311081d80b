"""A file that a long fit saves its state to, so that a killed one goes on where it was."""

import contextlib
import io
import pathlib
import zipfile
import zlib

import jax
import numpy as np
from absl import logging
from jaxtyping import PyTree

from sae_gap.results import write_atomically


class Checkpoint:
    """One file for one fit. Its name must tell the fit from all others: a state says nothing of what it was reached by.

    Args:
      path: the file; made with its folder when there is something to save.
      every: seconds between two saves, about.
    """

    def __init__(self, path: pathlib.Path, every: float = 60.0):
        self.path, self.every = path, every

    def steps(self, pace: float) -> int:
        """Steps until the next save, of a fit that takes `pace` seconds to a step."""
        return max(1, int(self.every / max(pace, 1e-6)))

    def store(self, state: PyTree, seconds: float) -> None:
        """Saves a state and the seconds spent on reaching it, in place of an earlier one; a full disk is only warned of."""
        buffer = io.BytesIO()
        arrays = {"seconds": np.asarray(seconds)} | {f"leaf{i}": leaf for i, leaf in enumerate(_leaves(state))}
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, buffer.getvalue())
        except OSError as error:
            logging.warning("going on without a checkpoint: %s cannot be written (%s)", self.path, error)

    def load(self, like: PyTree) -> tuple[PyTree, float] | None:
        """The saved state and its seconds; None where there is no file, or it holds something unlike the given state."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                saved = [file[f"leaf{i}"] for i in range(len(file.files) - 1)]
                seconds = float(file["seconds"])
        except FileNotFoundError:
            return None
        except (OSError, TypeError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            logging.warning("starting over: the checkpoint %s cannot be read (%s)", self.path, error)
            return None
        wanted = _leaves(like)
        if [(leaf.shape, leaf.dtype) for leaf in saved] != [(leaf.shape, leaf.dtype) for leaf in wanted]:
            logging.warning("starting over: the checkpoint %s is of another state", self.path)
            return None
        logging.info("going on from %s, after %.0f s", self.path, seconds)
        return jax.tree.unflatten(jax.tree.structure(like), list(map(_restored, saved, jax.tree.leaves(like)))), seconds

    def discard(self) -> None:
        """Removes the file, of a fit whose results are safe, and its folder if that is empty then."""
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()


def _is_key(leaf) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _leaves(state: PyTree) -> list[np.ndarray]:
    return [np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for leaf in jax.tree.leaves(state)]


def _restored(saved: np.ndarray, like) -> jax.Array:
    if _is_key(like):
        return jax.random.wrap_key_data(jax.numpy.asarray(saved), impl=jax.random.key_impl(like))
    return jax.device_put(saved, like.sharding)
