"""A user's activations as a source: rows to learn from, and rows of other documents to score."""

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import arange, concatenate, float32, pad, searchsorted, unique

from sae_gap.core import (
    FEWEST,
    Split,
    Task,
    Unread,
    check_type,
    check_varies,
    evenly_spaced,
)
from sae_gap.data import Activations
from sae_gap.runtime import devices
from sae_gap.storage import digest

# The share that is held out by default.
TENTH = 0.1


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Rows of activations. Held-out documents are scored, and learners see the rest.

    Args:
      activations: all activations or, with `held_out`, those that learners see.
      width: atoms of the dictionaries to learn.
      sparsity: mean L0 of the encoders that need one.
      samples: the most held-out rows to score, evenly spaced.
      keep_outliers: whether rows beyond ten times the median norm are learned from and scored like
        others. If not, outlier tokens are coded beside the scored rows, in the same share, but do
        not count.
      seed: seeds the learners, and the split unless `split_seed` is given.
      held_out: the activations to score, or the share of `activations` to hold out.
      split_seed: draws the held-out documents.
      together: whether all processes fit one learner together. Each process reads the rows of its
        own devices, and training uses all rows, rather than as many as one memory holds.
      learn_outliers: whether learners see outlier tokens although these are not kept.
      inputs: what a transcoder reads to explain the activations, and `held_out` of the same files,
        a row for each of all rows of the files.
      learn_from: the most rows that learners see, evenly spaced; None sets no limit but memory's.
    """

    activations: Activations
    width: int = 1
    sparsity: float = 1
    samples: int = 5_000
    keep_outliers: bool = False
    seed: int = 0
    held_out: Activations | float = TENTH
    split_seed: int | None = None
    together: bool = False
    learn_outliers: bool = False
    inputs: Activations | None = None
    learn_from: int | None = None

    def __post_init__(self):
        kinds = {"activations": (), "held_out": (float,), "inputs": (type(None),)}
        for name, others in kinds.items():
            mend = "open them by sae_gap.open_activations"
            check_type(name, getattr(self, name), (Activations, *others), mend)
        for name in ("activations", "held_out"):
            part = getattr(self, name)
            if self.inputs and isinstance(part, Activations):
                object.__setattr__(self, name, part.with_inputs(self.inputs))

    @property
    def input_dim(self) -> int:
        """Dimension of the rows."""
        return self.activations.input_dim

    @property
    def _given(self) -> Activations | None:
        """The activations to score, if they are not a share of those to learn from."""
        return self.held_out if isinstance(self.held_out, Activations) else None

    @cached_property
    def kept(self) -> Activations:
        """The activations, without outlier tokens unless these are kept."""
        return self._kept_of(self.activations)

    def _kept_of(self, rows: Activations) -> Activations:
        return rows if self.keep_outliers else rows.without_outliers()

    @cached_property
    def parts(self) -> tuple[Activations, Activations]:
        """The rows that learners see, and the held-out ones."""
        if self._given:
            return self.kept, self._kept_of(self._given)
        train, held = self._split(self.kept)
        if self.learn_outliers:
            train, _ = self._split(self.activations)
        return train, held

    @property
    def _split_seed(self) -> int:
        return self.seed if self.split_seed is None else self.split_seed

    def _split(self, rows: Activations) -> tuple[Activations, Activations]:
        return rows.split(self.held_out, self._split_seed)  # type: ignore[arg-type]

    @property
    def whole(self) -> Activations:
        """The activations of which all or a share are scored."""
        return self._given or self.activations

    @cached_property
    def places(self) -> Int[np.ndarray, " n"]:
        """The numbers of the scored rows within the held-out part."""
        return evenly_spaced(self.parts[1].num_samples, self.samples)

    @cached_property
    def scored(self) -> Float[np.ndarray, "n input_dim"]:
        """The held-out rows to score.

        Raises:
          ValueError: there are too few rows, or they do not vary.
        """
        rows = self.parts[1].take(self.places)
        if len(rows) < FEWEST:
            raise ValueError(
                f"{len(rows)} held-out activations are too few to judge by; give some hundreds."
            )
        check_varies(rows)
        return rows

    @cached_property
    def left_out(self) -> Float[np.ndarray, "m input_dim"]:
        """Held-out outlier tokens, in the same share as the scored rows, but at least one."""
        return self.whole.take(searchsorted(self.whole.numbers, self._outside))

    @cached_property
    def _outside(self) -> Int[np.ndarray, " m"]:
        """The numbers of these tokens among all rows of the files."""
        whole = self.whole
        if self.keep_outliers:
            return whole.numbers[:0]
        held = self._given or self._split(whole)[1]
        rows = np.intersect1d(held.numbers, whole.numbers[whole.outliers.rows])
        most = -(-len(rows) * len(self.places) // self.parts[1].num_samples)
        return rows[evenly_spaced(len(rows), most)]

    @property
    def _inside(self) -> Int[np.ndarray, " n"]:
        """The numbers of the scored rows among all rows of the files."""
        return self.parts[1].numbers[self.places]

    @property
    def scored_inputs(self) -> Float[np.ndarray, "n num_inputs"] | None:
        """What a transcoder reads of the held-out rows to score."""
        return self._read(self._inside)

    def _read(
        self, numbers: Int[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n num_inputs"] | None:
        """What a transcoder reads of rows, by their numbers among all rows of the files."""
        return self.inputs.take(numbers) if self.inputs else None

    @cached_property
    def members(self) -> Int[np.ndarray, " n"]:
        """The document of each scored row, or its run of neighbours, counted from 0."""
        rows = searchsorted(self.whole.numbers, self._inside)
        return unique(self.whole.groups[rows], return_inverse=True)[1]

    @property
    def counts(self) -> Bool[np.ndarray, " n"] | None:
        """True for the coded rows that count; None if all do."""
        extra = len(self.left_out)
        return arange(len(self.scored) + extra) < len(self.scored) if extra else None

    @property
    def num_train(self) -> int:
        """The number of rows that learners see."""
        train = self.parts[0]
        most = train.num_samples if self.together else train.num_pooled
        return min(most, self.learn_from or most)

    @cached_property
    def train(self) -> Unread:
        """The rows that learners see, evenly spaced, read once for all readers of the task."""
        train = self.parts[0]
        inputs = self.inputs
        numbers = evenly_spaced(train.num_samples, self.num_train)

        def read(part: Activations, places: Int[np.ndarray, " n"]) -> Any:
            if self.together:
                return devices.read_rows(
                    lambda rows: part.take(places[rows]), len(places), part.input_dim
                )
            return part.take(places)

        read_inputs: Any = inputs and partial(read, inputs, train.numbers[numbers])
        return Unread(partial(read, train, numbers), read_inputs)

    def task(self) -> Task:
        """Returns the rows that learners see, and the scored rows as one split."""
        members = pad(self.members, (0, len(self.left_out)))
        rows = concatenate([self.scored, self.left_out]).astype(float32)
        read = self._read(concatenate([self._inside, self._outside]))
        held = Split(rows, documents=members, counts=self.counts, inputs=read)
        return Task(self.train, held, held, width=self.width, seed=self.seed)

    def seen(self) -> dict[str, Any]:
        """Returns all that decides the rows that learners see."""
        found = {
            "activations": self.activations.fingerprint,
            "keep_outliers": self.keep_outliers,
            "input_dim": self.input_dim,
            "seed": self.seed,
        }
        if not self._given:
            found["split_seed"] = self._split_seed
            if self.held_out != TENTH:
                found["held_out"] = self.held_out
        if self.learn_outliers:
            found["learn_outliers"] = True
        if self.inputs:
            found["inputs"] = self.inputs.fingerprint
        if self.together or self.learn_from:
            found["learned_from"] = self.num_train
        # A given dictionary has neither.
        sizes = {"width": self.width, "sparsity": self.sparsity}
        return found | {name: size for name, size in sizes.items() if size != 1}

    def asdict(self) -> dict[str, Any]:
        """Returns all that decides the data and the fits."""
        held = self._given.fingerprint if self._given else "none"
        every = digest([self.activations.fingerprint, held])
        found = {"activations": every, "samples": self.samples}
        if self.whole.documents is None:
            found["runs"] = digest([self.members])
        return self.seen() | found
