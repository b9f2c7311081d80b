"""The duality gap of the lasso on arrays of NumPy, of JAX or of PyTorch; imports none of the two.

`sae_gap.core.lasso_problem` says what it certifies.
"""

from typing import Any

from jaxtyping import Float

from sae_gap.core.namespace import namespace


def dual_scale(
    correlations: Float[Any, "n num_latents"], lam: Float[Any, "rows columns"], *, nonneg: bool
) -> Float[Any, " n"]:
    """The largest `s ≤ 1` for which `s` times a dual candidate satisfies every constraint; arrays
    of NumPy give NumPy's.

    The constraints are `s c_j ≤ λ_j` for non-negative codes and `s |c_j| ≤ λ_j` for signed ones,
    `c = Dᵀ θ`.
    """
    xp = namespace(correlations)
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
    """`½‖r‖² + Σ_j λ_j |z_j|` and `½‖r - t‖² + Σ_j |z_j| (λ_j - sign(z_j) d_jᵀ t)`, of `t = s θ`;
    see `certificate`.

    Args:
      rest: the residuals r, (n, input_dim).
      codes: z, of all latents or of those alone that are not zero, (n, some).
      pull: the products `d_jᵀ θ` of the same latents.
      lam: their weights.
      scale: s, (n,).
      dual: θ, (n, input_dim); None takes the residuals.

    Returns:
      (n,) objectives and (n,) duality gaps, of NumPy where the arrays are NumPy's.
    """
    xp, scale = namespace(codes), scale[:, None]
    misfit = (1 - scale) * rest if dual is None else rest - scale * dual
    # The difference before the product, which would round it; negative by rounding alone, where λ_j
    # = d_jᵀ t.
    slack = xp.abs(codes) * xp.clip(lam - xp.sign(codes) * (scale * pull), 0, None)
    value = 0.5 * xp.sum(rest**2, axis=1) + xp.sum(lam * xp.abs(codes), axis=1)
    return value, 0.5 * xp.sum(misfit**2, axis=1) + xp.sum(slack, axis=1)
