"""The TopK encoder and its kin: k latents in each sample, or on average over a batch, also of
nested dictionaries; and the k largest entries of each row.
"""

import functools
import itertools
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sae_gap.core import check_type, option
from sae_gap.encoders import Affine, AmortisedEncoder, Recipe, above


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
        return keep_largest(self.rectified(model, signals), self.k)


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
    none = jnp.zeros(values.shape, bool)
    return jnp.put_along_axis(none, largest, True, axis=1, inplace=False)


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

    least = largest(
        8 * values.dtype.itemsize - 1, lambda trial: count(bits >= trial) >= k
    )
    equal = bits == least
    left = k - count(bits > least)
    width = values.shape[1].bit_length()
    end = largest(width, lambda trial: count(equal & (columns < trial)) <= left)
    return (bits > least) | (equal & (columns < end))


class BatchTopKParameters(eqx.Module):
    """The affine map and θ, one threshold for all latents."""

    affine: Affine
    threshold: Float[Array, ""]


class BatchTopK(AmortisedEncoder):
    """`z = h · 1[h > θ]` with `h = relu((y - b) W + c)`; training keeps the k · n largest `h` of a
    batch of n, without a penalty. At step t of T, counted from 0, it keeps
    `(f + (1 - f) t / (T - 1)) k · n`, with the initial factor f.

    θ is a running mean of the smallest positive value that a batch keeps; no gradient trains it.
    With θ, a sample's codes do not depend on the rest of its batch.

    Args:
      k: latents a sample, on average over a batch.
      rate: weight of the newest batch in θ; the first batch sets θ.
      initial_factor: f, the multiple of k at the start of training. It falls linearly to 1 at the
        last step.

    References:
      Bussmann, Leask & Nanda (2024), "BatchTopK sparse autoencoders", arXiv:2412.06410.
    """

    label = "BatchTopK"
    colour = "#999933"
    rank = 5

    k: int = option(default=10)
    rate: float | Array = option(default=0.01, above=0, most=1)
    initial_factor: float = option(default=1.0, static=True, least=1)

    def parameters(self, weight, key):
        return BatchTopKParameters(Affine.create(weight), jnp.zeros((), weight.dtype))

    def __call__(self, model, signals):
        mend = f"give a model that {self.name} was trained with, or encode by TopK"
        check_type("the model's encoder", model.encoder, BatchTopKParameters, mend)
        hidden = self.rectified(model, signals)
        return above(hidden, model.encoder.threshold, hidden)

    def loss_after(self, done, model, signals, penalty):
        return self.loss(model, signals, penalty, done)

    def loss(self, model, signals, penalty, done=1.0):
        # The padding of a smaller last batch also competes: it holds samples of the same epoch, and
        # so a batch of the usual size keeps the usual share.
        hidden = self.rectified(model, signals)
        count: int | Int[Array, ""] = self.k * len(hidden)
        if self.initial_factor > 1:
            factor = self.initial_factor + (1 - self.initial_factor) * done
            count = jnp.round(factor * count).astype(int)
        codes = keep_largest(hidden.reshape(1, -1), count).reshape(hidden.shape)
        own = model.encoder.threshold
        smallest = jnp.min(jnp.where(codes > 0, codes, jnp.inf))
        moved = jnp.where(own > 0, own + self.rate * (smallest - own), smallest)
        return self.errors(model, signals, codes), jnp.where(
            jnp.isfinite(smallest), moved, own
        )

    def observe(self, model, seen):
        return eqx.tree_at(lambda model: model.encoder.threshold, model, seen)

    def raised(self, model, change):
        return eqx.tree_at(
            lambda model: model.encoder.threshold,
            model,
            replace_fn=lambda own: own * jnp.exp(change),
        )


# The share of the latents, rounded up, in each nested dictionary.
PREFIXES = (1 / 32, 3 / 32, 7 / 32, 15 / 32, 1)


class MatryoshkaBatchTopK(BatchTopK):
    """BatchTopK trained on the mean of the squared errors of nested dictionaries: the first m atoms
    for each prefix m of `PREFIXES`.

    The codes are chosen once, among all latents, and cut to each prefix.

    Args:
      k: latents a sample, on average over a batch.
      rate: weight of the newest batch in the threshold.
      initial_factor: the multiple of k at the start of training.

    References:
      Bussmann, Nabeshima, Karvonen & Nanda (2025), "Learning multi-level features with Matryoshka
      sparse autoencoders", arXiv:2503.17547, whose sizes it takes.
    """

    name = "matryoshka"
    label = "Matryoshka"
    colour = "#AA4499"
    rank = 6

    constants: ClassVar = {"prefixes": [*PREFIXES]}

    def errors(self, model, signals, codes):
        ends = [math.ceil(share * codes.shape[1]) for share in PREFIXES]
        rest = model.outputs(signals) - model.bias
        total = jnp.zeros(len(signals), signals.dtype)
        for start, end in itertools.pairwise((0, *ends)):
            rest = rest - codes[:, start:end] @ model.decoder[:, start:end].T
            total = total + jnp.mean(rest**2, axis=1)
        return total / len(ends)


class ListaMatryoshka(MatryoshkaBatchTopK):
    """`h = relu(a + η (y - b - D z) W)`, where `a = (y - b) W + c`, `z = relu(a) · 1[a > θ]` and D
    is the dictionary.

    The rest is `MatryoshkaBatchTopK`: the largest h are kept, and θ is the threshold of both. The
    step subtracts from a latent's pre-activation what active latents explain already, so that
    coherent atoms need not be on together. It costs two more products.

    Args:
      k: latents a sample, on average over a batch.
      rate: weight of the newest batch in the threshold.
      initial_factor: the multiple of k at the start of training, 2.4 where tuned.
      step: η.

    References:
      Gregor & LeCun (2010), "Learning fast approximations of sparse coding", ICML.
      chanind found that a single step and a falling k pay on a world of SynthSAEBench, in
      claude-auto-research-synthsaebench (2026), where k falls from 60 to 25; this suite chose the
      form.
    """

    name = "lista_matryoshka"
    label = "LISTA-Matryoshka"
    colour = "#882255"
    rank = 7
    recipe = Recipe(options={"initial_factor": 2.4})
    reads_inputs = False

    step: float | Array = option(default=0.3, above=0)

    def flops(self, input_dim, num_latents):
        return 3 * 2 * input_dim * num_latents

    def affine(self, model):
        """Returns None: the step adds to what the map gives."""

    def rectified(self, model, signals):
        affine = model.encoder.affine
        centred = signals - model.bias
        before = affine(centred)
        codes = above(before, model.encoder.threshold, jax.nn.relu(before))
        return jax.nn.relu(
            before + self.step * (centred - codes @ model.decoder.T) @ affine.weight
        )
