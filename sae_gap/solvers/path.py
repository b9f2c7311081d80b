"""Many weights at once: a warm-started path, and the weight at which codes are as sparse as asked."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sae_gap import lasso
from sae_gap.solvers.coding import sparse_code
from sae_gap.solvers.problem import check_problem
from sae_gap.types import Solution


def sparse_code_path(
    signals: ArrayLike, dictionary: ArrayLike, lams: ArrayLike, *, relative: bool = False, nonneg: bool = True, **options
) -> Solution:
    """Code the signals at each of several weights, from the largest to the smallest, each from the codes of the last.

    Args:
      signals: ``(n, input_dim)``.
      dictionary: ``(input_dim, num_latents)``.
      lams: ``(num_lams,)`` weights, in any order.
      relative: take each weight as a fraction of every sample's own ``lambda_max``, beyond which its code is zero.
      nonneg: whether codes are constrained to be non-negative.
      **options: further options of `sparse_code`, other than `init`.

    Returns:
      A `Solution` whose arrays have a leading axis of length ``num_lams``, in the order of `lams`.

    Raises:
      ValueError: `lams` is not a non-empty vector of non-negative numbers, or `sparse_code` refuses an argument.
    """
    lams = jnp.asarray(lams)
    if lams.ndim != 1 or lams.size == 0:
        raise ValueError(f"lams has shape {lams.shape}, but it must be a vector of at least one weight.")
    known = not isinstance(lams, jax.core.Tracer)
    if known and not bool(jnp.all((lams >= 0) & jnp.isfinite(lams))):
        raise ValueError("lams has a negative or non-finite value; give finite weights of zero or more.")
    if "init" in options:
        raise ValueError("init cannot be given for a path, since each weight starts from the last; leave it out.")
    targets, atoms, _, _ = check_problem(signals, dictionary, 0.0)
    top = lasso.lambda_max(targets, atoms, nonneg=nonneg)[:, None] if relative else 1.0
    order = jnp.argsort(-lams)
    start = jnp.zeros((targets.shape[0], atoms.shape[1]), targets.dtype)

    def step(codes, lam):
        solution = sparse_code(targets, atoms, lam.astype(codes.dtype) * top, nonneg=nonneg, init=codes, **options)
        return solution.codes, solution

    _, path = lax.scan(step, start, lams[order])
    return jax.tree.map(lambda a: a[jnp.argsort(order)], path)


def match_l0(
    signals: ArrayLike,
    dictionary: ArrayLike,
    target: float,
    *,
    threshold: float = 0.0,
    accuracy: float = 0.01,
    nonneg: bool = True,
    max_steps: int = 40,
    **options,
) -> tuple[Float[Array, ""], Solution]:
    """Find the weight at which codes have a given mean number of non-zero entries, as an encoder of that sparsity would.

    Bisects ``log lam`` below the largest ``lambda_max`` of the signals. The mean L0 falls in steps of ``1 / n``, so the target
    is met within `accuracy` or one step, whichever is more.

    Args:
      signals: ``(n, input_dim)``.
      dictionary: ``(input_dim, num_latents)``; as weights compare between unit atoms only, normalise it first.
      target: mean L0 wanted, above 0.
      threshold: magnitude above which an entry counts.
      accuracy: largest relative deviation of the mean L0 from `target`.
      nonneg: whether codes are constrained to be non-negative.
      max_steps: bisections after which the closest weight is returned.
      **options: further options of `sparse_code`, other than `init`.

    Returns:
      The weight, and the `Solution` there.

    Raises:
      ValueError: `target` is not positive, no weight down to ``1e-6 lambda_max`` reaches it, all signals are orthogonal to the
        dictionary, or `sparse_code` refuses an argument.
    """
    if not 0 < target < math.inf:
        raise ValueError(f"target must be a positive mean L0, but it is {target!r}.")
    if "init" in options:
        raise ValueError("init cannot be given, since each weight starts from the last; leave it out.")

    def solve(log_lam, init):
        solution = sparse_code(targets, atoms, math.exp(log_lam), nonneg=nonneg, init=init, **options)
        return solution, float(jnp.mean(jnp.sum(jnp.abs(solution.codes) > threshold, axis=1)))

    targets, atoms, _, _ = check_problem(signals, dictionary, 0.0)
    top = float(jnp.max(lasso.lambda_max(targets, atoms, nonneg=nonneg)))
    allowed = max(accuracy * target, 1 / targets.shape[0])
    if top == 0:
        raise ValueError("every signal is orthogonal to the dictionary, so that all codes are zero at any weight.")
    low, high = math.log(top * 1e-6), math.log(top)
    middle = math.log(top * 0.1)
    init = jnp.zeros((targets.shape[0], atoms.shape[1]), targets.dtype)
    best = middle, *solve(middle, init)
    for step in range(max_steps):
        solution, mean = solve(middle, init) if step else best[1:]
        if abs(mean - target) < abs(best[2] - target):
            best = middle, solution, mean
        if abs(mean - target) <= allowed:
            break
        low, high = (middle, high) if mean > target else (low, middle)
        middle = 0.5 * (low + high)
        init = solution.codes
        if step == max_steps // 2 and low == math.log(top * 1e-6):
            raise ValueError(
                f"no weight reaches a mean L0 of {target}: it is only {best[2]:g} at the smallest; lower the target."
            )
    return jnp.asarray(math.exp(best[0]), best[1].codes.dtype), best[1]


__all__ = ["match_l0", "sparse_code_path"]
