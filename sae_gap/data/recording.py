"""A user's activations in the place of a setting of the generative model."""

import dataclasses
import functools
import pathlib
import typing
from typing import Any

from absl import logging

from sae_gap.core.checks import SEED, check_path, check_sequence, check_type, shown
from sae_gap.core.options import option, settle
from sae_gap.core.types import Split, Task
from sae_gap.data.activations import Activations, fetched, open_activations
from sae_gap.data.activations.tables import DOCUMENTS
from sae_gap.data.digest import file_digest
from sae_gap.data.paper import draw
from sae_gap.data.task_file import load
from sae_gap.runtime import devices


@dataclasses.dataclass(frozen=True)
class Recording:
    """A user's activations, in the place of a `Setting`.

    Args:
      path: an .npz file, as `load` reads it; with `held_out`, whatever `open_activations` reads.
        Either may be a URL.
      width: atoms of the dictionaries to learn; None takes as many as the truth has.
      sparsity: k of the encoders that need one.
      seed: seeds the learners.
      held_out: share of the rows to hold out, by `Activations.split`, the same ones whatever the
        seed. Held-out rows are both scored splits, and the rest is trained on. Each process reads
        the rows of its own devices, see `devices.read_rows`. None reads a file that is split
        already.
      key: with `held_out`, the name of the array.
      keep_outliers: with `held_out`, whether outlier tokens stay, see
        `sae_gap.data.activations.outliers`. Left out, they change no other row's part. Learners see
        those that stay scaled down, scores as they are.
    """

    path: pathlib.Path
    width: int | None = option(default=None)
    sparsity: int = option(default=10)
    seed: int = option(default=0, **SEED)
    held_out: float | None = option(default=None, above=0, below=1)
    key: str | None = None
    keep_outliers: bool = option(default=False)

    def __post_init__(self):
        check_path("path", self.path)
        object.__setattr__(self, "path", fetched(self.path))
        check_type("key", self.key, (str, type(None)), "give the name of an array")
        settle(self)

    def task(self) -> Task:
        """The splits of the file, with the seed of this recording."""
        return dataclasses.replace(self._content()[0], seed=self.seed)

    def _content(self) -> tuple[Task, str]:
        files = (self.path,) if self.held_out is None else self.activations().files
        # The documents of rows may lie in files beside them.
        files += tuple(file.with_suffix(f".{DOCUMENTS}.npy") for file in files)
        modified = tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)
        return _read(self.path, self.width, self.held_out, self.key, self.keep_outliers, modified)

    def activations(self) -> Activations:
        """All rows, outliers included, of a recording that is not split already."""
        return open_activations(self.path, key=self.key)

    @property
    def input_dim(self) -> int:
        """Dimension of the signals."""
        return self._content()[0].input_dim

    @property
    def num_train(self) -> int:
        """Number of training samples."""
        return len(self._content()[0].train.signals)

    def asdict(self) -> dict[str, Any]:
        """What tells recordings apart: the content of the file, wherever it lies."""
        task, content = self._content()
        held = {} if self.held_out is None else {"held_out": self.held_out, "array": self.key}
        truth = _true_latents(task)
        if truth != task.width:
            held["width"] = task.width
        return held | {
            "data": content,
            "num_latents": truth,
            "sparsity": self.sparsity,
            "num_samples": len(task.train.signals) + len(task.id.signals),
            "input_dim": task.input_dim,
            "seed": self.seed,
        }


@functools.lru_cache(maxsize=1)
def _read(
    path: pathlib.Path,
    width: int | None,
    held_out: float | None,
    key: str | None,
    keep_outliers: bool,
    modified: tuple[int, ...],
) -> tuple[Task, str]:
    """The task in files and a digest of it, read once for all seeds unless a file changes."""
    if held_out is None:
        return load(path, width=width), file_digest(path)
    whole = open_activations(path, key=key)
    if not keep_outliers and len(whole.outliers.rows):
        logging.warning("left out: %s", whole.outliers)
        whole = whole.without_outliers()
    return _split(whole, width, held_out), whole.fingerprint()


def _split(whole: Activations, width: int | None, held_out: float) -> Task:
    if width is None:
        raise ValueError(f"{whole.files[0]} does not tell how many atoms to learn; give width.")
    parts = whole.split(held_out)
    train, held = (
        Split(devices.read_rows(part.take, part.num_samples, part.input_dim)) for part in parts
    )
    return Task(train, held, held, width=width)


def _true_latents(task: Task) -> int:
    """How many latents the truth has, or where nothing is known of it, as many as are learned."""
    known = (task.dictionary, *(split.codes for split in (task.train, task.id, task.ood)))
    return next((part.shape[1] for part in known if part is not None), task.width)


@typing.runtime_checkable
class Source(typing.Protocol):
    """Where the data of a study comes from: a `Setting`, a `World`, or whatever else has a seed, a
    dimension, what tells it from others, and `task()`.
    """

    @property
    def seed(self) -> int:
        """Seeds the learners; sources that differ in it alone are fitted together."""
        ...

    @property
    def input_dim(self) -> int | None:
        """Dimension of the signals."""
        ...

    def asdict(self) -> dict[str, Any]:
        """What decides the data, as rows and keys have it."""
        ...


def check_sources(sources: Any) -> None:
    """Raises a TypeError or a ValueError unless it is a list of sources, of which none is read."""
    check_sequence("sources", sources, object, "give settings, worlds or recordings")
    for place, source in enumerate(sources):
        if not hasattr(type(source), "asdict"):
            raise TypeError(
                f"sources[{place}] must be a setting, a world or a recording, but it is "
                f"{shown(source)}; give settings, worlds or recordings."
            )


def task_of(source: Any) -> Task:
    """The data of a source, drawn or read."""
    return source.task() if hasattr(source, "task") else draw(source)
