"""The dictionary of a batch of working sets: atoms as rows, their products with samples, and the
search for the leading ones.

The atoms lie whole on every device, or are sharded over several. Sharded, each device correlates
its own atoms; only the leader of every block, and the few atoms in the slots of samples, cross
between devices.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sae_gap.core.lasso_problem import product
from sae_gap.runtime import sharding

# A Gram matrix of all atoms costs `num_latents / n` products, and with more atoms than this it
# leaves the cache.
LARGEST_GRAM = 2048
# Rows of this many floats fill the vector registers of every current processor evenly.
LANES = 16
# Blocks of atoms; each sends one violator a round.
NUM_BLOCKS = 256
# Groups of blocks; each sends the same number of leaders.
GROUPS = 2


class Problem(eqx.Module):
    """What all samples share: atoms as rows, padded to whole blocks.

    The weight of sample i and atom j is `row_i column_j`; samples may have columns of their own,
    see `slots.Samples`. `latents` names the mesh axis that the atoms are sharded over; None keeps
    them whole on every device.
    """

    atoms: Float[Array, "num_padded input_dim"]
    column: Float[Array, "1 num_padded"]
    norms: Float[Array, " num_padded"]
    tol: Float[Array, ""]
    limit: Int[Array, ""]
    num_blocks: int = eqx.field(static=True)
    nonneg: bool = eqx.field(static=True)
    latents: str | None = eqx.field(static=True)


def pose(
    dictionary: Float[Array, "input_dim num_latents"],
    column: Float[Array, "1 num_latents"] | None,
    *,
    tol: Float[Array, ""] | float,
    limit: Int[Array, ""] | int,
    nonneg: bool,
    latents: str | None = None,
) -> Problem:
    """Set up what the samples share; `column` holds the factors on every sample's weight, None
    where samples have their own.
    """
    num_latents = dictionary.shape[1]
    num_blocks = min(NUM_BLOCKS, LANES * -(-num_latents // LANES))
    # Every device has the same number of whole blocks.
    spare = -num_latents % (num_blocks * sharding.axis_size(latents))
    atoms = sharding.shard(jnp.pad(dictionary.T, ((0, spare), (0, 0))), latents, 0)
    column = jnp.ones((1, num_latents), dictionary.dtype) if column is None else column
    return Problem(
        atoms=atoms,
        column=sharding.shard(jnp.pad(column, ((0, 0), (0, spare))), latents, None),
        norms=sharding.shard(jnp.sum(atoms**2, axis=1), latents, None),
        tol=jnp.asarray(tol, dictionary.dtype),
        limit=jnp.asarray(limit, jnp.int32),
        num_blocks=num_blocks,
        nonneg=nonneg,
        latents=latents,
    )


def wants_gram(num_latents: int, num_samples: int) -> bool:
    """Whether the Gram matrix of all atoms is worth its products, and fits in cache."""
    return num_latents <= min(LARGEST_GRAM, 2 * num_samples)


class Held(NamedTuple):
    """The atoms in the slots of each sample: looked up where they lie, or fetched once from the
    devices that have them.
    """

    atoms: Float[Array, "num_padded input_dim"]
    places: Int[Array, "n slots"]
    fetched: Float[Array, "n slots input_dim"] | None

    def slot(self, w: Int[Array, ""] | int) -> Float[Array, "n input_dim"]:
        """The atoms of one slot."""
        return self.atoms[self.places[:, w]] if self.fetched is None else self.fetched[:, w]

    def all(self) -> Float[Array, "n slots input_dim"]:
        """The atoms of all slots."""
        return self.atoms[self.places] if self.fetched is None else self.fetched


def hold(problem: Problem, places: Int[Array, "n slots"], *, often: bool = False) -> Held:
    """The atoms at some places. Sharded atoms that are needed `often` are fetched once."""
    once = often and problem.latents is not None
    return Held(
        problem.atoms,
        places,
        sharding.shard(problem.atoms[places], problem.latents, None) if once else None,
    )


def combine(held: Held, weights: Float[Array, "n slots"]) -> Float[Array, "n input_dim"]:
    """Weighted sum of each sample's atoms. A loop of row gathers stays in cache where one gather of
    all slots would not.
    """

    def add(w, total):
        return total + weights[:, w, None] * held.slot(w)

    return lax.fori_loop(
        0, _last(weights != 0), add, jnp.zeros((len(weights), held.atoms.shape[1]), weights.dtype)
    )


def residual(
    held: Held, signals: Float[Array, "n input_dim"], weights: Float[Array, "n slots"]
) -> Float[Array, "n input_dim"]:
    """Signals less the weighted sum of each sample's atoms; the roundoff of every subtraction is
    summed and put back.
    """

    def subtract(w, carry):
        total, lost = carry
        term = -weights[:, w, None] * held.slot(w)
        new = total + term
        grown = new - total
        return new, lost + ((total - (new - grown)) + (term - grown))

    total, lost = lax.fori_loop(
        0, _last(weights != 0), subtract, (signals, jnp.zeros_like(signals))
    )
    return total + lost


def correlate(
    held: Held, theta: Float[Array, "n input_dim"], wanted: Bool[Array, "n slots"]
) -> Float[Array, "n slots"]:
    """Correlation of theta with the atom of each wanted slot; the others hold no meaning."""
    # A product with ones vectorises; the plain sum along contiguous memory would not.
    ones = jnp.ones(theta.shape[1], theta.dtype)

    def fill(w, out):
        return out.at[:, w].set(product(held.slot(w) * theta, ones))

    return lax.fori_loop(0, _last(wanted), fill, jnp.zeros(held.places.shape, theta.dtype))


def _last(wanted: Bool[Array, "n slots"]) -> Int[Array, ""]:
    """One past the last slot that any sample wants."""
    return jnp.max(jnp.where(jnp.any(wanted, axis=0), jnp.arange(1, wanted.shape[1] + 1), 0))


def leaders(
    scores: Float[Array, "n num_latents"], num_blocks: int, count: int
) -> Int[Array, "n count"]:
    """The largest score of each of `num_blocks` interleaved blocks, and of these about the `count`
    largest, without a sort.

    A non-negative float orders like its bits. The position of an entry can therefore ride in its
    lowest bits through a plain maximum, which vectorises where an argmax or a sort does not. The
    blocks play off in `GROUPS` groups. The largest score is always among the leaders, up to the
    bits that the positions take.

    Args:
      scores: `(n, num_latents)`, non-negative.
      num_blocks: a divisor of num_latents and a multiple of GROUPS.
      count: leaders wanted, a multiple of GROUPS.

    Returns:
      `(n, count)` indices.
    """
    num_samples, num_latents = scores.shape
    rows, seats = num_latents // num_blocks, num_blocks // GROUPS
    whole = jnp.int32 if scores.dtype == jnp.float32 else jnp.int64
    bits = lax.bitcast_convert_type(scores, whole).reshape(num_samples, rows, num_blocks)
    best = jnp.max(_tag(bits, jnp.arange(rows, dtype=whole)[:, None], rows), axis=1)
    # Samples last, so that every step runs along contiguous memory.
    field = _tag(
        best.T.reshape(seats, GROUPS, num_samples),
        jnp.arange(seats, dtype=whole)[:, None, None],
        seats,
    )
    winners = []
    for _ in range(count // GROUPS):
        top = jnp.max(field, axis=0)
        winners.append(top)
        field = jnp.where(field == top, 0, field)
    won = jnp.stack(winners)
    block = (won & mask(seats)) * GROUPS + jnp.arange(GROUPS, dtype=whole)[:, None]
    block = block.reshape(-1, num_samples).T.astype(jnp.int32)
    row = jnp.take_along_axis(best, block, axis=1) & mask(rows)
    return (row * num_blocks + block).astype(jnp.int32)


def mask(size: int) -> int:
    """The bits of the positions below `size`."""
    return (1 << (size - 1).bit_length()) - 1


def _tag(bits, position, size):
    return (bits & ~mask(size)) | position
