"""Codes on one model: each encoder run once on a split, however many methods and metrics ask."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sae_gap import devices, identity, results
from sae_gap.codes import DENSE_LATENTS, infer_in_chunks
from sae_gap.encoders.base import Encoder
from sae_gap.types import Coded, Model, Task


class Inference:
    """What the encoders make of the splits of a task on one model.

    Args:
      task: the data.
      model: the dictionary and the parameters of its encoder.
    """

    def __init__(self, task: Task, model: Model):
        self.task = task
        # What trained the model is no part of what is inferred on it, and would compile anew for each kind.
        self.model = dataclasses.replace(model, encode=None)
        self._found: dict[tuple[str, str], tuple[Coded, float]] = {}

    def infer(self, encoder: Encoder, split: str) -> Coded:
        """The codes on a split, with their certificate where the encoder has one."""
        return self._run(encoder, split)[0]

    def seconds(self, encoder: Encoder) -> float:
        """What the ID split takes, compilation apart, from the signals on."""
        own = self._run(encoder, "id")[1]
        return own + (0.0 if encoder.origin is None else self.seconds(encoder.origin))

    def _run(self, encoder: Encoder, split: str) -> tuple[Coded, float]:
        name = results.key({"encoder": identity.describe(encoder)})
        if (name, split) not in self._found:
            signals = getattr(self.task, split).signals
            begun = None if encoder.origin is None else self.infer(encoder.origin, split).codes
            seconds = jnp.inf
            # A run that compiles is repeated, once, for its time; only the ID split is timed.
            for _ in range(2):
                compiled, started = devices.compilations(), time.perf_counter()
                solution = jax.block_until_ready(self._infer(encoder, signals, begun))
                seconds = time.perf_counter() - started
                if split != "id" or devices.compilations() == compiled:
                    break
            self._found[name, split] = solution, seconds
        return self._found[name, split]

    def _infer(self, encoder: Encoder, signals: Float[Array, "n input_dim"], begun: Any) -> Coded:
        if self.task.num_latents <= DENSE_LATENTS:
            return encoder.infer(self.model, signals, begun)
        # No more dense codes than those of a chunk are ever held; a start is found anew for each.
        return infer_in_chunks(lambda chunk: encoder.infer(self.model, jnp.asarray(chunk)), signals)


__all__ = ["Inference"]
