"""Codes on one model: each encoder run once on a split, however many methods and metrics ask."""

import dataclasses
import time
from collections.abc import Container
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jaxtyping import Array, Float

from sae_gap.core import identity
from sae_gap.core.codes import DENSE_LATENTS, DENSE_NUMBERS, Codes, infer_in_chunks, join
from sae_gap.core.types import Coded, Model, Task
from sae_gap.encoders.encoder import Encoder
from sae_gap.runtime import devices, distributed
from sae_gap.storage import results

# Numbers of a chunk of dense codes, where their non-zeros are kept.
_CHUNK = 2**24


def name_of(encoder: Encoder) -> str:
    """What tells an encoder with its hyper-parameters from others."""
    return results.key({"encoder": identity.describe(encoder)})


class Inference:
    """What the encoders make of the splits of a task on one model.

    Each process codes its share of the samples on its own devices, and all have all codes then.

    Args:
      task: the data, in the memory of this process alone, as is the model.
      model: the dictionary and the parameters of its encoder.
    """

    def __init__(self, task: Task, model: Model):
        self.task = task
        # What trained the model is no part of what is inferred on it, and would compile anew for each kind.
        self.model = dataclasses.replace(model, encode=None)
        self._found: dict[tuple[str, str], tuple[Coded, float]] = {}

    @property
    def _in_chunks(self) -> bool:
        return self.task.num_latents > DENSE_LATENTS or self._sparse

    @property
    def _sparse(self) -> bool:
        """Whether codes are held by their non-zeros: of few latents in many samples, all of which are active in some."""
        samples, width = max(len(self.task.id.signals), len(self.task.ood.signals)), self.task.num_latents
        return width <= DENSE_LATENTS and samples * width > DENSE_NUMBERS

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
            whole = getattr(self.task, split).signals
            rows = distributed.share(len(whole))
            signals = self._placed(whole, rows)
            begun = None
            if encoder.origin is not None and not self._in_chunks:
                begun = self._placed(self.infer(encoder.origin, split).codes, rows)
            seconds = jnp.inf
            # A run that compiles is repeated, once, for its time; only the ID split is timed.
            for _ in range(2):
                compiled, started = devices.compilations(), time.perf_counter()
                solution = jax.block_until_ready(self._infer(encoder, signals, begun))
                seconds = time.perf_counter() - started
                if split != "id" or devices.compilations() == compiled:
                    break
            self._found[name, split] = _whole(solution, len(whole)), max(distributed.gather(seconds))
        return self._found[name, split]

    def _placed(self, array: Any, rows: np.ndarray) -> Any:
        """An array's rows that are this process's to code, on its devices."""
        own = array if distributed.count() == 1 else np.asarray(array)[rows]
        return jax.block_until_ready(devices.place(own, devices.own_mesh()))

    def _infer(self, encoder: Encoder, signals: Float[Array, "n input_dim"], begun: Any) -> Coded:
        if not self._in_chunks:
            return encoder.infer(self.model, signals, begun)
        # No more dense codes than those of a chunk are ever held; a start is found anew for each.
        size = max(100, _CHUNK // self.task.num_latents) if self._sparse else 100
        return infer_in_chunks(lambda chunk: encoder.infer(self.model, jnp.asarray(chunk)), signals, size, sparse=self._sparse)


def _whole(coded: Coded, num_samples: int) -> Coded:
    """The codes of all samples, of which each process has its share."""
    if distributed.count() == 1:
        return coded
    pieces = distributed.gather(jax.tree.map(lambda leaf: leaf if scipy.sparse.issparse(leaf) else np.asarray(leaf), coded))
    if isinstance(coded.codes, Codes) or scipy.sparse.issparse(coded.codes):
        every = [piece.codes for piece in pieces]
        joined = (join(every) if isinstance(coded.codes, Codes) else scipy.sparse.csr_array(scipy.sparse.vstack(every)))[
            :num_samples
        ]
        rest = [dataclasses.replace(piece, codes=None) for piece in pieces]
    else:
        joined, rest = None, pieces
    found = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:num_samples], *rest)
    return found if joined is None else dataclasses.replace(found, codes=joined)


__all__ = ["Inference", "name_of"]
