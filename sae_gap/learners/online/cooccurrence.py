"""Counts over samples which atoms are used together.

Most pairs of atoms hardly ever meet. Families show in pairs of which one atom is on in a good share
of the other's uses. An atom has few such partners: at most its samples' mean L0 divided by that
share. So a row of partners is kept for each atom, and memory grows with their number, not with the
square of the width.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.numpy import arange, maximum, pad, where
from jaxtyping import Array, Bool, Float, Int

# i is a partner of j if it is on in more than this share of j's uses. No rule may ask for less.
PARTNERS = 0.4
# i includes j if it is on in this share of j's uses; the share is larger if i is on in many samples
# anyway.
INCLUDES = 0.8
# Atoms with fewer uses are not judged.
LEAST_USES = 6
# A parent has this many times the uses of its child; otherwise two atoms that are always on
# together would be each other's parent.
_MORE_USED = 1.02
# How many atoms' pairs are counted at once, and how many uses are added at once.
_ATOMS = 512
_USES = 2_048


class Cooccurrence(NamedTuple):
    """Counts over samples with codes Z. Row j is atom j's.

    Attributes:
      partners: the atoms i that are on in more than `PARTNERS` of j's uses, in the order of their
        numbers. If they do not all fit, those with the largest shares are kept; num_latents fills
        up the row.
      together: the number of samples that use both i and j.
      products: Σ z_i z_j.
      uses: the number of samples that use j.
      sums: Σ z_j.
      squares: Σ z_j².
      number: the number of samples, including those that use no atom.
    """

    partners: Int[Array, "num_latents partners"]
    together: Float[Array, "num_latents partners"]
    products: Float[Array, "num_latents partners"]
    uses: Float[Array, " num_latents"]
    sums: Float[Array, " num_latents"]
    squares: Float[Array, " num_latents"]
    number: Float[Array, ""]

    @property
    def given(self) -> Float[Array, "num_latents partners"]:
        """P(i | j), the share of j's uses in which i is on."""
        return self.together / maximum(self.uses, 1)[:, None]

    @property
    def size(self) -> Float[Array, " num_latents"]:
        """z̄_j, the mean code of j weighted by itself, `Σ z_j² / Σ z_j`."""
        return mean_code(self.squares, self.uses, self.sums, self.uses)

    @property
    def beside(self) -> Float[Array, "num_latents partners"]:
        """z̄_ij, the mean code of i where both are on, weighted by the code of j:
        `Σ z_i z_j / (P(i|j) Σ z_j)`.
        """
        return mean_code(
            self.products, self.together, self.sums[:, None], self.uses[:, None]
        )

    def of(
        self, values: Float[Array, " num_latents"]
    ) -> Float[Array, "num_latents partners"]:
        """Returns for each partner its entry of `values`, which has one number per atom."""
        return values[self.partners]


def mean_code(products, together, sums, uses):
    """Returns the mean code of one atom beside another, weighted by the other's code; sums and uses
    are the other's.
    """
    tiny = jnp.finfo(products.dtype).tiny
    return products / maximum(sums, tiny) * uses / maximum(together, 1)


class Uses(NamedTuple):
    """Positive codes, in the order of their atoms; free slots fill up the end.

    Attributes:
      atoms: num_latents at the end.
      samples: the row of each code.
      codes: zeros at the end.
      begins: where the uses of each atom begin, and where the last atom's end.
    """

    atoms: Int[Array, " uses"]
    samples: Int[Array, " uses"]
    codes: Float[Array, " uses"]
    begins: Int[Array, " ends"]

    def some(self, begin: int | Int[Array, ""]) -> list[Array]:
        """Returns the atoms, samples and codes of `_USES` uses, from `begin` on."""
        columns = self.atoms, self.samples, self.codes
        return [lax.dynamic_slice(column, (begin,), (_USES,)) for column in columns]


def uses_of(places, codes, num_latents):
    """Returns the uses in samples with codes by slot, both (n, slots): sample i uses atom
    `places[i, w]` if `codes[i, w]` is positive.
    """
    atoms = where(codes > 0, places, num_latents).reshape(-1)
    order = jnp.argsort(atoms, stable=True)
    atoms = atoms[order]
    codes = where(codes > 0, codes, 0).reshape(-1)[order]
    begins = jnp.searchsorted(atoms, arange(num_latents + 1))
    # Padded, so that a slice may begin anywhere.
    atoms = pad(atoms, (0, _USES), constant_values=num_latents)
    samples = pad(order // places.shape[1], (0, _USES))
    return Uses(atoms, samples, pad(codes, (0, _USES)), begins)


def energy_product(uses, rows, num_samples):
    """ZᵀZ X for codes Z and rows X, (num_latents, input_dim), as fast as two decodings, without a
    width × width matrix.
    """

    def over_uses(add, total):
        return lax.while_loop(
            lambda carry: carry[0] < uses.begins[-1],
            lambda carry: (carry[0] + _USES, add(carry[1], *uses.some(carry[0]))),
            (0, total),
        )[1]

    signals = over_uses(
        lambda total, atoms, samples, codes: total.at[samples].add(
            codes[:, None] * rows[atoms]
        ),
        jnp.zeros((num_samples, rows.shape[1]), rows.dtype),
    )
    return over_uses(
        lambda total, atoms, samples, codes: total.at[atoms].add(
            codes[:, None] * signals[samples]
        ),
        jnp.zeros_like(rows),
    )


def count(uses, places, codes, number):
    """Counts samples, with codes by slot, (n, slots). An atom has room for as many partners as a
    sample has slots.

    The time is that of all pairs in all samples. The memory is n · slots numbers, and the pairs of
    a few atoms with all others.
    """
    dtype = codes.dtype
    num_latents = len(uses.begins) - 1
    some = min(_ATOMS, num_latents)
    most = min(codes.shape[1], num_latents)
    times = jnp.diff(uses.begins)

    def pairs(begin):
        """Returns the pairs of `some` atoms, from `begin` on."""
        names = begin + arange(some)
        end = uses.begins[jnp.minimum(begin + some, num_latents)]

        def add(carry):
            use, together, products = carry
            atoms, samples, own = uses.some(use)
            # JAX drops rows of later atoms.
            row = (atoms - begin)[:, None]
            column = places[samples]
            other = codes[samples]
            return (
                use + _USES,
                together.at[row, column].add((other > 0).astype(dtype), mode="drop"),
                products.at[row, column].add(own[:, None] * other, mode="drop"),
            )

        empty = jnp.zeros((some, num_latents), dtype)
        _, together, products = lax.while_loop(
            lambda carry: carry[0] < end, add, (uses.begins[begin], empty, empty)
        )
        share = together / maximum(times[names], 1)[:, None]
        share = where(arange(num_latents) == names[:, None], 0, share)
        share, partners = lax.top_k(share, most)
        partners = jnp.sort(where(share > PARTNERS, partners, num_latents), axis=1)
        took = (
            jnp.take_along_axis(table, partners, axis=1, mode="fill", fill_value=0)
            for table in (together, products)
        )
        return partners, *took

    begins = arange(0, num_latents, some)
    partners, together, products = (
        each.reshape(-1, most)[:num_latents] for each in lax.map(pairs, begins)
    )
    zeros = jnp.zeros(num_latents, dtype)
    return Cooccurrence(
        partners,
        together,
        products,
        times.astype(dtype),
        zeros.at[uses.atoms].add(uses.codes),
        zeros.at[uses.atoms].add(uses.codes**2),
        jnp.asarray(number, dtype),
    )


def drop_atoms(counts, dropped):
    """Sets the counts of some atoms to zero, such as atoms that changed since they were counted."""
    gone = dropped[:, None] | dropped[counts.partners]
    partners = where(gone, len(dropped), counts.partners)
    kept = (where(gone if each.ndim == 2 else dropped, 0, each) for each in counts[1:6])
    return Cooccurrence(partners, *kept, counts.number)  # type: ignore[call-arg]


def includes(counts: Cooccurrence) -> Bool[Array, "num_latents partners"]:
    """Tells whether each partner i of j includes it: `1 - P(i | j) < (1 - includes) (1 - P(i))`.

    P(i) is the share of all samples that use i. It keeps an atom that is nearly always on from
    including others for that reason alone.
    """
    return (counts.given > counts.of(least_share(counts))) & (
        counts.uses >= LEAST_USES
    )[:, None]


def least_share(counts: Cooccurrence) -> Float[Array, " num_latents"]:
    """Returns the share of another atom's uses above which each atom includes it."""
    return 1 - (1 - INCLUDES) * (1 - counts.uses / maximum(counts.number, 1))


def parents(counts: Cooccurrence) -> Int[Array, " num_latents"]:
    """Returns each atom's parent: the least used atom that includes it and is used more often;
    num_latents if there is none.
    """
    uses = counts.of(counts.uses)
    fits = includes(counts) & (uses > _MORE_USED * counts.uses[:, None])
    least = jnp.argmin(where(fits, uses, jnp.inf), axis=1)
    parent = jnp.take_along_axis(counts.partners, least[:, None], axis=1)[:, 0]
    return where(jnp.any(fits, axis=1), parent, len(counts.uses))


def with_partner(
    counts: Cooccurrence, values: Float[Array, "num_latents partners"], partner
):
    """Returns each row's value for one of its partners, (num_latents,); 0 if the atom is no
    partner.
    """
    return jnp.sum(where(counts.partners == partner[:, None], values, 0), axis=1)
