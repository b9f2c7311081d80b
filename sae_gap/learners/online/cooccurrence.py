"""Which atoms are used together, counted over samples."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

# i includes j if it is on in this share of j's uses; the share is larger where i is on in many
# samples anyway.
INCLUDES = 0.8
# Atoms with fewer uses are not judged.
LEAST_USES = 6
# A parent has this many times the uses of its child, lest two atoms that are always on together be
# each other's parent.
_MORE_USED = 1.02


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

    @property
    def uses(self) -> Float[Array, " num_latents"]:
        """The samples that use each atom."""
        return jnp.diagonal(self.together)

    @property
    def given(self) -> Float[Array, "num_latents num_latents"]:
        """P(i | j) in row i and column j, the share of j's uses in which i is on."""
        return self.together / jnp.maximum(self.uses, 1)


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


def includes(counts: Cooccurrence) -> Bool[Array, "num_latents num_latents"]:
    """Whether i includes j, in row i and column j: `1 - P(i | j) < (1 - includes) (1 - P(i))`.

    P(i) is the share of all samples that use i. So an atom that is nearly always on does not
    include others by that alone. An atom includes itself.
    """
    least = 1 - (1 - INCLUDES) * (1 - counts.uses / jnp.maximum(counts.number, 1))
    return (counts.given > least[:, None]) & (counts.uses >= LEAST_USES)


def parents(counts: Cooccurrence) -> Int[Array, " num_latents"]:
    """Each atom's parent, the least used of the atoms that include it and are used more often;
    num_latents where none is.
    """
    uses = counts.uses
    fits = includes(counts) & (uses[:, None] > _MORE_USED * uses)
    return jnp.where(
        jnp.any(fits, axis=0),
        jnp.argmin(jnp.where(fits, uses[:, None], jnp.inf), axis=0),
        len(uses),
    )


def mean_code(
    counts: Cooccurrence, i: Int[Array, "..."], j: Int[Array, "..."]
) -> Float[Array, "..."]:
    """The mean code of atoms i beside atoms j, where both are on, weighted by that of j:
    `z̄_ij = Σ z_i z_j / (P(i|j) Σ z_j)`. That of j beside itself is `Σ z_j² / Σ z_j`.
    """
    sums = jnp.maximum(counts.sums[j], jnp.finfo(counts.sums.dtype).tiny)
    return counts.products[i, j] / sums * counts.uses[j] / jnp.maximum(counts.together[i, j], 1)
