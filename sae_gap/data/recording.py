"""A user's file of a task: activations that are split already, with the truth or parts of it."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from sae_gap.core import SEED, Split, Task, check_size, float_type, option, settle
from sae_gap.data import fetched
from sae_gap.storage import Tensors, file_digest, reading

# The arrays of the file.
_NAMES = ("Y_train", "Y_val", "Y_ood", "A", "Z_train", "Z_val", "Z_ood")


def load(path: str | Path, *, width: int | None = None) -> Task:
    """Reads a task from an .npz file of activations.

    The file holds `Y_train`, `Y_val` and `Y_ood` (samples as rows) and optionally the truth:
    `Z_train`, `Z_val`, `Z_ood` (codes, samples as rows) and `A` (the dictionary, input_dim x
    num_latents). Pickled arrays are refused, never loaded.

    Args:
      path: the file, or its URL in a bucket.
      width: atoms of the dictionaries to learn; None takes the number of true ones.

    Returns:
      The task, in the default float type. Parts of the truth that the file lacks are None.

    Raises:
      ValueError: the file does not hold such a task, or an argument is out of range; the message
        names the fault and the mend.
    """
    file = fetched(path)
    if width is not None:
        check_size("width", width)
    arrays = {}
    with (
        reading(file, "arrays in an .npz file"),
        np.load(file, allow_pickle=False) as archive,
        np.errstate(over="ignore"),
    ):
        for name in archive.keys() & _NAMES:
            part = archive[name]
            arrays[name] = (
                part.astype(float_type()) if part.dtype.kind in "fiu" else part
            )
    tensors = Tensors(file, arrays)
    input_dim = tensors.shape("Y_train")[1]
    widths = [tensors.shape(name)[1] for name in _NAMES[3:] if name in tensors]
    if not widths and width is None:
        raise ValueError(
            f"{path} holds neither codes nor a dictionary, so how many atoms to learn is unknown; "
            "give width."
        )

    def matrix(name: str, rows: int) -> Any:
        if name not in tensors:
            return None
        return jnp.asarray(tensors.take(name, rows, widths[0]))

    def split(name: str) -> Split:
        signals = tensors.take(f"Y_{name}", tensors.shape(f"Y_{name}")[0], input_dim)
        return Split(jnp.asarray(signals), matrix(f"Z_{name}", len(signals)))

    dictionary = matrix("A", input_dim)
    width = int(width or widths[0])
    return Task(split("train"), split("val"), split("ood"), dictionary, width=width)


@dataclass(frozen=True)
class Recording:
    """A user's activations that are split already; it replaces a `Setting`. `HeldOut` splits
    others.

    Args:
      path: an .npz file, as `load` reads it, or its URL.
      width: atoms of the dictionaries to learn; None takes the number of true ones.
      sparsity: k of the encoders that need one.
      seed: seeds the learners.
    """

    path: Path
    width: int | None = option(default=None)
    sparsity: int = option(default=10)
    seed: int = option(default=0, **SEED)

    def __post_init__(self):
        object.__setattr__(self, "path", fetched(self.path))
        settle(self)

    def task(self) -> Task:
        """Returns the splits of the file, with the seed of this recording."""
        return replace(self._content()[0], seed=self.seed)

    def _content(self) -> tuple[Task, str]:
        modified = self.path.stat().st_mtime_ns if self.path.is_file() else 0
        return _read(self.path, self.width, modified)

    @property
    def input_dim(self) -> int:
        """Dimension of the signals."""
        return self._content()[0].input_dim

    @property
    def num_train(self) -> int:
        """Number of training samples."""
        return len(self._content()[0].train.signals)

    def asdict(self) -> dict[str, Any]:
        """Returns the values that tell recordings apart: the content of the file, not its path."""
        task, content = self._content()
        # Those to learn, if the truth is unknown.
        known = (task.dictionary, task.train.codes, task.id.codes, task.ood.codes)
        truth = next((part.shape[1] for part in known if part is not None), task.width)
        return ({} if truth == task.width else {"width": task.width}) | {
            "data": content,
            "num_latents": truth,
            "sparsity": self.sparsity,
            "num_samples": len(task.train.signals) + len(task.id.signals),
            "input_dim": task.input_dim,
            "seed": self.seed,
        }


@lru_cache(maxsize=1)
def _read(path: Path, width: int | None, modified: int) -> tuple[Task, str]:
    """Reads a task and the digest of its file, once for all seeds unless the file changes."""
    return load(path, width=width), file_digest(path)
