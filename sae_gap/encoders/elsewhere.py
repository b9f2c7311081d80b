"""Encoders under other conditions: at the weight of a lasso, on another model, in another norm."""

import abc
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sae_gap.core import Coded, Model, Task
from sae_gap.encoders import Encoder, Inferring, Lasso


class _Of(Encoder):
    """An encoder that applies another one under other conditions."""

    listed = False

    encoder: Encoder

    def flops(self, input_dim, num_latents):
        """Returns those of the encoder."""
        return self.encoder.flops(input_dim, num_latents)

    @property
    def signed(self):
        return self.encoder.signed


class AtWeight(_Of):
    """An encoder with a weight λ, at a lasso's λ: `prepared` returns the encoder itself.

    Args:
      encoder: an encoder with a field `lam`.
      lasso: the lasso whose λ it takes, such as that of a requested L0.
    """

    lasso: Lasso

    @property
    def name(self):  # type: ignore[override]
        return self.encoder.name

    def prepared(self, model, split, task):
        whole: Any = super().prepared(model, split, task)
        return replace(whole.encoder, lam=whole.lasso.lam)

    def __call__(self, model, signals):
        return self.prepared(model, None, None)(model, signals)


class Known:
    """What `prepared` found. It equals only itself, so that its encoder has a hash."""

    def __init__(self, value: Any):
        self.value = value


class Elsewhere(Inferring, _Of):
    """An encoder of other signals on another model, which `known` decides.

    Args:
      encoder: the encoder to apply.
      known: `prepared` finds it.
    """

    elsewhere = True

    known: Known | None = eqx.field(default=None, static=True, metadata={"rare": True})

    @abc.abstractmethod
    def learned(self, task: Task) -> Any:
        """Returns the value of `known`."""

    @abc.abstractmethod
    def moved(self, value: Any, model: Model, rows: Array) -> tuple[Model, Array]:
        """Returns the other model, and its signals for rows as this encoder reads them."""

    def prepared(self, model, split, task):
        if self.known is not None:
            return self
        known = Known(self.learned(task))
        rows = jnp.asarray(split.inputs if self.reads_inputs else split.signals)
        model, signals = self.moved(known.value, model, rows)
        # Padding stays padding.
        signals = jnp.where(jnp.any(rows != 0, axis=1, keepdims=True), signals, 0)
        split = replace(split, signals=signals)
        encoder = self.encoder.prepared(model, split, task)
        return replace(self, encoder=encoder, known=known)

    def infer(self, model, signals, begun=None):
        known: Any = self.known
        return Coded(self.encoder.infer(*self.moved(known.value, model, signals)).codes)


class InNorm(Elsewhere):
    """An encoder of `A (y - b)` on the atoms `A D`: its codes keep `‖A (y - b - D z)‖` small
    instead of `‖y - b - D z‖`.

    `AᵀA = I + F / mean(diag F)`, where F is the cost of errors in nats, from the task's network on
    training documents.
    """

    colour = "#009988"
    rank = 17

    @property
    def name(self):  # type: ignore[override]
        return f"weighted_{self.encoder.name}"

    def learned(self, task):
        if task.network is None:
            raise ValueError(
                "weighted codes ask a network what errors cost, and there is none behind these "
                "rows; leave them out, or give --recording."
            )
        values, vectors = np.linalg.eigh(task.network.information())
        root = np.sqrt(1 + values.clip(0) / values.mean())
        return ((vectors * root) @ vectors.T).astype(np.float32)

    def moved(self, value, model, rows):
        inside = Model(jnp.asarray(value) @ model.decoder, jnp.zeros_like(model.bias))
        return inside, (rows - model.bias) @ value
