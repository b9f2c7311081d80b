"""Exact small lassos by parametric pivoting: the homotopy of LARS on a dense tableau, for a batch
with one sample a row.
"""

from collections import namedtuple

import jax.numpy as jnp
from jax.lax import while_loop
from jax.numpy import inf, where

# The swept Gram matrices and, as functions of t, the codes and correlations `value - t slope`; see
# `solve`. `banned` slots depend on the basis and stay out. `entering` is the slot that must enter
# next, whatever its ratio, or -1.
_Tableau = namedtuple("_Tableau", "pivots swept value slope basic banned entering live")


def solve(gram, linear, *, max_pivots, rank):
    """Minimises `½ zᵀ G z - bᵀ z` over `z ≥ 0` for every row of a batch, from an empty basis.

    The linear term starts at `b - t` with `t` so large that all codes are zero; then `t` falls to
    zero. On the way, optimality fails at one slot at a time: a basic code turns negative, or a
    non-basic correlation positive. That slot is swept in or out of the basis; with c its column of
    the tableau and p = c_k,

        T_ij ← T_ij - c_i c_j / p,    T_ik = T_ki ← ± c_i / p,    T_kk ← -1 / p,

    plus if slot k enters, minus if it leaves.

    The first slot to fail is the violated one with the largest ratio `value / slope`, the root in
    `t` of its code or correlation `value - t slope`.

    A slot whose atom depends on those of the basis, up to rounding, replaces another: the one whose
    code vanishes first as the slot's own grows and the basis compensates. If there is none, the
    slot is left out.

    Args:
      gram: `(n, slots, slots)` Gram matrices.
      linear: `(n, slots)` linear terms b.
      max_pivots: pivots after which the search stops; the codes are then feasible but not optimal.
      rank: largest number of independent atoms. A slot enters a full basis only in place of
        another.

    Returns:
      `(n, slots)` codes.

    References:
      Efron, Hastie, Johnstone & Tibshirani (2004), "Least angle regression", Annals of Statistics
      32(2). Goodnight (1979), "A tutorial on the SWEEP operator", The American Statistician 33(3).
    """
    norms = jnp.diagonal(gram, axis1=1, axis2=2)
    eps = jnp.finfo(gram.dtype).eps
    # The squared distance between an atom and the span of the basis is accurate to a few times the
    # rounding of a tableau.
    close = eps ** (2 / 3)
    slots = jnp.arange(gram.shape[1])
    slack = 2 * eps * jnp.max(jnp.abs(linear), axis=1, keepdims=True)

    def unfinished(t: _Tableau):
        return (t.pivots < max_pivots) & jnp.any(t.live)

    def first_of(marks):
        return jnp.min(where(marks, slots, slots.size - 1), axis=1, keepdims=True)

    def pivot(t: _Tableau) -> _Tableau:
        violated = where(t.basic, t.value < -slack, (t.value > slack) & ~t.banned)
        # Only rounding can make the slope of a violated slot zero.
        ratio = where(
            violated,
            t.value / where(jnp.abs(t.slope) > eps, t.slope, eps),
            -inf,
        )
        top = jnp.max(ratio, axis=1, keepdims=True)
        forced = t.entering >= 0
        live = (top > -inf) | forced
        first = where(forced, t.entering, first_of(ratio == top))
        chosen = slots == first

        def row_of(slot):
            return jnp.take_along_axis(t.swept, slot[:, :, None], axis=1)[:, 0]

        def pick(mask, v):
            return jnp.sum(where(mask, v, 0), axis=1, keepdims=True)

        column = row_of(first)
        enters = live & ~jnp.any(chosen & t.basic, axis=1, keepdims=True)
        crowded = jnp.sum(t.basic, axis=1, keepdims=True) >= rank
        dependent = enters & (crowded | (pick(chosen, column - close * norms) <= 0))
        yields = t.basic & (column > 64 * eps)
        room = where(
            yields,
            jnp.maximum(t.value - top * t.slope, 0) / where(yields, column, 1),
            inf,
        )
        least = jnp.min(room, axis=1, keepdims=True)
        swap = dependent & ~forced & (least < inf)
        leaver = first_of(room == least)
        entering = where(swap, first, -1)
        banned = t.banned | (chosen & dependent & ~swap)
        moves = live & (swap | ~dependent)
        first = where(swap, leaver, first)
        column = where(swap, row_of(leaver), column)
        here = (slots == first) & moves
        leaves = jnp.any(here & t.basic, axis=1, keepdims=True)
        inverse = where(moves, 1 / where(moves, pick(here, column), 1), 0)
        turn = where(leaves, -1, 1).astype(column.dtype)

        def sweep_vector(v):
            moved = pick(here, v) * inverse
            return where(here, turn * moved, v - column * moved)

        ratios = column * inverse
        edge = turn * ratios
        swept = t.swept - column[:, :, None] * ratios[:, None, :]
        swept = where(here[:, None, :], edge[:, :, None], swept)
        swept = where(here[:, :, None], edge[:, None, :], swept)
        swept = where(here[:, :, None] & here[:, None, :], -inverse[:, :, None], swept)
        return _Tableau(
            t.pivots + 1,
            swept,
            sweep_vector(t.value),
            sweep_vector(t.slope),
            t.basic ^ here,
            banned,
            entering,
            live[:, 0],
        )

    none = jnp.zeros(linear.shape, bool)
    start = _Tableau(
        jnp.int32(0),
        gram,
        linear,
        jnp.ones_like(linear),
        none,
        none,
        jnp.full((len(linear), 1), -1),
        jnp.ones(len(linear), bool),
    )
    last = while_loop(unfinished, pivot, start)
    return where(last.basic, jnp.maximum(last.value, 0), 0)
