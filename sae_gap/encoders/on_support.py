"""The best values on the support of an encoder, or on the atoms of it that are worth most."""

import abc
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax.numpy import asarray
from jaxtyping import Array, Float

from sae_gap.core import (
    Coded,
    Model,
    check_type,
    counted,
    is_traced,
    least_gain,
    option,
)
from sae_gap.encoders import (
    Encoder,
    Inferring,
    keep_nans,
    on_unit_atoms,
    unit_atoms,
)
from sae_gap.solvers import backward_elimination, sparse_code
from sae_gap.solvers.least_squares import least_squares

# A latent is on above this magnitude.
ON = 1e-4
# Without a weight no gap ends the iterations of an accelerator.
MOST = 2_000


class Refined(Inferring):
    """Other values on the support of an encoder, or on a part of it."""

    encoder: Encoder

    def __check_init__(self):
        check_type(
            "encoder", self.encoder, Encoder, "give the encoder whose support it is"
        )

    @property
    def origin(self):
        return self.encoder

    def infer(self, model, signals, begun=None):
        codes = self.encoder.infer(model, signals).codes if begun is None else begun
        return self.refine(model, signals, codes)

    @abc.abstractmethod
    def refine(
        self,
        model: Model,
        signals: Float[Array, "n input_dim"],
        codes: Float[Array, "n num_latents"],
    ) -> Coded:
        """Returns other codes on the support of given ones, in units of the model's atoms."""


class OnSupport(Refined):
    """`argmin_z ½‖y - b - D z‖² + λ‖z‖₁, z ≥ 0`, with `z_j = 0` wherever the encoder has
    `|z_j| ≤ 1e-4`; D has unit atoms.

    A latent with a negative code counts as on, and takes the best non-negative value. The objective
    here lies between the encoder's own and the lasso's, and so splits the amortisation gap into the
    cost of the magnitudes and the cost of the support. With λ = 0 it is least squares, which
    minimises no lasso objective and has no certificate.

    Args:
      encoder: the encoder that chooses the support.
      lam: weight of the l1 norm.
      nonneg: whether codes are non-negative.
      on: the magnitude above which a latent is on.
    """

    fitted = 1
    name = "support"
    label = "best values on the own support"
    colour = "#56B4E9"
    rank = 10

    lam: float = option(default=0.1, least=0)
    nonneg: bool = option(default=True, rare=True)
    on: float = option(default=ON, least=0, rare=True)

    @property
    def weight(self):
        return self.lam if self.lam else None

    def flops(self, input_dim, num_latents):
        """Returns those of the encoder."""
        return self.encoder.flops(input_dim, num_latents)

    def refine(self, model, signals, codes):
        """Returns the codes in units of the model's atoms; objective and gap are those of the
        problem on the support.
        """
        target, atoms, norms = on_unit_atoms(model, signals)
        on = abs(codes) > self.on
        found = sparse_code(
            target, atoms, self.lam, nonneg=self.nonneg, max_iterations=MOST, support=on
        )
        found = replace(found, codes=found.codes / norms)
        return found if is_traced(self.lam) or self.lam else Coded(found.codes)


class LeastSquares(Refined):
    """`argmin_z ‖y - b - D z‖²` with `z_j = 0` wherever the encoder has `|z_j| ≤ 1e-4`, then
    clamped at zero.

    If many codes are best, as on a support larger than input_dim, it takes those of least norm, as
    `numpy.linalg.lstsq` does. In float32 a support of about input_dim atoms, which is nearly
    dependent, costs digits. The clamp comes last, as published, so the codes are no optimum.

    Args:
      encoder: the encoder that chooses the support.

    References:
      Barin Pacela et al. (2026), arXiv:2603.28744.
    """

    name = "least_squares"
    # 2: rows beside a support of more atoms than dimensions are solved as that one is.
    version = 2
    label = "least squares on the own support"
    colour = "#E69F00"
    rank = 11

    def refine(self, model, signals, codes):
        """Returns the codes, without a certificate."""
        found = least_squares(
            signals - model.bias, model.decoder, abs(codes) > ON
        ).clip(0)
        return Coded(keep_nans(signals, found))


class Pruned(Refined):
    """Least squares on the atoms of an encoder's codes whose worth exceeds one threshold for all
    samples.

    The worth is the rise in the least-squares error up to the drop of the atom, as in
    `backward_elimination`, or the magnitude of the code. D has unit atoms.

    Args:
      encoder: the encoder; worth by "loss" refits its codes by least squares.
      l0: atoms that stay on average, on the rows where `prepared` finds the threshold.
      by: "loss" or "magnitude".
      nonneg: whether codes are non-negative.
      threshold: the least worth to stay, τ² by loss and a magnitude otherwise; `prepared` finds it.
    """

    listed = False
    colour = "#EE7733"
    rank = 16
    # 2: atoms are dropped one at a time.
    version = 2
    flops = OnSupport.flops

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

    def prepared(self, model, split, task):
        whole: Any = super().prepared(model, split, task)
        if self.threshold is not None:
            return whole
        codes = whole.encoder.infer(model, asarray(counted(split.counted))).codes
        least = least_gain(self._worth(model, codes), self.l0 * len(codes))
        return replace(whole, threshold=float(least))

    def _worth(self, model, codes):
        atoms, norms = unit_atoms(model.decoder)
        scaled = asarray(codes) * norms
        return (
            jnp.abs(scaled)
            if self.by == "magnitude"
            else backward_elimination(atoms, scaled)
        )

    def refine(self, model, signals, codes):
        kept = jnp.where(self._worth(model, codes) > asarray(self.threshold), codes, 0)
        return OnSupport(self.encoder, 0.0, self.nonneg, 0.0).infer(
            model, signals, kept
        )
