"""The best values on another encoder's support: they separate the cost of its choice of latents
from that of its magnitudes.
"""

import abc
import dataclasses

from jaxtyping import Array, Float

from sae_gap.core import Coded, Model, check_type, is_traced, option
from sae_gap.encoders import Encoder, Inferring, keep_nans, on_unit_atoms
from sae_gap.solvers import sparse_code
from sae_gap.solvers.least_squares import least_squares

# A latent is on above this magnitude.
ON = 1e-4
# Without a weight no gap ends the iterations of an accelerator.
MOST = 2_000


class Refined(Inferring):
    """Other values on the support of an encoder, or on a part of it."""

    encoder: Encoder

    def __check_init__(self):
        check_type("encoder", self.encoder, Encoder, "give the encoder whose support it is")

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

    @property
    def signed(self):
        return not self.nonneg

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
        codes = found.codes / norms
        certified = is_traced(self.lam) or self.lam
        return dataclasses.replace(found, codes=codes) if certified else Coded(codes)


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
    label = "least squares on the own support"
    colour = "#E69F00"
    rank = 11

    def refine(self, model, signals, codes):
        """Returns the codes, without a certificate."""
        found = least_squares(signals - model.bias, model.decoder, abs(codes) > ON).clip(0)
        return Coded(keep_nans(signals, found))
