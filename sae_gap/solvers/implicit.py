"""Derivatives of a lasso solution by the implicit function theorem, through its support."""

import jax.numpy as jnp

from sae_gap.core.lasso_problem import product, residual
from sae_gap.runtime import sharding
from sae_gap.solvers.least_squares import least_squares


def pull_back(signals, dictionary, codes, code_bar, objective_bar, mesh):
    """Cotangents of signals, dictionary and weights, from those of codes and objective.

    On the support `z_S = (D_Sᵀ D_S)⁻¹ (D_Sᵀ y - λ_S sign(z_S))`. With `D_Sᵀ D_S u_S = z̄_S` and
    `r = y - D z`,

        ȳ = D u + F̄ r,    D̄ = r uᵀ - (D u) zᵀ - F̄ r zᵀ,    λ̄ = -sign(z) u + F̄ |z|,

    summed over samples in D̄; the objective's part follows from the envelope theorem.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`.
      codes: `(n, num_latents)` minimisers.
      code_bar: `(n, num_latents)` cotangents of the codes.
      objective_bar: `(n,)` cotangents of the objective.
      mesh: the devices, each of which solves for its own samples.

    Returns:
      Cotangents of signals, dictionary, and weights per sample and coefficient.

    References:
      Bertrand et al. (2020), "Implicit differentiation of lasso-type models for hyperparameter
      optimization", ICML.
    """
    rest = residual(signals, dictionary, codes)

    def solve(own, atoms):
        signals, support, pull = own
        return least_squares(signals, atoms, support, pull)

    u = sharding.by_device(
        solve, mesh, (jnp.zeros_like(signals), codes != 0, code_bar), dictionary
    )
    image = product(u, dictionary.T)
    weight = objective_bar[:, None]
    dictionary_bar = product(rest.T, u - weight * codes) - product(image.T, codes)
    return (
        image + weight * rest,
        dictionary_bar,
        weight * jnp.abs(codes) - jnp.sign(codes) * u,
    )
