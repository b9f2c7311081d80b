"""The TopK encoder, and the k largest entries of each row."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sae_gap.core import option
from sae_gap.encoders import AmortisedEncoder


class TopK(AmortisedEncoder):
    """Keeps the k largest pre-activations of a sample, then `relu`; no penalty.

    References:
      Gao et al. (2024), "Scaling and evaluating sparse autoencoders", arXiv:2406.04093.
    """

    label = "TopK"
    colour = "#D55E00"
    rank = 2

    k: int = option(default=10)

    def __call__(self, model, signals):
        return keep_largest(jax.nn.relu(self.preactivations(model, signals)), self.k)


@eqx.filter_jit
def keep_largest(
    values: Float[Array, "n num_latents"], k: int | Int[Array, ""]
) -> Float[Array, "n num_latents"]:
    """Zeroes all but the k largest entries of each row of non-negative values; ties go to the lower
    index.

    Args:
      values: non-negative, samples as rows.
      k: how many to keep; a row with fewer positive entries keeps those.

    Returns:
      The thinned values. The gradient passes through the kept entries.
    """
    counted = eqx.is_array(k)
    if not counted and k >= values.shape[1]:
        return values
    count = functools.partial(_by_bits, k=k)
    # A sort must know k at compilation.
    sort = count if counted else functools.partial(_by_sort, k=k)
    given = jax.lax.stop_gradient(values)
    # A NaN without a sign: sorts treat a negative NaN as the least number.
    given = jnp.where(jnp.isnan(given), jnp.nan, given)
    kept = jax.lax.platform_dependent(given, cpu=sort, default=count)
    # A NaN is the largest number here, and must remain visible.
    return jnp.where(kept & ~(values <= 0), values, 0)


def _by_sort(values, k):
    """Marks the k largest entries of each row."""
    _, largest = jax.lax.top_k(values, k)
    return jnp.zeros(values.shape, bool).at[jnp.arange(len(values))[:, None], largest].set(True)


def _by_bits(values, k):
    """Does the same by counting, since accelerators would sort all entries. A non-negative float is
    ordered like its bits. Bisection finds those of the k-th largest entry, and then the column up
    to which its equals are kept.
    """
    values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    whole = jnp.int32 if values.dtype.itemsize == 4 else jnp.int64
    bits = jnp.where(values > 0, jax.lax.bitcast_convert_type(values, whole), 0)
    bits = jnp.where(jnp.isnan(values), jnp.iinfo(whole).max, bits)
    columns = jnp.arange(values.shape[1], dtype=whole)

    def largest(size, holds):
        """The largest number of `size` bits for which a falling condition holds, by row."""

        def step(i, found):
            trial = found | (jnp.ones((), whole) << (size - 1 - i))
            return jnp.where(holds(trial), trial, found)

        return jax.lax.fori_loop(0, size, step, jnp.zeros((len(values), 1), whole))

    def count(of):
        return jnp.sum(of, axis=1, keepdims=True)

    least = largest(8 * values.dtype.itemsize - 1, lambda trial: count(bits >= trial) >= k)
    equal, left = bits == least, k - count(bits > least)
    width = values.shape[1].bit_length()
    end = largest(width, lambda trial: count(equal & (columns < trial)) <= left)
    return (bits > least) | (equal & (columns < end))
