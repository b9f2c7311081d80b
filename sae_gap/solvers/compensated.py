"""Sums and products as if in twice the precision of their type, on any device."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def two_sum(
    one: Float[Array, "..."], other: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """A sum, and its rounding error."""
    total = one + other
    grown = total - one
    return total, (one - (total - grown)) + (other - grown)


def dot(
    left: Float[Array, "*n m"], right: Float[Array, "*n m"], plus: Float[Array, "*n"] | float = 0
) -> Float[Array, "*n"]:
    """`plus + Σ_m left right`, as if summed in twice the precision of the type.

    References:
      Ogita, Rump & Oishi (2005), "Accurate sum and dot product", SIAM J. Sci. Comput. 26(6).
    """
    term = left * right
    splitter = 2.0 ** (jnp.finfo(term.dtype).nmant // 2 + 1) + 1

    def split(value):
        high = splitter * value
        high = high - (high - value)
        return high, value - high

    (a, b), (c, d) = split(left), split(right)
    lost = ((a * c - term) + a * d + b * c) + b * d

    def add(one, other):
        total, rest = two_sum(one[0], other[0])
        return total, one[1] + other[1] + rest

    zero = jnp.zeros((), term.dtype)
    total, rest = lax.reduce((term, lost), (zero, zero), add, (term.ndim - 1,))
    total, rest = add((total, rest), (plus, 0))
    return total + rest
