"""Encoders made from others: with fewer atoms, at another weight, or in another norm."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sae_gap.core.checks import check_type
from sae_gap.core.options import option
from sae_gap.core.rows import counted
from sae_gap.core.types import Coded, Model
from sae_gap.encoders.encoder import Encoder, Inferring, unit_atoms
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.on_support import OnSupport, Refined
from sae_gap.encoders.screened_pursuit import least_gain
from sae_gap.solvers.screened import leave_one_out


class Pruned(Refined):
    """Least squares on the atoms of an encoder's codes whose worth exceeds one threshold for all
    samples.

    The worth is the rise in the least-squares error without the atom, as in `leave_one_out`, or the
    magnitude of the code. D has unit atoms.

    Args:
      encoder: the encoder; worth by "loss" refits its codes by least squares.
      l0: atoms that stay on average, on the rows where `prepared` finds the threshold.
      by: "loss" or "magnitude".
      nonneg: whether codes are non-negative.
      threshold: the least worth to stay; `prepared` finds it.
    """

    listed = False
    colour = "#EE7733"
    rank = 16

    l0: float = option(default=10.0, static=True, above=0)
    by: str = option(default="loss", choices=("loss", "magnitude"))
    nonneg: bool = option(default=True)
    threshold: float | None = option(default=None, static=True, rare=True)

    @property
    def name(self):  # type: ignore[override]
        return f"{self.encoder.name}_pruned"

    @property
    def fitted(self):  # type: ignore[override]
        return 2 if self.by == "loss" else 1

    @property
    def signed(self):
        return not self.nonneg

    def flops(self, input_dim, num_latents):
        return self.encoder.flops(input_dim, num_latents)

    def prepared(self, model, split, task):
        whole: Any = super().prepared(model, split, task)
        if self.threshold is not None:
            return whole
        rows = split.counted
        codes = whole.encoder.infer(model, jnp.asarray(rows[counted(rows)])).codes
        least = float(least_gain(self._worth(model, codes), self.l0))
        return dataclasses.replace(whole, threshold=least)

    def _worth(self, model: Model, codes: Any) -> Float[Array, "n num_latents"]:
        atoms, norms = unit_atoms(model.decoder)
        scaled = jnp.asarray(codes) * norms
        return jnp.abs(scaled) if self.by == "magnitude" else leave_one_out(atoms, scaled)

    def infer(self, model, signals, begun=None):
        codes = self.encoder.infer(model, signals).codes if begun is None else begun
        least = jnp.asarray(self.threshold)
        kept = jnp.where(self._worth(model, codes) > least, codes, 0)
        return OnSupport(self.encoder, 0.0, self.nonneg, 0.0).infer(model, signals, kept)


class _Of(Encoder):
    """An encoder that applies another one under other conditions."""

    listed = False

    encoder: Encoder

    @property
    def signed(self):
        return self.encoder.signed

    def flops(self, input_dim, num_latents):
        return self.encoder.flops(input_dim, num_latents)


class AtWeight(_Of):
    """An encoder with a weight λ, at a lasso's λ: `prepared` returns the encoder itself.

    Args:
      encoder: an encoder with a field `lam`.
      lasso: the lasso whose λ it takes, such as that of a requested L0.
    """

    lasso: Lasso

    def __check_init__(self):
        check_type("lasso", self.lasso, Lasso, "give the lasso whose weight to take")

    @property
    def name(self):  # type: ignore[override]
        return self.encoder.name

    def prepared(self, model, split, task):
        encoder, lasso = (part.prepared(model, split, task) for part in (self.encoder, self.lasso))
        return dataclasses.replace(encoder, lam=lasso.weight)  # type: ignore[call-arg]

    def __call__(self, model, signals):
        encoder = dataclasses.replace(self.encoder, lam=self.lasso.lam)  # type: ignore[call-arg]
        return encoder(model, signals)


class _Norm:
    """A matrix that equals only itself, so that its owner has a hash."""

    def __init__(self, matrix: Float[np.ndarray, "input_dim input_dim"]):
        self.matrix = matrix


class InNorm(Inferring, _Of):
    """An encoder of `A (y - b)` on the atoms `A D`: its codes keep `‖A (y - b - D z)‖` small
    instead of `‖y - b - D z‖`.

    `AᵀA = I + F / mean(diag F)`, where F is the cost of errors in nats; `prepared` gets F from the
    task's network, on training documents.

    Args:
      encoder: the encoder to apply.
      norm: A; `prepared` finds it.
    """

    colour = "#009988"
    rank = 17
    elsewhere = True

    norm: _Norm | None = eqx.field(default=None, static=True, metadata={"rare": True})

    @property
    def name(self):  # type: ignore[override]
        return f"weighted_{self.encoder.name}"

    def prepared(self, model, split, task):
        if self.norm is not None:
            return self
        if task.network is None:
            fault = (
                "weighted codes ask a network what errors cost, and there is none behind these rows"
            )
            raise ValueError(f"{fault}; leave them out, or give --recording.")
        values, vectors = np.linalg.eigh(task.network.information())
        root = np.sqrt(1 + values.clip(0) / values.mean())
        norm = _Norm(((vectors * root) @ vectors.T).astype(np.float32))
        live = jnp.any(split.signals != 0, axis=1, keepdims=True)
        rows = jnp.where(live, split.signals - model.bias, 0) @ norm.matrix
        held = dataclasses.replace(split, signals=rows)
        inside = _inside(norm, model)
        return dataclasses.replace(
            self, encoder=self.encoder.prepared(inside, held, task), norm=norm
        )

    def infer(self, model, signals, begun=None):
        norm: Any = self.norm
        rows = (signals - model.bias) @ norm.matrix
        return Coded(self.encoder.infer(_inside(norm, model), rows).codes)


def _inside(norm: _Norm, model: Model) -> Model:
    return Model(jnp.asarray(norm.matrix) @ model.decoder, jnp.zeros_like(model.bias))
