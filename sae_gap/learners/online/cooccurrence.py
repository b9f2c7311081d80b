"""Which atoms are used together, counted over samples."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


class Cooccurrence(NamedTuple):
    """Counts over samples with codes Z.

    Attributes:
      together: entry (i, j) counts the samples that use both i and j.
      products: ZᵀZ.
      sums: of each atom's codes.
      number: of the samples, those that use no atom included. The caller sets it, since
        `add_samples` also sees padding.
    """

    together: Float[Array, "num_latents num_latents"]
    products: Float[Array, "num_latents num_latents"]
    sums: Float[Array, " num_latents"]
    number: Float[Array, ""]


def empty_counts(num_latents: int, dtype) -> Cooccurrence:
    """The counts of no samples."""
    zeros = jnp.zeros((num_latents, num_latents), dtype)
    return Cooccurrence(zeros, zeros, zeros[0], jnp.zeros((), dtype))


def add_samples(
    counts: Cooccurrence, places: Int[Array, "n slots"], codes: Float[Array, "n slots"]
) -> Cooccurrence:
    """Adds samples whose codes are given by slot: sample i uses atom `places[i, w]` if
    `codes[i, w]` is positive.
    """

    def add(w, counts):
        row, on = places[:, w, None], (codes[:, w, None] > 0) & (codes > 0)
        product = codes[:, w, None] * codes
        together = counts.together.at[row, places].add(on.astype(codes.dtype))
        return counts._replace(
            together=together, products=counts.products.at[row, places].add(product)
        )

    counts = counts._replace(sums=counts.sums.at[places].add(codes))
    return lax.fori_loop(0, codes.shape[1], add, counts)


def drop_atoms(counts: Cooccurrence, dropped: Bool[Array, " num_latents"]) -> Cooccurrence:
    """Sets the counts of some atoms to zero, as for atoms that have changed since they were
    counted.
    """
    kept = ~(dropped[:, None] | dropped)
    together, products = (jnp.where(kept, table, 0) for table in (counts.together, counts.products))
    return counts._replace(
        together=together, products=products, sums=jnp.where(dropped, 0, counts.sums)
    )


def conditional(
    counts: Cooccurrence,
) -> tuple[Float[Array, "num_latents num_latents"], Float[Array, " num_latents"]]:
    """P(i | j) in row i and column j, the share of j's uses in which i is on, zero on the diagonal;
    and each atom's uses.
    """
    uses = jnp.diagonal(counts.together)
    given = counts.together / jnp.maximum(uses, 1)
    return given - jnp.diag(jnp.diagonal(given)), uses
