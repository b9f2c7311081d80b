"""The dictionary of a batch of working sets: atoms as rows, whole on every device or spread over several, and their products.

Where it is spread, every device has the correlations of its own atoms; what crosses between devices is the leading violator of
every block, and the few atoms that samples hold in their slots.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sae_gap.core import lasso_problem
from sae_gap.runtime import sharding

# A Gram matrix of all atoms costs `num_latents / n` products, and beyond this many atoms it would not stay in cache.
LARGEST_GRAM = 2048
# Rows of this many floats fill the vector registers of every current processor evenly.
LANES = 16
# Blocks of atoms, of which each sends one violator a round.
NUM_BLOCKS = 256


class Problem(eqx.Module):
    """What all samples share: atoms as rows, padded to whole blocks, and their Gram matrix where that is cheap.

    The weight of sample i and atom j is `row_i column_j`, with `row` and `column` those of the `State` where it has its own.
    `latents` is the axis of the mesh over whose devices the atoms are spread, or None where every device has them all.
    """

    atoms: Float[Array, "num_padded input_dim"]
    column: Float[Array, "1 num_padded"]
    norms: Float[Array, " num_padded"]
    gram: Float[Array, "num_padded num_padded"] | None
    tol: Float[Array, ""]
    limit: Int[Array, ""]
    num_blocks: int = eqx.field(static=True)
    nonneg: bool = eqx.field(static=True)
    latents: str | None = eqx.field(static=True, default=None)


def pose(
    dictionary: Float[Array, "input_dim num_latents"],
    column: Float[Array, "1 num_latents"] | None,
    *,
    tol: Float[Array, ""] | float,
    limit: Int[Array, ""] | int,
    nonneg: bool,
    with_gram: bool,
    latents: str | None = None,
) -> Problem:
    """Set up what the samples share; `column` are factors on every sample's weight."""
    num_latents = dictionary.shape[1]
    num_blocks = min(NUM_BLOCKS, LANES * -(-num_latents // LANES))
    # Every device has the same number of whole blocks.
    spare = -num_latents % (num_blocks * sharding.axis_size(latents))
    atoms = sharding.spread(jnp.pad(dictionary.T, ((0, spare), (0, 0))), latents, 0)
    column = jnp.ones((1, num_latents), dictionary.dtype) if column is None else column
    return Problem(
        atoms=atoms,
        column=sharding.spread(jnp.pad(column, ((0, 0), (0, spare))), latents, None),
        norms=sharding.spread(jnp.sum(atoms**2, axis=1), latents, None),
        gram=lasso_problem.product(atoms, atoms.T) if with_gram else None,
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
    """The atoms in the slots of each sample: looked up where they are, or fetched from the devices that have them."""

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
    """The atoms at some places; those needed often are fetched once, where they lie on several devices."""
    once = often and problem.latents is not None
    return Held(problem.atoms, places, sharding.spread(problem.atoms[places], problem.latents, None) if once else None)


def combine(held: Held, weights: Float[Array, "n slots"]) -> Float[Array, "n input_dim"]:
    """Weighted sum of each sample's atoms. A loop of row gathers stays in cache where one gather of all slots would not."""

    def add(w, total):
        return total + weights[:, w, None] * held.slot(w)

    return lax.fori_loop(0, _last(weights != 0), add, jnp.zeros((len(weights), held.atoms.shape[1]), weights.dtype))


def residual(held: Held, signals: Float[Array, "n input_dim"], weights: Float[Array, "n slots"]) -> Float[Array, "n input_dim"]:
    """Signals less the weighted sum of each sample's atoms, with the roundoff of every subtraction added up and put back."""

    def subtract(w, carry):
        total, lost = carry
        term = -weights[:, w, None] * held.slot(w)
        new = total + term
        grown = new - total
        return new, lost + ((total - (new - grown)) + (term - grown))

    total, lost = lax.fori_loop(0, _last(weights != 0), subtract, (signals, jnp.zeros_like(signals)))
    return total + lost


def correlate(
    held: Held, theta: Float[Array, "n input_dim"], wanted: Bool[Array, "n slots"] | None = None
) -> Float[Array, "n slots"]:
    """Correlation of theta with each slot's atom, disregarding its sign; of no matter where it is not wanted."""
    # A product with ones vectorises; the plain sum along contiguous memory would not.
    ones = jnp.ones(theta.shape[1], theta.dtype)
    count = held.places.shape[1] if wanted is None else _last(wanted)

    def fill(w, out):
        return out.at[:, w].set(lasso_problem.product(held.slot(w) * theta, ones))

    return lax.fori_loop(0, count, fill, jnp.zeros(held.places.shape, theta.dtype))


def _last(wanted: Bool[Array, "n slots"]) -> Int[Array, ""]:
    """One past the last slot that any sample wants."""
    return jnp.max(jnp.where(jnp.any(wanted, axis=0), jnp.arange(1, wanted.shape[1] + 1), 0))


__all__ = ["LANES", "Held", "Problem", "combine", "correlate", "hold", "pose", "residual", "wants_gram"]
