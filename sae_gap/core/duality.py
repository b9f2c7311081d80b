"""The duality gap of the lasso on arrays of NumPy or JAX, which it does not import.

`sae_gap.core.lasso_problem` defines the gap.
"""

from typing import Any

from jaxtyping import Float


def dual_scale(
    correlations: Float[Any, "n num_latents"], lam: Float[Any, "rows columns"], *, nonneg: bool
) -> Float[Any, " n"]:
    """Returns the largest `s ≤ 1` for which `s` times a dual candidate satisfies every constraint;
    an array of NumPy if it is given such.

    The constraints are `s c_j ≤ λ_j` for non-negative codes and `s |c_j| ≤ λ_j` for signed ones,
    `c = Dᵀ θ`.
    """
    xp = correlations.__array_namespace__()
    pull = correlations if nonneg else xp.abs(correlations)
    broken = pull > lam
    return xp.amin(xp.where(broken, lam / xp.where(broken, pull, 1), 1), axis=1)


def value_and_gap(
    rest: Float[Any, "n input_dim"],
    codes: Float[Any, "n some"],
    pull: Float[Any, "n some"],
    lam: Float[Any, "rows columns"],
    scale: Float[Any, " n"],
    dual: Float[Any, "n input_dim"] | None = None,
) -> tuple[Float[Any, " n"], Float[Any, " n"]]:
    """Returns `½‖r‖² + Σ_j λ_j |z_j|` and `½‖r - t‖² + Σ_j |z_j| (λ_j - sign(z_j) d_jᵀ t)`,
    `t = s θ`; see `certificate`.

    Args:
      rest: the residuals r, (n, input_dim).
      codes: z of all latents, or of the non-zero ones alone, (n, some).
      pull: the products `d_jᵀ θ` of the same latents.
      lam: the weights of these latents.
      scale: s, (n,).
      dual: θ, (n, input_dim); None stands for the residuals.

    Returns:
      (n,) objectives and (n,) duality gaps, as NumPy arrays if the input is.
    """
    xp, scale = codes.__array_namespace__(), scale[:, None]
    misfit = (1 - scale) * rest if dual is None else rest - scale * dual
    # Subtract before multiplying, which would round. Only rounding makes it negative, where λ_j =
    # d_jᵀ t.
    slack = xp.abs(codes) * xp.clip(lam - xp.sign(codes) * (scale * pull), 0, None)
    value = 0.5 * xp.sum(rest**2, axis=1) + xp.sum(lam * xp.abs(codes), axis=1)
    return value, 0.5 * xp.sum(misfit**2, axis=1) + xp.sum(slack, axis=1)
