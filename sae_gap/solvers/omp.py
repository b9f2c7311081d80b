"""Orthogonal matching pursuit for XLA on the inner products of candidates."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import fori_loop, platform_dependent
from jax.numpy import where, zeros
from jaxtyping import Array, Bool, Float, Int

from sae_gap.core import DEPENDENT, product


class _Steps(NamedTuple):
    """The state of orthogonal matching pursuit.

    Attributes:
      basis: the inner products of the candidates with an orthonormal basis of the chosen atoms, a
        row for each vector of the basis.
      pull: the correlations of the candidates with the residual.
      left: their energy outside the span of the chosen atoms.
      places: the chosen atoms.
      values: the inner products of the signal with the basis.
      on: whether a chosen atom adds anything.
    """

    basis: Float[Array, "size m"]
    pull: Float[Array, " m"]
    left: Float[Array, " m"]
    places: Int[Array, " size"]
    values: Float[Array, " size"]
    on: Bool[Array, " size"]


def omp(
    products: Callable[[Int[Array, ""]], Float[Array, " m"]],
    energy: Float[Array, " m"],
    pull: Float[Array, " m"],
    *,
    size: int,
    slack: Array | float,
    begun: Array | int = 0,
    signed: bool = False,
) -> tuple[Int[Array, " size"], Bool[Array, " size"], Float[Array, " size"]]:
    """Orthogonal matching pursuit among candidates, of which it takes the first `begun` first. It
    ends when none correlates with the residual beyond rounding.

    Args:
      products: maps the place of a candidate to its inner products with all, (m,).
      energy: the squared lengths of the candidates, (m,).
      pull: their correlations with the signal, (m,).
      size: atoms to choose.
      slack: a smaller correlation is rounding.
      begun: atoms chosen before.
      signed: whether a step takes the largest |correlation|.

    Returns:
      The places of the chosen atoms, whether each adds anything, and their least squares.
    """

    def step(i: Array, state: _Steps) -> _Steps:
        left = state.left
        score = jnp.abs(state.pull) if signed else state.pull
        # A chosen candidate has no energy left.
        best = jnp.argmax(where(left > DEPENDENT, score, -jnp.inf))
        best = where(i < begun, i, best).astype(state.places.dtype)
        fine = (left[best] > DEPENDENT) & ((score[best] > slack) | (i < begun))
        explained = product(state.basis[:, best], state.basis)
        new = (products(best) - explained) / jnp.sqrt(left[best])
        new = where(fine, new, 0)
        value = where(fine, state.pull[best] / jnp.sqrt(left[best]), 0)
        return _Steps(
            basis=state.basis.at[i].set(new),
            pull=state.pull - value * new,
            left=left - new**2,
            places=state.places.at[i].set(best),
            values=state.values.at[i].set(value),
            on=state.on.at[i].set(fine),
        )

    kind = pull.dtype
    begin = _Steps(
        basis=zeros((size, len(pull)), kind),
        pull=pull,
        left=energy,
        places=zeros(size, jnp.int32),
        values=zeros(size, kind),
        on=zeros(size, bool),
    )
    end = fori_loop(0, size, step, begin)
    on = end.on
    upper = jnp.triu(where(on[:, None] & on, end.basis[:, end.places], 0))
    upper = upper + jnp.diag(where(on, 0, 1).astype(kind))
    return end.places, on, _back(upper, end.values)


def by_row(function: Callable[..., Any]) -> Callable[..., Any]:
    """Maps a function that calls LAPACK over samples, one after another on a CPU: jaxlib shares a
    batch among threads that wait for each other, and two batches at once would wait for ever.
    """
    one = jax.custom_batching.sequential_vmap(function)
    return lambda *arrays: platform_dependent(*arrays, cpu=one, default=function)


@by_row
def _back(upper: Float[Array, "k k"], values: Float[Array, " k"]) -> Float[Array, " k"]:
    return jax.scipy.linalg.solve_triangular(upper, values)
