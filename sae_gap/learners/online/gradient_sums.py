"""Codes samples a few at a time, and sums what a step of the dictionary needs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.numpy import sqrt
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from sae_gap.runtime import SAMPLES, in_batches, num_parts
from sae_gap.solvers import (
    SlotCodes,
    atom_rows,
    default_slots,
    host_learning,
    reweighted_lasso,
)

# The first threshold comes from so many samples, coded so often.
FIRST_SAMPLES = 1_024
FIRST_ROUNDS = 3
# Floats of a chunk of samples in XLA: their atoms, tableaus and correlations take 2 GiB.
ROOM = 2**29
# Visits are counted per latent, for at least so many latents: a small dictionary needs as many
# minibatches.
LEAST_LATENTS = 500


class _Sums(NamedTuple):
    """Sums over samples with codes Z and residuals R = Y - Z Dᵀ.

    Attributes:
      gradient: Zᵀ R, the negative gradient of ½‖R‖² in Dᵀ.
      squares: the sum of each atom's squared codes.
      uses: the number of its non-zero codes.
      error: ‖R‖².
    """

    gradient: Float[Array, "num_latents input_dim"]
    squares: Float[Array, " num_latents"]
    uses: Float[Array, " num_latents"]
    error: Float[Array, ""]


def accumulate(signals, dictionary, least, epsilon, *, num_slots, num_rounds=3):
    """Codes samples by `reweighted_lasso`, and sums gradients, squares, uses and errors.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`, of unit atoms.
      least: `reweighted_lasso`'s threshold.
      epsilon: `reweighted_lasso`'s.
      num_slots: the most atoms of a sample; None takes `default_slots`.
      num_rounds: `reweighted_lasso`'s.

    Returns:
      The sums, and the codes and the residual of each sample.
    """
    num_samples, input_dim = signals.shape
    num_latents = dictionary.shape[1]
    slots = num_slots or default_slots(*dictionary.shape)
    atoms = atom_rows(dictionary, slots)
    if jax.default_backend() == "cpu" and num_parts() == 1:
        # 2.7 times as fast as XLA, in which every sample waits for the slowest.
        return _on_host(signals, atoms, least, epsilon, num_latents, slots, num_rounds)

    def code(chunk):
        return reweighted_lasso(
            chunk, atoms, least, epsilon, num_slots=slots, num_rounds=num_rounds
        )

    per_sample = slots * input_dim + 4 * slots**2 + 4 * num_latents
    chunks = -(-num_samples // max(16, ROOM // per_sample))
    found = in_batches(code, signals, -(-num_samples // chunks))
    return _sum(found, num_latents), found


def threshold(noise, amplitude, margin, floor):
    """Returns `max(margin σ, floor a)`; above zero even for zero signals, which have neither noise
    nor amplitude.
    """
    return (
        jnp.maximum(margin * noise, floor * amplitude)
        + jnp.finfo(jnp.asarray(noise).dtype).tiny ** 0.5
    )


def scales(sums, number, input_dim, live) -> tuple[Array, Array]:
    """Returns the scales of the threshold, root mean squares: σ of the residual's coordinates, and
    a of the active codes.

    Args:
      sums: sums over coded samples.
      number: the number of samples.
      input_dim: dimension of the signals.
      live: share of the dimensions in which any signal is non-zero.
    """
    noise = sqrt(sums.error / (number * input_dim * live))
    return noise, sqrt(jnp.sum(sums.squares) / jnp.maximum(jnp.sum(sums.uses), 1))


def initial_scales(
    signals, dictionary, live, margin, floor, *, num_slots, epsilon=1.0
) -> tuple[Array, Array]:
    """Returns σ and a of the first samples, which are coded a few times, at first as if each signal
    were a single atom.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`, of unit atoms.
      live: share of the dimensions in which any signal is non-zero.
      margin: the threshold's.
      floor: the threshold's.
      num_slots: `accumulate`'s.
      epsilon: `accumulate`'s, in units of the threshold.

    Returns:
      σ and a, scalars.
    """
    some = signals[:FIRST_SAMPLES]

    def coded(scale, _):
        noise, amplitude = scale
        least = threshold(noise, amplitude, margin, floor)
        sums = accumulate(
            some, dictionary, least, epsilon * least, num_slots=num_slots
        )[0]
        return scales(sums, len(some), len(dictionary), live), None

    first = jnp.zeros((), signals.dtype), sqrt(jnp.mean(jnp.sum(some**2, axis=1)))
    return lax.scan(coded, first, length=FIRST_ROUNDS)[0]


def total_visits(visits: float, num_latents: int) -> int:
    """Returns the number of samples that gives each latent so many visits."""
    return round(visits * max(num_latents, LEAST_LATENTS))


def num_visited(visits, num_samples, num_latents):
    """Returns the number of samples for so many visits, with each sample at most once."""
    return min(num_samples, max(1, total_visits(visits, num_latents)))


def check_slots(num_slots):
    """Raises a ValueError unless the number of slots is None or valid for `reweighted_lasso`."""
    if num_slots is not None and num_slots % 4:
        raise ValueError(f"num_slots must be a multiple of 4, but it is {num_slots}.")


def by_samples(function, learner, samples, state, *, dim=0):
    """Runs `function(learner, samples, state, axes)` on every device's part of the samples.

    Args:
      function: returns the same on all devices, since it sums over `axes`, the mesh axes that the
        samples are split over. With one device there are none, and `lax.psum(x, ())` is x.
      learner: a module, the same on all devices.
      samples: an array; zero rows make it divide among the devices.
      state: the same on all devices.
      dim: the dimension of the samples.
    """
    size = num_parts()
    if size == 1:
        return function(learner, samples, state, ())
    spare = [
        (0, -length % size if i == dim else 0) for i, length in enumerate(samples.shape)
    ]
    mapped = jax.shard_map(
        lambda learner, samples, state: function(learner, samples, state, (SAMPLES,)),
        in_specs=(
            PartitionSpec(),
            PartitionSpec(*[None] * dim, SAMPLES),
            PartitionSpec(),
        ),
        out_specs=PartitionSpec(),
        axis_names=frozenset([SAMPLES]),
        # Loops begin with constants that all devices share, and end with each device's own values.
        check_vma=False,
    )
    return mapped(learner, jnp.pad(samples, spare), state)


def _sum(found, num_latents):
    """Sums over samples slot by slot: Z itself would have a column for every atom, nearly all
    zeros.
    """
    places, codes, residual = found
    zeros = jnp.zeros(num_latents, codes.dtype)

    def add(w, total):
        return total.at[places[:, w]].add(codes[:, w, None] * residual)

    none = jnp.zeros((num_latents, residual.shape[1]), codes.dtype)
    return _Sums(
        lax.fori_loop(0, codes.shape[1], add, none),
        zeros.at[places].add(codes**2),
        zeros.at[places].add((codes != 0).astype(codes.dtype)),
        jnp.sum(residual**2),
    )


def _on_host(signals, atoms, least, epsilon, num_latents, num_slots, num_rounds):
    """Returns the sums and the codes from compiled loops, in which each sample only takes the steps
    that it needs.
    """

    def work(*arrays):
        signals, atoms, *scale = map(np.asarray, arrays)
        found = host_learning.reweighted_lasso(
            signals,
            atoms,
            *map(float, scale),
            num_slots=num_slots,
            num_rounds=num_rounds,
        )
        return found, host_learning.sums(*found, num_latents)

    def kind(*shape, dtype=signals.dtype):
        return jax.ShapeDtypeStruct(shape, dtype)

    num_samples, input_dim = signals.shape
    by_slot = (
        kind(num_samples, num_slots, dtype=jnp.int32),
        kind(num_samples, num_slots),
        kind(num_samples, input_dim),
    )
    by_latent = kind(num_latents, input_dim), kind(num_latents), kind(num_latents)
    found, (gradient, squares, uses) = jax.pure_callback(
        work, (by_slot, by_latent), signals, atoms, least, epsilon
    )
    codes = SlotCodes(*found)
    return _Sums(gradient, squares, uses, jnp.sum(codes.residual**2)), codes
