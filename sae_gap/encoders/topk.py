"""The TopK encoder, and the k largest entries of each row found without a sort."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sae_gap.core.checks import check_size
from sae_gap.encoders.encoder import AmortisedEncoder


class TopK(AmortisedEncoder):
    """Keeps the k largest pre-activations of a sample, then `relu`; no penalty.

    References:
      Gao et al. (2024), "Scaling and evaluating sparse autoencoders", arXiv:2406.04093.
    """

    label = "TopK"
    colour = "#D55E00"
    rank = 2

    k: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        check_size("k", self.k)

    def __call__(self, model, signals):
        return keep_largest(jax.nn.relu(self.preactivations(model, signals)), self.k)

    def exported(self, model):
        affine = self.learned(model)
        options = {"k": min(self.k, model.decoder.shape[1]), "rescale_acts_by_decoder_norm": False}
        return "topk", options, {"W_enc": affine.weight, "b_enc": affine.bias, "W_dec": model.decoder.T}


@jax.custom_vjp
def _keep(values, kept):
    return jnp.where(kept, values, 0)


_keep.defvjp(lambda values, kept: (_keep(values, kept), kept), lambda kept, bar: (jnp.where(kept, bar, 0), None))


def keep_largest(values: Float[Array, "n num_latents"], k: int) -> Float[Array, "n num_latents"]:
    """Zeroes all but the k largest entries of each row of non-negative values, ties going to the lower index.

    The bits of non-negative floats order as integers, so bisecting on them finds a threshold that exactly k entries reach. Each
    round is one compare-and-count over the whole batch: on a CPU that is 20 to 40 times faster than `jax.lax.top_k`, which
    sorts.

    Args:
      values: non-negative, samples as rows.
      k: how many to keep; a row with fewer positive entries keeps those.

    Returns:
      The values, thinned. The gradient passes through the entries kept.
    """
    if k >= values.shape[1]:
        return values
    stopped = jax.lax.stop_gradient(values)
    integer = jnp.int64 if stopped.dtype == jnp.float64 else jnp.int32
    # Without their sign bit, zeros are equal and a NaN is the largest of all, so that it shows in the codes.
    bits = jax.lax.bitcast_convert_type(stopped, integer) & jnp.iinfo(integer).max
    # Samples on the minor axis let the counts over latents run in vector registers.
    across = bits.T
    threshold, count = _bisect(across, k)
    # At a threshold of zero the surplus entries are zeros, which need no thinning.
    end = _end_of_ties(across, threshold, jnp.where(threshold > 0, count - k, 0))
    threshold, end = threshold[:, None], end[:, None]
    kept = (bits > threshold) | ((bits == threshold) & (jnp.arange(bits.shape[1]) < end))
    return _keep(values, kept & ~(stopped <= 0))


def _bisect(bits, k):
    """For each column, the largest threshold that at least k entries reach, and how many reach it."""
    num_latents, num_samples = bits.shape

    def reaching(threshold):
        return jnp.sum(bits >= threshold, axis=0, dtype=jnp.int32)

    def unfinished(state):
        low, high, _ = state
        return jnp.any(low + 1 < high)

    def halve(state):
        low, high, count = state
        middle = low + (high - low) // 2
        reached = reaching(middle)
        enough = reached >= k
        # A threshold that exactly k entries reach is as good as the k-th largest value itself.
        high = jnp.where(enough, jnp.where(reached == k, middle + 1, high), middle)
        return jnp.where(enough, middle, low), high, jnp.where(enough, reached, count)

    # The least of the maxima of k groups is reached by k entries at least, and lies close to the k-th largest.
    grouped = bits[: num_latents // k * k].reshape(k, num_latents // k, num_samples)
    low = jnp.min(jnp.max(grouped, axis=1), axis=0)
    count = reaching(low)
    high = jnp.where(count == k, low + 1, jnp.max(bits, axis=0) + 1)
    threshold, _, count = jax.lax.while_loop(unfinished, halve, (low, high, count))
    return threshold, count


def _end_of_ties(bits, threshold, excess):
    """For each column, the latent from which on there are `excess` entries equal to the threshold."""
    latent = jnp.arange(len(bits))[:, None]

    def unfinished(state):
        low, high = state
        return jnp.any((low + 1 < high) & (excess > 0))

    def halve(state):
        low, high = state
        middle = (low + high) // 2
        enough = jnp.sum((bits == threshold) & (latent >= middle), axis=0) >= excess
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    end = jnp.full(excess.shape, len(bits))
    low, _ = jax.lax.while_loop(unfinished, halve, (jnp.zeros_like(end), end))
    return jnp.where(excess > 0, low, end)
