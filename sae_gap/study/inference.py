"""Codes on one model: each encoder run once on a split, however many methods and metrics ask."""

import dataclasses
import time
from collections.abc import Container
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sae_gap.core import identity
from sae_gap.core.codes import DENSE_LATENTS, DENSE_NUMBERS, infer_in_chunks
from sae_gap.core.types import Coded, Model, Task
from sae_gap.encoders.encoder import Encoder
from sae_gap.runtime import devices
from sae_gap.storage import results

# Numbers of a chunk of dense codes, where their non-zeros are kept.
_CHUNK = 2**24


def name_of(encoder: Encoder) -> str:
    """What tells an encoder with its hyper-parameters from others."""
    return results.key({"encoder": identity.describe(encoder)})


class Inference:
    """What the encoders make of the splits of a task on one model, on the devices of this process.

    Args:
      task: the data, in the memory of this process, as is the model.
      model: the dictionary and the parameters of its encoder.
    """

    def __init__(self, task: Task, model: Model):
        self.task = task
        # What trained the model is no part of what is inferred on it, and would compile anew for each kind.
        self.model = dataclasses.replace(model, encode=None)
        self._found: dict[tuple[str, str], tuple[Coded, float]] = {}

    @property
    def _width(self) -> int:
        """How wide codes may be: an oracle or a probe has as many as the truth, whatever the width to learn."""
        maps = (leaf for leaf in jax.tree.leaves(self.model) if np.ndim(leaf) == 2)
        return max([self.task.width, *(leaf.shape[1] for leaf in maps)])

    @property
    def _in_chunks(self) -> bool:
        return self._width > DENSE_LATENTS or self._sparse

    @property
    def _sparse(self) -> bool:
        """Whether codes are held by their non-zeros: of few latents in many samples, all of which are active in some."""
        samples = max(len(self.task.id.signals), len(self.task.ood.signals))
        return self._width <= DENSE_LATENTS and samples * self._width > DENSE_NUMBERS

    def infer(self, encoder: Encoder, split: str) -> Coded:
        """The codes on a split, with their certificate where the encoder has one."""
        return self._run(encoder, split)[0]

    def seconds(self, encoder: Encoder) -> float:
        """What the ID split takes, compilation apart, from the signals on."""
        own = self._run(encoder, "id")[1]
        return own + (0.0 if encoder.origin is None or self._in_chunks else self.seconds(encoder.origin))

    def forget(self, kept: Container[str]) -> None:
        """Drops the codes of all encoders but those of some names, which others still need."""
        self._found = {place: found for place, found in self._found.items() if place[0] in kept}

    def _run(self, encoder: Encoder, split: str) -> tuple[Coded, float]:
        name = name_of(encoder)
        if (name, split) not in self._found:
            mesh = devices.own_mesh()
            signals = jax.block_until_ready(devices.place(getattr(self.task, split).signals, mesh))
            begun = None
            if encoder.origin is not None and not self._in_chunks:
                begun = jax.block_until_ready(devices.place(self.infer(encoder.origin, split).codes, mesh))
            # A run that compiles is repeated, once, for its time; only the ID split is timed.
            for _ in range(2):
                compiled, started = devices.compilations(), time.perf_counter()
                coded = jax.block_until_ready(self._infer(encoder, signals, begun))
                seconds = time.perf_counter() - started
                if split != "id" or devices.compilations() == compiled:
                    break
            self._found[name, split] = coded, seconds
        return self._found[name, split]

    def _infer(self, encoder: Encoder, signals: Float[Array, "n input_dim"], begun: Any) -> Coded:
        if not self._in_chunks:
            return encoder.infer(self.model, signals, begun)
        # No more dense codes than those of a chunk are ever held; a start is found anew for each.
        size = max(100, _CHUNK // self._width) if self._sparse else 100
        return infer_in_chunks(lambda chunk: encoder.infer(self.model, jnp.asarray(chunk)), signals, size, sparse=self._sparse)
