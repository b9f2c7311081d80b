"""Samples coded a few at a time, and summed into what they tell of the dictionary."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from sae_gap.core.checks import check_size
from sae_gap.runtime.sharding import LATENTS, axis_size
from sae_gap.solvers.reweighted import Pursuit, atom_rows, pursue, unpadded
from sae_gap.solvers.working_set import default_slots

# Samples coded at once, whose slots stay in cache.
CHUNK = 128
# Samples from which the first threshold is found, and how often they are coded for that.
FIRST, TRIES = 1_024, 3
# Visits are for each latent, or for each of so many where they are fewer: a small dictionary takes as many minibatches.
LEAST = 500


class Pulls(NamedTuple):
    """Sums over samples with codes Z and residual R: all that a step of the dictionary needs of them.

    `pull` is Zᵀ R, `squares` and `uses` are each atom's squared codes and the number of those that are not zero, and `lost` is
    the squared residual.
    """

    pull: Float[Array, "num_latents input_dim"]
    squares: Float[Array, " num_latents"]
    uses: Float[Array, " num_latents"]
    lost: Float[Array, ""]


def pull(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    threshold: Float[Array, ""],
    epsilon: Float[Array, ""],
    *,
    num_slots: int | None = None,
    num_rounds: int = 3,
    nonneg: bool = True,
    tally: Callable[[PyTree, Pursuit], PyTree] = lambda tallied, _: tallied,
    begun: PyTree = None,
) -> tuple[Pulls, Float[Array, "n input_dim"], PyTree]:
    """Codes samples by `pursue` and sums what they tell.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`, of unit atoms.
      threshold: that of `pursue`.
      epsilon: that of `pursue`.
      num_slots: atoms that a sample may use; None takes `default_slots`.
      num_rounds: that of `pursue`.
      nonneg: that of `pursue`.
      tally: what else to count of the codes of each chunk, by slot and latent, on top of what was counted before.
      begun: the tally of no samples.

    Returns:
      The sums, the residual of each sample, `(n, input_dim)`, and the tally.
    """
    num_samples, input_dim = signals.shape
    num_latents = dictionary.shape[1]
    slots = num_slots or default_slots(*dictionary.shape)
    parts = axis_size(LATENTS)
    atoms = atom_rows(dictionary, slots, parts)

    def code(carry, chunk):
        sums, tallied = carry
        found = pursue(chunk, atoms, threshold, epsilon, num_slots=slots, num_rounds=num_rounds, nonneg=nonneg)
        found = found._replace(places=unpadded(found.places, num_latents, len(atoms), parts))
        return (_add(sums, found), tally(tallied, found)), found.residual

    chunks = -(-num_samples // CHUNK)
    size = -(-num_samples // chunks)
    padded = jnp.pad(signals, ((0, chunks * size - num_samples), (0, 0))).reshape(chunks, size, input_dim)
    zeros = jnp.zeros(num_latents, signals.dtype)
    sums = Pulls(jnp.zeros((num_latents, input_dim), signals.dtype), zeros, zeros, zeros[0])
    (sums, tallied), residual = lax.scan(code, (sums, begun), padded)
    return sums, residual.reshape(-1, input_dim)[:num_samples], tallied


def threshold(noise, amplitude, margin, floor) -> Float[Array, ""]:
    """`max(margin σ, floor a)`, above zero for signals of zeros, which have neither noise nor amplitude."""
    return jnp.maximum(margin * noise, floor * amplitude) + jnp.finfo(jnp.asarray(noise).dtype).tiny ** 0.5


def spreads(sums: Pulls, number: int, input_dim: int, live) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Root mean squares over samples that were coded: of the residual's coordinates, and of the active codes.

    Args:
      sums: of the samples.
      number: how many they are.
      input_dim: of the signals.
      live: share of the dimensions in which any signal is not zero.
    """
    noise = jnp.sqrt(sums.lost / (number * input_dim * live))
    return noise, jnp.sqrt(jnp.sum(sums.squares) / jnp.maximum(jnp.sum(sums.uses), 1))


def scales(signals, dictionary, live, margin, floor, *, num_slots: int | None = None, epsilon: float = 1.0):
    """σ and a of `threshold`, where nothing is known of them: from the first samples, which are coded a few times.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`, of unit atoms.
      live: share of the dimensions in which any signal is not zero.
      margin: of the threshold.
      floor: of the threshold.
      num_slots: that of `pull`.
      epsilon: that of `pull`, in units of the threshold.

    Returns:
      σ and a, scalars.
    """
    some = signals[:FIRST]

    def coded(found, _):
        noise, amplitude = found
        least = threshold(noise, amplitude, margin, floor)
        sums, _, _ = pull(some, dictionary, least, epsilon * least, num_slots=num_slots)
        return spreads(sums, len(some), len(dictionary), live), None

    # As if the signals were single atoms.
    begun = jnp.zeros((), signals.dtype), jnp.sqrt(jnp.mean(jnp.sum(some**2, axis=1)))
    return lax.scan(coded, begun, length=TRIES)[0]


def visited(visits: float, num_samples: int, num_latents: int) -> int:
    """How many samples are coded, so many for each latent, or for each of `LEAST` if they are fewer; no more than there are."""
    return min(num_samples, max(1, round(visits * max(num_latents, LEAST))))


def check_slots(num_slots: int | None) -> None:
    """Raises a ValueError unless the number of slots is None or one that `pursue` takes."""
    if num_slots is None:
        return
    check_size("num_slots", num_slots)
    if num_slots % 4:
        raise ValueError(f"num_slots must be a multiple of 4, but it is {num_slots}.")


def _add(sums: Pulls, found: Pursuit) -> Pulls:
    """The sums with some samples more. Slot by slot: Z itself would have a column for every atom, nearly all of it zeros."""

    def add(w, total):
        return total.at[found.places[:, w]].add(found.codes[:, w, None] * found.residual)

    return Pulls(
        lax.fori_loop(0, found.codes.shape[1], add, sums.pull),
        sums.squares.at[found.places].add(found.codes**2),
        sums.uses.at[found.places].add((found.codes != 0).astype(sums.uses.dtype)),
        sums.lost + jnp.sum(found.residual**2),
    )


__all__ = ["CHUNK", "LEAST", "Pulls", "check_slots", "pull", "scales", "spreads", "threshold", "visited"]
