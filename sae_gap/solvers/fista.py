"""Proximal gradient, with momentum (FISTA) or without (ISTA), as published, for a fixed number of
steps.

Gradients are taken in the factored form `(y - z Dᵀ) D`, which costs `2 input_dim num_latents` a
sample where the Gram form costs `num_latents²`.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from sae_gap.core import lasso_problem


def step_size(dictionary: Float[Array, "input_dim num_latents"]) -> Float[Array, ""]:
    """`1 / ‖D‖₂²`; an all-zero dictionary has no gradient, and any step will do."""
    constant = lasso_problem.lipschitz(dictionary)
    return jnp.where(constant > 0, 1 / jnp.where(constant > 0, constant, 1), 1).astype(
        dictionary.dtype
    )


def fixed(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    lam: Float[Array, "..."] | float,
    init: Float[Array, "n num_latents"] | None = None,
    *,
    iterations: Int[Array, ""] | int,
    nonneg: bool = True,
    momentum: bool = True,
) -> Float[Array, "n num_latents"]:
    """Exactly `iterations` steps of textbook FISTA, converged or not.

    With step `1 / ‖D‖₂²` and `t_0 = 1`: `z_{i+1} = prox(x_i - step grad(x_i))`,
    `t_{i+1} = (1 + √(1 + 4 t_i²)) / 2`, `x_{i+1} = z_{i+1} + (t_i - 1) / t_{i+1} (z_{i+1} - z_i)`.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`.
      lam: scalar, `(n,)`, `(num_latents,)` or broadcasting to `(n, num_latents)`.
      init: `(n, num_latents)` codes to start from; None starts from zero.
      iterations: number of steps; may be traced.
      nonneg: whether codes are constrained to be non-negative.
      momentum: False gives ISTA, `x_i = z_i`.

    Returns:
      `(n, num_latents)` codes.

    References:
      Beck & Teboulle (2009), "A fast iterative shrinkage-thresholding algorithm", SIAM J. Imaging
      Sciences 2(1). Daubechies, Defrise & De Mol (2004), "An iterative thresholding algorithm for
      linear inverse problems", CPAM 57(11).
    """
    lam = lasso_problem.expand_lam(lam, signals.shape[0], dictionary.shape[1])
    rate = step_size(dictionary)
    start = (
        jnp.zeros((signals.shape[0], dictionary.shape[1]), signals.dtype) if init is None else init
    )

    def body(_, carry):
        codes, point, t = carry
        pull = lasso_problem.product(lasso_problem.residual(signals, dictionary, point), dictionary)
        new = lasso_problem.soft_threshold(point + rate * pull, rate * lam, nonneg=nonneg)
        t_new = 0.5 * (1 + jnp.sqrt(1 + 4 * t**2)) if momentum else t
        return new, new + (t - 1) / t_new * (new - codes), t_new

    return lax.fori_loop(0, iterations, body, (start, start, jnp.ones((), signals.dtype)))[0]
