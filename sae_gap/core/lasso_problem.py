"""The lasso that every encoder is measured against: its objective, its dual, and a duality gap that
float32 can certify.

Throughout, a sample `y` is coded on a dictionary `D` by `z = argmin F(z)` with

    F(z) = ½‖y - D z‖² + Σ_j λ_j |z_j|,    optionally subject to z ≥ 0.

The weight `lam` is a scalar, one value a sample `(n,)`, or a matrix that broadcasts to
`(n, num_latents)`.
"""

import jax.numpy as jnp
import numpy as np
from jax import jit, lax
from jaxtyping import Array, Float
from numpy import float64

from sae_gap.core import Solution, ratio


def product(
    left: Float[Array, "... p q"], right: Float[Array, "q r"]
) -> Float[Array, "... p r"]:
    """Multiplies matrices at the full precision of their type; accelerators would round the
    factors.
    """
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def expand_lam(lam):
    """Reshapes a weight, a scalar, `(n,)`, or two-dimensional with each side either full or one,
    into a matrix that broadcasts to `(n, num_latents)`.
    """
    lam = jnp.asarray(lam)
    return lam[:, None] if lam.ndim == 1 else jnp.atleast_2d(lam)


def residual(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    codes: Float[Array, "n num_latents"],
) -> Float[Array, "n input_dim"]:
    """Returns the residuals `y - D z`."""
    return signals - product(codes, dictionary.T)


@jit
def objective(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    codes: Float[Array, "n num_latents"],
    lam: Float[Array, "..."] | float,
) -> Float[Array, " n"]:
    """Returns the lasso objective of each sample, `F(z) = ½‖y - D z‖² + Σ_j λ_j |z_j|`.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`, atoms as columns, of any norm.
      codes: `(n, num_latents)`.
      lam: scalar, `(n,)`, or broadcasting to `(n, num_latents)`.

    Returns:
      `(n,)` objectives.
    """
    rest = residual(signals, dictionary, codes)
    return 0.5 * jnp.sum(rest**2, axis=1) + jnp.sum(
        expand_lam(lam) * jnp.abs(codes), axis=1
    )


def dual_scale(correlations, lam, *, nonneg):
    """Returns the largest `s ≤ 1` for which `s` times a dual candidate satisfies every constraint,
    (n,), from its correlations, (n, num_latents); an array of NumPy if it is given such.

    The constraints are `s c_j ≤ λ_j` for non-negative codes and `s |c_j| ≤ λ_j` for signed ones,
    `c = Dᵀ θ`.
    """
    xp = correlations.__array_namespace__()
    pull = correlations if nonneg else xp.abs(correlations)
    broken = pull > lam
    return xp.amin(xp.where(broken, lam / xp.where(broken, pull, 1), 1), axis=1)


def value_and_gap(rest, codes, pull, lam, scale, dual=None):
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
    xp = codes.__array_namespace__()
    scale = scale[:, None]
    misfit = (1 - scale) * rest if dual is None else rest - scale * dual
    # Subtract before multiplying, which would round. Only rounding makes it negative, where λ_j =
    # d_jᵀ t.
    slack = xp.abs(codes) * xp.clip(lam - xp.sign(codes) * (scale * pull), 0, None)
    value = 0.5 * xp.sum(rest**2, axis=1) + xp.sum(lam * xp.abs(codes), axis=1)
    return value, 0.5 * xp.sum(misfit**2, axis=1) + xp.sum(slack, axis=1)


def certificate(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    codes: Float[Array, "n num_latents"],
    lam: Float[Array, "..."] | float,
    *,
    nonneg: bool = True,
    dual: Float[Array, "n input_dim"] | None = None,
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Returns each sample's objective and duality gap, from two products with the dictionary.

    For any candidate `θ`, made feasible as `t = s θ`, `F(z) - gap` is a lower bound on the optimum
    with

        gap = ½‖r - t‖² + Σ_j (λ_j |z_j| - z_j d_jᵀ t),    r = y - D z.

    With `θ = r`, the default, this reads `½ (1 - s)² ‖r‖² + Σ_j (λ_j |z_j| - s z_j c_j)`,
    `c = Dᵀ r`. Both are sums of non-negative terms, so nothing cancels, and small gaps keep their
    relative accuracy. A solver that carries its residual apart from its codes passes it as `dual`:
    rounding the codes to storage precision moves `r` by about `u ‖z‖`, which the gap feels linearly
    at `θ = r` (`u ‖z‖` against `lam`), and squared at a carried one.

    Rounding: with unit roundoff `u`, each computed `d_jᵀ θ` is off by at most
    `u (input_dim + 1) ‖d_j‖ ‖θ‖`, and typically by the square root of that factor only. That shifts
    `s` relatively by the error over `λ_j`, and so the gap by at most `max_j (error_j / λ_j)` times
    `‖t‖² + Σ_j λ_j |z_j|`. The sums themselves are off by `u (num_latents + 2)` relative. The
    subtraction in `r` is off by `u (|support| + 1) (|y| + |D| |z|)` entrywise, which enters
    squared.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`.
      codes: `(n, num_latents)`; non-negative if `nonneg`.
      lam: scalar, `(n,)`, or broadcasting to `(n, num_latents)`.
      nonneg: whether codes are constrained to be non-negative.
      dual: `(n, input_dim)` dual candidates, feasible or not; None stands for the residuals.

    Returns:
      `(n,)` objectives and `(n,)` duality gaps.

    References:
      Massias, Gramfort & Salmon (2018), "Celer: a fast solver for the lasso with dual
      extrapolation", ICML.
    """
    lam = expand_lam(lam)
    rest = residual(signals, dictionary, codes)
    pull = product(rest if dual is None else dual, dictionary)
    scale = dual_scale(pull, lam, nonneg=nonneg)
    return value_and_gap(rest, jnp.asarray(codes), pull, lam, scale, dual)


def relative_gap(solution: Solution) -> Float[np.ndarray, " n"]:
    """Returns the duality gap of each sample over its objective, in double precision; zero where
    the objective is.
    """
    sides = solution.gap, solution.objective
    return ratio(*(np.asarray(side, float64) for side in sides))


def is_converged(signals, value, gap, tol, dtype=None):
    """True where `gap ≤ tol F(z)`, (n,), or where the objective is below the resolution of the
    codes' type.

    The residual of stored codes is known to a few units of roundoff of the signal, so an objective
    below `½ (16 eps ‖y‖)²` cannot be told from zero; without this rule an exact fit at `lam = 0`
    would never be accepted. The type is the objective's unless another is given.
    """
    floor = 0.5 * (
        (16 * float(jnp.finfo(dtype or value.dtype).eps) * signals) ** 2
    ).sum(axis=1)
    return ((gap <= tol * value) & (value < float("inf"))) | (value <= floor)


def soft_threshold(
    values: Float[Array, "*shape"],
    threshold: Float[Array, "..."] | float,
    *,
    nonneg: bool,
) -> Float[Array, "*shape"]:
    """The proximal map of the weighted l1 norm: `max(x - t, 0)`, or `sign(x) max(|x| - t, 0)` for
    signed codes.
    """
    if nonneg:
        return jnp.maximum(values - threshold, 0)
    return jnp.sign(values) * jnp.maximum(jnp.abs(values) - threshold, 0)


def lipschitz(dictionary: Float[Array, "input_dim num_latents"]) -> Float[Array, ""]:
    """Returns the Lipschitz constant of the gradient, `‖D‖₂²`: the top eigenvalue of the smaller of
    `D Dᵀ` and `Dᵀ D`.
    """
    wide = dictionary if dictionary.shape[0] <= dictionary.shape[1] else dictionary.T
    return jnp.linalg.eigvalsh(product(wide, wide.T))[-1]


def lambda_max(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    *,
    nonneg: bool,
) -> Float[Array, " n"]:
    """Returns the smallest weight at which each sample's code is zero: `max_j d_jᵀ y`, or
    `max_j |d_jᵀ y|` for signed codes.
    """
    correlations = product(signals, dictionary)
    return jnp.max(correlations if nonneg else jnp.abs(correlations), axis=1, initial=0)
