"""Codes on one model: each encoder runs once on a split, however many methods and metrics ask."""

from collections.abc import Callable, Container, Sequence
from dataclasses import fields, replace
from time import perf_counter
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import block_until_ready, default_matmul_precision
from jax.tree_util import tree_leaves
from jaxtyping import Array, Float

from sae_gap.core import (
    DENSE_LATENTS,
    DENSE_NUMBERS,
    Coded,
    Model,
    Split,
    Task,
    Transcoder,
    evenly_spaced,
    infer_in_chunks,
)
from sae_gap.encoders import Encoder
from sae_gap.learners import Given
from sae_gap.metrics import SCORED, Inferred
from sae_gap.runtime import devices
from sae_gap.study import Method

# The most dense codes that are held at once where only their non-zeros are kept.
_DENSE_CODES = 2**24
# Training rows on which encoders find parameters for a requested L0, if a study calibrates on them.
CALIBRATED = 2_000


class Inference:
    """The codes of encoders for the splits of a task on one model, on this process's devices.

    Args:
      task: the data, in the memory of this process, as is the model.
      model: the dictionary and the parameters of its encoder.
      calibrate_on: "scored" or "train", see `Study`.
      timed: whether to repeat a run that compiled, for its seconds.
    """

    def __init__(
        self, task: Task, model: Model, calibrate_on: str = "scored", timed: bool = True
    ):
        self.task = task
        # Inference does not need the encoder that the model was trained with, which would compile
        # again for each kind.
        self.model = replace(model, encode=None)
        self._given = model
        self._calibrate_on = calibrate_on
        self._timed = timed
        self._signals: Any = {}
        self._shared: Any = {}
        self._prepared: Any = {}
        self._coded: Any = {}
        # An oracle or a probe has as many latents as the truth, whatever the requested width.
        maps = (leaf for leaf in tree_leaves(model) if np.ndim(leaf) == 2)
        self._width = max([task.width, *(leaf.shape[1] for leaf in maps)])
        samples = max(len(task.id.signals), len(task.ood.signals))
        self._in_chunks = (
            self._width > DENSE_LATENTS or samples * self._width > DENSE_NUMBERS
        )

    def signals(self, split: str) -> Float[Array, "n input_dim"]:
        """The signals of a split as encoders see them, normalised as the model requires."""
        if split not in self._signals:
            with default_matmul_precision("highest"):
                rows = getattr(self.task, split)
                self._signals[split] = self.model.signals(rows.signals, rows.inputs)
        return self._signals[split]

    def read(self, encoder: Encoder, split: str) -> Float[Array, "n columns"]:
        """What an encoder reads of a split: the signals or, of a transcoder, the inputs."""
        if not (encoder.reads_inputs and isinstance(self.model, Transcoder)):
            return self.signals(split)
        inputs = getattr(self.task, split).inputs
        if inputs is None:
            raise ValueError(
                "a transcoder reads inputs, and these activations have none; give what its encoder "
                "reads as activations and what it explains as targets."
            )
        return inputs

    @property
    def scored(self) -> tuple[str, ...]:
        """The scored splits: only "id" if both are the same rows."""
        return SCORED[:1] if self.task.ood is self.task.id else SCORED

    @property
    def normalised(self) -> Task:
        """The task with signals as encoders see them."""
        held = {
            split: replace(getattr(self.task, split), signals=self.signals(split))
            for split in self.scored
        }
        return replace(self.task, **{"ood": held["id"]} | held)

    def prepare(self, encoder: Encoder) -> Encoder:
        """The encoder with its parameters for a requested L0 filled in, found once."""
        if encoder not in self._prepared:
            parts = {
                field.name: self.prepare(part)
                for field in fields(encoder)
                if isinstance(part := getattr(encoder, field.name), Encoder)
                and not encoder.elsewhere
            }
            whole = replace(encoder, **parts) if parts else encoder
            with default_matmul_precision("highest"):
                ready = whole.prepared(self._given, self._calibration, self.task)
            self._prepared[encoder] = self._prepared[ready] = ready
        return self._prepared[encoder]

    @property
    def _calibration(self) -> Split:
        if self._calibrate_on == "scored":
            return self.normalised.id
        if self._calibrate_on == "clean":
            clean = self.model.signals(self.task.network.unchanged, None)
            return replace(self.normalised.id, signals=clean)
        train = self.task.train
        few = evenly_spaced(len(train.signals), CALIBRATED)
        rows = np.asarray(train.signals)[few]
        inputs = None if train.inputs is None else np.asarray(train.inputs)[few]
        return Split(self.model.signals(rows, inputs), inputs=inputs)

    def infer(self, encoder: Encoder, split: str) -> Coded:
        """The codes on a split, with a certificate if the encoder has one."""
        return self._run(self.prepare(encoder), split)[0]

    def seconds(self, encoder: Encoder) -> float:
        """The seconds for the ID split, starting from the signals, without compilation."""
        encoder = self.prepare(encoder)
        before = () if self._in_chunks else map(self.seconds, encoder.origins)
        return sum(before) + self._run(encoder, "id")[1]

    def time(
        self,
        encoder: Encoder,
        samples: int,
        runs: int = 1,
        clock: Callable[[], float] = perf_counter,
    ) -> float:
        """The seconds for 1,000 samples by a clock, timed on the first of the ID split: the median
        of some runs after one that compiles.
        """
        encoder = self.prepare(encoder)
        rows = jnp.asarray(self.read(encoder, "id")[:samples])
        begun = [self.infer(each, "id").codes[: len(rows)] for each in encoder.origins]
        seconds = []
        for _ in range(1 + runs):
            began = clock()
            block_until_ready(self.code(encoder, rows, begun))
            seconds.append(clock() - began)
        before = sum(self.time(each, samples, runs, clock) for each in encoder.origins)
        return before + float(np.median(seconds[1:])) / len(rows) * 1_000

    def on_base(self, base: Given | None) -> "Inference":
        """Infers on the model of a learner's base; on this model without one."""
        return Inference(self.task, base.ready) if base else self

    def inferred(self, method: Method, **options: Any) -> Inferred:
        """A method's result, as metrics read it; the options are fields of `Inferred`."""
        return Inferred(
            self.normalised,
            self.model,
            shared=self._shared,
            method=method,
            inference=self,
            **options,
        )

    def forget(self, kept: Container[Encoder | None]) -> None:
        """Drops the codes of all encoders except those in `kept`, which others still need."""
        self._coded = {
            place: coded for place, coded in self._coded.items() if place[0] in kept
        }

    def _run(self, encoder: Encoder, split: str) -> tuple[Coded, float]:
        if (encoder, split) not in self._coded:
            mesh = devices.own_mesh()
            signals = block_until_ready(devices.place(self.read(encoder, split), mesh))
            begun = [self.infer(each, split).codes for each in encoder.origins]
            if not self._in_chunks:
                begun = block_until_ready(devices.place(begun, mesh))
            # A run that compiles is repeated once for its time; only the ID split is timed.
            for _ in range(2):
                compiled = devices.compilations()
                began = perf_counter()
                coded = block_until_ready(self.code(encoder, signals, begun))
                seconds = perf_counter() - began
                if (
                    not self._timed
                    or split != "id"
                    or devices.compilations() == compiled
                ):
                    break
            self._coded[encoder, split] = coded, seconds
        return self._coded[encoder, split]

    # Codes must not depend on the precision of training.
    @default_matmul_precision("highest")
    def code(
        self,
        encoder: Encoder,
        signals: Float[Any, "n columns"],
        begun: Sequence[Any] = (),
    ) -> Coded:
        """The codes of any signals, from an encoder that `prepare` returned and, if known, the
        codes of its origins.
        """
        if not self._in_chunks:
            return encoder.infer(self.model, signals, *begun)
        return infer_in_chunks(
            lambda chunk, *begun: encoder.infer(self.model, jnp.asarray(chunk), *begun),
            signals,
            max(100, _DENSE_CODES // self._width),
            begun=begun,
        )
