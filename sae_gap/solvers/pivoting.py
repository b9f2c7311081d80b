"""Exact small lassos by parametric pivoting: the homotopy of LARS on a dense tableau, one sample a row of the batch."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class _Tableau(NamedTuple):
    pivots: Int[Array, ""]
    swept: Float[Array, "n slots slots"]
    value: Float[Array, "n slots"]
    slope: Float[Array, "n slots"]
    basic: Bool[Array, "n slots"]
    banned: Bool[Array, "n slots"]
    live: Bool[Array, " n"]


def solve(
    gram: Float[Array, "n slots slots"], linear: Float[Array, "n slots"], *, max_pivots: Int[Array, ""] | int
) -> tuple[Float[Array, "n slots"], Float[Array, "n slots slots"], Bool[Array, "n slots"]]:
    r"""Minimise ``1/2 z^T G z - b^T z`` over ``z >= 0`` for every row of a batch.

    The linear term is first lowered to ``b - t`` with ``t`` so large that ``z = 0`` is optimal, and ``t`` is then taken to
    zero. On the way, optimality fails at one slot at a time: a basic code turns negative, or a non-basic correlation positive.
    That slot is swept in or out of the basis, which changes the tableau by a matrix of rank one. The first slot to fail is the
    violated one of largest ratio ``value / slope``, the root in ``t`` of its code or correlation ``value - t slope``.

    A slot whose atom depends on those of the basis, up to rounding, is left out.

    Args:
      gram: ``(n, slots, slots)`` Gram matrices.
      linear: ``(n, slots)`` linear terms b.
      max_pivots: pivots after which the search is broken off; the codes are then feasible but not optimal.

    Returns:
      ``(n, slots)`` codes; ``(n, slots, slots)`` swept tableaus, which hold ``-inv(G)`` on the basis; ``(n, slots)`` bases.

    References:
      Efron, Hastie, Johnstone & Tibshirani (2004), "Least angle regression", Annals of Statistics 32(2).
      Goodnight (1979), "A tutorial on the SWEEP operator", The American Statistician 33(3).
    """
    eps = jnp.finfo(gram.dtype).eps
    slots = jnp.arange(gram.shape[1])
    diagonal = jnp.diagonal(gram, axis1=1, axis2=2)
    scale = jnp.max(jnp.abs(linear), axis=1, keepdims=True)
    slack = 2 * eps * scale

    def unfinished(t: _Tableau):
        return (t.pivots < max_pivots) & jnp.any(t.live)

    def pivot(t: _Tableau) -> _Tableau:
        violated = jnp.where(t.basic, t.value < -slack, (t.value > slack) & ~t.banned)
        # Only rounding can make the slope of a violated slot vanish.
        ratio = jnp.where(violated, t.value / jnp.where(jnp.abs(t.slope) > eps, t.slope, eps), -jnp.inf)
        top = jnp.max(ratio, axis=1, keepdims=True)
        live = top > -jnp.inf
        first = jnp.min(jnp.where(ratio == top, slots, slots.size - 1), axis=1, keepdims=True)
        chosen = (slots == first) & live

        def pick(v):
            return jnp.sum(jnp.where(chosen, v, 0), axis=1, keepdims=True)

        column = jnp.take_along_axis(t.swept, first[:, :, None], axis=1)[:, 0]
        centre = pick(column)
        leaves = jnp.any(chosen & t.basic, axis=1, keepdims=True)
        dependent = ~leaves & (centre <= 64 * eps * pick(diagonal))
        here = chosen & ~dependent
        swap = live & ~dependent
        inverse = jnp.where(swap, 1 / jnp.where(swap, centre, 1), 0)
        turn = jnp.where(leaves, -1, 1).astype(gram.dtype)

        def sweep_vector(v):
            at = pick(v) * inverse
            return jnp.where(here, turn * at, v - column * at)

        ratios = column * inverse
        edge = turn * ratios
        swept = t.swept - column[:, :, None] * ratios[:, None, :]
        swept = jnp.where(here[:, None, :], edge[:, :, None], swept)
        swept = jnp.where(here[:, :, None], edge[:, None, :], swept)
        swept = jnp.where(here[:, :, None] & here[:, None, :], -inverse[:, :, None], swept)
        return _Tableau(
            pivots=t.pivots + 1,
            swept=swept,
            value=sweep_vector(t.value),
            slope=sweep_vector(t.slope),
            basic=t.basic ^ here,
            banned=t.banned | (chosen & dependent),
            live=live[:, 0],
        )

    nowhere = jnp.zeros(linear.shape, bool)
    start = _Tableau(
        pivots=jnp.int32(0),
        swept=gram,
        value=linear,
        slope=jnp.ones_like(linear),
        basic=nowhere,
        banned=nowhere,
        live=jnp.ones(linear.shape[0], bool),
    )
    last = lax.while_loop(unfinished, pivot, start)
    return jnp.where(last.basic, jnp.maximum(last.value, 0), 0), last.swept, last.basic


__all__ = ["solve"]
