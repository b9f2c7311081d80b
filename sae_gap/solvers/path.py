"""The weight at which codes have a requested sparsity."""

import itertools
import math
import warnings
from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sae_gap.core import Solution, check_number
from sae_gap.core.lasso_problem import lambda_max
from sae_gap.solvers import check_problem, sparse_code


def match_l0(
    signals: ArrayLike,
    dictionary: ArrayLike,
    target: float,
    *,
    accuracy: float = 0.01,
    nonneg: bool = True,
) -> tuple[Float[Array, ""], Solution]:
    """Finds the weight at which codes have a given mean number of non-zero entries, such as an
    encoder's.

    It comes down from half of the largest `λ_max`, each weight starting from the last one's codes.
    A line of log L0 over log λ through the last two weights predicts the next weight, which is at
    least half of the last, since small weights cost far more than large ones. Once two weights
    bracket the target, so do all later ones. The mean L0 falls in steps of `1 / n`, so the target
    is met within `accuracy` or one step, whichever is more. If the mean jumps over the target, the
    closest weight is returned, with a warning that says how far off it is.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`; normalise its atoms first, since weights compare only
        between unit atoms.
      target: requested mean L0, above 0.
      accuracy: largest relative deviation of the mean L0 from `target`.
      nonneg: whether codes are constrained to be non-negative.

    Returns:
      The weight, and the `Solution` there.

    Raises:
      ValueError: `target` is not positive, no weight down to `1e-6 λ_max` reaches it, all signals
        are orthogonal to the dictionary, or `sparse_code` refuses an argument.
    """
    check_number("target", target, above=0)
    check_number("accuracy", accuracy, least=0)
    targets, atoms, _, _ = check_problem(signals, dictionary, 0.0)
    most = min(atoms.shape)
    if target > most:
        raise ValueError(
            f"no weight reaches a mean L0 of {target}: codes of {len(atoms)} dimensions on "
            f"{atoms.shape[1]} atoms have at most {most}; lower the target."
        )
    top = float(jnp.max(lambda_max(targets, atoms, nonneg=nonneg)))
    if top == 0:
        raise ValueError(
            "every signal is orthogonal to the dictionary, so that all codes are zero at any "
            "weight."
        )
    allowed = max(accuracy * target, 1 / targets.shape[0])
    init = None
    # At `above` the codes are too sparse, at `below` not sparse enough; each is a pair (log λ, mean
    # L0).
    above = math.log(top), 0.0
    below = None
    best: Any = None
    log_lam = math.log(top / 2)
    for step in itertools.count(1):
        lam = math.exp(log_lam)
        solution = sparse_code(targets, atoms, lam, nonneg=nonneg, init=init)
        init = solution.codes
        mean = float(jnp.count_nonzero(init)) / len(init)
        if best is None or abs(mean - target) < abs(best[1] - target):
            best = lam, mean, solution
        if abs(mean - target) <= allowed:
            break
        before = above
        if mean > target:
            below = log_lam, mean
        else:
            above = log_lam, mean
        if below is None and log_lam <= math.log(1e-6 * top):
            raise ValueError(
                f"no weight reaches a mean L0 of {target}: it is only {mean:g} at the smallest; "
                "lower the target."
            )
        if below and above[0] - below[0] < 1e-6:
            warnings.warn(
                f"the mean L0 is {best[1]:g} at the closest weight found, {best[0]:.4g}, and not "
                f"{target:g}; give a larger accuracy.",
                stacklevel=2,
            )
            break
        log_lam = (
            _next(before, above, target)
            if below is None
            else _between(above, below, target, step)
        )
    return jnp.asarray(best[0], best[2].codes.dtype), best[2]


def _next(before, last, target):
    """The log weight where the line through two points meets the target, at least half the last
    weight.
    """
    halved = last[0] - math.log(2)
    if not 0 < before[1] < last[1]:
        return halved
    slope = math.log(last[1] / before[1]) / (last[0] - before[0])
    # A little further, so that the target lies between two weights.
    return max(halved, last[0] + 1.05 * math.log(target / last[1]) / slope)


def _between(above, below, target, step):
    """A log weight between two: on the line through them, or halfway at every third step, in case
    the line is far off.
    """
    if above[1] == 0 or step % 3 == 0:
        return 0.5 * (above[0] + below[0])
    share = math.log(target / above[1]) / math.log(below[1] / above[1])
    return above[0] + min(max(share, 0.05), 0.95) * (below[0] - above[0])
