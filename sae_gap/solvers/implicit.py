"""Derivatives of a lasso solution by the implicit function theorem, through its support."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from sae_gap.core import lasso_problem
from sae_gap.runtime import sharding
from sae_gap.runtime.sharding import Layout


def solve_on_support(
    dictionary: Float[Array, "input_dim num_latents"],
    support: Bool[Array, "n num_latents"],
    target: Float[Array, "n num_latents"],
) -> Float[Array, "n num_latents"]:
    """Solve `D_Sᵀ D_S u = v_S` for each sample by conjugate gradients; u is zero off the support.

    On a support of s independent atoms s steps are exact but for rounding; as many again are allowed for that.

    Args:
      dictionary: `(input_dim, num_latents)`.
      support: `(n, num_latents)`, true on S.
      target: `(n, num_latents)` right-hand sides v; entries off the support are ignored.

    Returns:
      `(n, num_latents)` solutions u.
    """
    small = (4 * jnp.finfo(target.dtype).eps) ** 2
    start = jnp.where(support, target, 0)
    power = jnp.sum(start**2, axis=1)
    most = 2 * jnp.minimum(jnp.max(jnp.sum(support, axis=1)), min(dictionary.shape)) + 2

    def apply(u):
        return jnp.where(support, lasso_problem.product(lasso_problem.product(u, dictionary.T), dictionary), 0)

    def unfinished(carry):
        count, _, _, _, left = carry
        return (count < most) & jnp.any(left > small * power)

    def step(carry):
        count, u, rest, direction, left = carry
        image = apply(direction)
        curvature = jnp.sum(direction * image, axis=1)
        going = (left > small * power) & (curvature > 0)
        length = jnp.where(going, left / jnp.where(going, curvature, 1), 0)[:, None]
        u = u + length * direction
        rest = rest - length * image
        new = jnp.where(going, jnp.sum(rest**2, axis=1), left)
        turn = jnp.where(going, new / jnp.where(left > 0, left, 1), 0)[:, None]
        return count + 1, u, rest, jnp.where(going[:, None], rest + turn * direction, direction), new

    return lax.while_loop(unfinished, step, (jnp.int32(0), jnp.zeros_like(start), start, start, power))[1]


def pull_back(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    codes: Float[Array, "n num_latents"],
    code_bar: Float[Array, "n num_latents"],
    objective_bar: Float[Array, " n"],
    layout: Layout | None = None,
) -> tuple[Float[Array, "n input_dim"], Float[Array, "input_dim num_latents"], Float[Array, "n num_latents"]]:
    """Cotangents of signals, dictionary and weights, from those of the codes and of the objective.

    On the support `z_S = (D_Sᵀ D_S)⁻¹ (D_Sᵀ y - λ_S sign(z_S))`. With `D_Sᵀ D_S u_S = z̄_S` and `r = y - D z`,

        ȳ = D u + F̄ r,    D̄ = r uᵀ - (D u) zᵀ - F̄ r zᵀ,    λ̄ = -sign(z) u + F̄ |z|,

    summed over samples in D̄; the objective's part is the envelope theorem's.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`.
      codes: `(n, num_latents)` minimisers.
      code_bar: `(n, num_latents)` cotangents of the codes.
      objective_bar: `(n,)` cotangents of the objective.
      layout: of the samples over several devices, each of which solves for its own.

    Returns:
      Cotangents of signals, dictionary, and weights per sample and coefficient.

    References:
      Bertrand et al. (2020), "Implicit differentiation of lasso-type models for hyperparameter optimization", ICML.
    """
    rest = lasso_problem.residual(signals, dictionary, codes)
    u = sharding.by_device(lambda own, atoms: solve_on_support(atoms, *own), layout, (codes != 0, code_bar), dictionary)
    image = lasso_problem.product(u, dictionary.T)
    weight = objective_bar[:, None]
    dictionary_bar = lasso_problem.product(rest.T, u - weight * codes) - lasso_problem.product(image.T, codes)
    return image + weight * rest, dictionary_bar, weight * jnp.abs(codes) - jnp.sign(codes) * u
