"""A user's file of activations in the place of a setting of the generative model."""

import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

from sae_gap.data import draw, load
from sae_gap.types import Setting, Task, check_seed, check_size


@dataclasses.dataclass(frozen=True)
class Recording:
    """A user's file of activations, in the place of a `Setting`.

    Args:
      path: an .npz file, as `load` reads it.
      num_latents: width of the dictionaries to learn; None takes the truth's.
      sparsity: k of the encoders that need one.
      seed: seeds the learners.
    """

    path: pathlib.Path
    num_latents: int | None = None
    sparsity: int = 10
    seed: int = 0

    def __post_init__(self):
        check_size("sparsity", self.sparsity)
        check_seed(self.seed)
        if self.num_latents is not None:
            check_size("num_latents", self.num_latents)

    def task(self) -> Task:
        return dataclasses.replace(self._content()[0], seed=self.seed)

    def _content(self) -> tuple[Task, str]:
        return _read(self.path, self.num_latents, self.path.stat().st_mtime_ns if self.path.is_file() else 0)

    @property
    def input_dim(self) -> int:
        return self._content()[0].input_dim

    @property
    def num_train(self) -> int:
        return len(self._content()[0].train.signals)

    def asdict(self) -> dict[str, Any]:
        """What tells recordings apart: the content of the file, wherever it lies."""
        task, digest = self._content()
        return {
            "data": digest,
            "num_latents": task.num_latents,
            "sparsity": self.sparsity,
            "num_samples": len(task.train.signals) + len(task.id.signals),
            "input_dim": task.input_dim,
            "seed": self.seed,
        }


@functools.lru_cache(maxsize=1)
def _read(path: pathlib.Path, num_latents: int | None, modified: int) -> tuple[Task, str]:
    """The task in a file and a digest of the file, read once for all seeds unless the file changes."""
    task = load(path, num_latents=num_latents)
    with path.open("rb") as file:
        return task, hashlib.file_digest(file, "sha256").hexdigest()[:16]


Source = Setting | Recording


def task_of(source: Source) -> Task:
    """The data of a source, drawn or read."""
    return draw(source) if isinstance(source, Setting) else source.task()


__all__ = ["Recording", "Source", "task_of"]
