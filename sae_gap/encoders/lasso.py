"""Per-sample sparse inference on a model's dictionary, from zero or from another encoder's
codes.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from sae_gap.core.checks import check_type
from sae_gap.core.options import option
from sae_gap.core.registry import Look
from sae_gap.encoders.encoder import Encoder, encode, unit_atoms
from sae_gap.solvers import sparse_code


class Lasso(Encoder):
    """`argmin_z ½‖y - b - D z‖² + λ‖z‖₁, z ≥ 0`, with a certificate.

    Args:
      lam: weight of the l1 norm.
      start: an encoder whose codes, clipped at zero, the solver starts from; None starts from zero.
      tol: relative duality gap to reach. None runs exactly `max_iterations` of the textbook
        iteration, as published.
      max_iterations: iterations after which a sample is reported as not converged.
      unit_atoms: solve on the dictionary scaled to unit atoms, where alone λ compares between
        dictionaries, and scale the codes back.
      nonneg: whether codes are constrained to be non-negative.
      momentum: whether the textbook iteration is FISTA; without, it is ISTA. A certified solve has
        no use for it.
    """

    label = "certified lasso"
    colour = "#000000"
    rank = 14
    looks: ClassVar = {"ista": Look("ISTA", "#999933"), "fista": Look("FISTA", "#7F7F7F")}

    lam: float = option(default=0.1, least=0)
    start: Encoder | None = None
    tol: float | None = option(default=1e-6, above=0)
    max_iterations: int = option(default=20_000, static=False, least=0)
    unit_atoms: bool = option(default=True)
    nonneg: bool = option(default=True)
    momentum: bool = option(default=True)

    def __check_init__(self):
        check_type(
            "start", self.start, (Encoder, type(None)), "give the encoder whose codes to start from"
        )

    @property
    def name(self):  # type: ignore[override]
        if self.tol is not None:
            return "lasso"
        return "fista" if self.momentum else "ista"

    @property
    def coordinates(self):
        found = {
            "inference": self.name,
            "lam": self.lam,
            "start": "cold" if self.start is None else "warm",
        }
        return found | ({"iterations": self.max_iterations} if self.tol is None else {})

    @property
    def origin(self):
        return self.start

    @property
    def weight(self):
        return self.lam

    @property
    def signed(self):
        return not self.nonneg

    def flops(self, input_dim, num_latents):
        """Of the textbook iteration from zero; a certified solve takes what a sample needs."""
        textbook = self.tol is None and self.start is None
        return (2 * self.max_iterations - 1) * 2 * input_dim * num_latents if textbook else None

    def __call__(self, model, signals):
        return self.infer(model, signals).codes

    def infer(self, model, signals, begun=None):
        """The codes in units of the model's atoms; objective and gap are those of the problem
        solved.
        """
        if self.start is not None and begun is None:
            begun = encode(self.start, model, signals)
        target, dictionary, norms, init = _prepare(
            model.decoder, model.bias, signals, begun, unit=self.unit_atoms, nonneg=self.nonneg
        )
        solution = sparse_code(
            target,
            dictionary,
            self.lam,
            nonneg=self.nonneg,
            tol=self.tol,
            max_iterations=self.max_iterations,
            init=init,
            solver="auto" if self.momentum else "ista",
        )
        return dataclasses.replace(solution, codes=solution.codes / norms)


@functools.partial(jax.jit, static_argnames=("unit", "nonneg"))
def _prepare(dictionary, bias, signals, begun, *, unit, nonneg):
    """The target, the dictionary to solve on, the lengths that its atoms had, and where to
    start.
    """
    dictionary, norms = unit_atoms(dictionary) if unit else (dictionary, jnp.ones(()))
    init = None if begun is None else (begun * norms).clip(0 if nonneg else None)
    return signals - bias, dictionary, norms, init
