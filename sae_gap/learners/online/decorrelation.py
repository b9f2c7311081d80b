"""Decorrelates pairs of atoms that are more coherent than chance makes them.

Concepts are incoherent: two unit atoms of unrelated directions in m dimensions have a cosine of
about m^-½. If concepts occur together, a sparse code is shorter on atoms that are their sums, and
such atoms are coherent: a parent's with each child's, and the children's with each other.
"""

import jax.numpy as jnp
from jax import lax
from jax.numpy import where
from jaxtyping import Array, Float

from sae_gap.encoders import unit_atoms
from sae_gap.learners import includes, live_dims

# A pair of atoms is coherent if its cosine exceeds this and this many times the cosine of chance.
COHERENT = 0.3
CHANCES = 4
# An atom loses at most this share of its coherence at once.
WEIGHT = 0.5
# Columns of the atoms' Gram matrix that are formed at once.
GRAM_COLUMNS = 512


def chance_cosine(dictionary):
    """Returns the cosine of unrelated atoms by chance, `m^-½`; m leaves out padded dimensions."""
    return (
        jnp.maximum(jnp.sum(live_dims(dictionary.T)), 1).astype(dictionary.dtype)
        ** -0.5
    )


def coherent_cosine(
    dictionary: Float[Array, "input_dim num_latents"],
) -> Float[Array, ""]:
    """Returns the cosine above which a pair of atoms is coherent, `max(COHERENT, CHANCES m^-½)`: no
    pair is in 16 dimensions or fewer.
    """
    return jnp.maximum(COHERENT, CHANCES * chance_cosine(dictionary))


def decorrelate_atoms(dictionary):
    """Decorrelates coherent atoms: in each pair the more central one stays, and the other moves.

    With the coherences `c_ij = d_i · d_j` of coherent pairs, and 0 elsewhere, the more central atom
    has the larger `Σ_i c_ij`: it is the parent, coherent with all its children. Atom j loses
    `s_j = Σ c_ij d_i`, over the i more central than j, by `subtract_shared`.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.

    Returns:
      (input_dim, num_latents), of unit atoms.
    """
    least = coherent_cosine(dictionary)
    names = jnp.arange(dictionary.shape[1])

    def coherences(name):
        cosines = dictionary.T @ dictionary[:, name]
        return where((cosines > least) & (names != name), cosines, 0)

    def shared(name):
        return dictionary @ where(central > central[name], coherences(name), 0)

    central = lax.map(
        lambda name: jnp.sum(coherences(name)), names, batch_size=GRAM_COLUMNS
    )
    return subtract_shared(
        dictionary, lax.map(shared, names, batch_size=GRAM_COLUMNS).T, WEIGHT
    )


def decorrelate_children(dictionary, counts, weight):
    """Subtracts from each atom j what it shares with atoms that include it,
    `s_j = Σ_i (d_i · d_j) d_i`, by `subtract_shared`.

    The sum is over the atoms i that include j, are used more often, and have a |cosine| with j
    above chance. Negative cosines count too: beside an atom `p + c_1` the other children may be
    learned as `c_k - c_1`. Once these become c_k, the merged atom has smaller codes beside them
    than without them, which `split_merged_parents` looks for.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      counts: the co-occurrence of its atoms.
      weight: the largest share of its coherence that an atom loses.

    Returns:
      (input_dim, num_latents), of unit atoms.
    """
    rows = dictionary.T
    least = chance_cosine(dictionary)
    above = includes(counts) & (counts.of(counts.uses) > counts.uses[:, None])

    def shared(name):
        others = rows[counts.partners[name]]
        cosines = others @ rows[name]
        return where(above[name] & (jnp.abs(cosines) > least), cosines, 0) @ others

    shares = lax.map(shared, jnp.arange(len(rows)), batch_size=GRAM_COLUMNS)
    return subtract_shared(dictionary, shares.T, weight)


def subtract_shared(dictionary, shared, weight):
    """Subtracts from each atom what it shares with others,
    `d_j ← unit(d_j - min(weight, d_j · s_j / ‖s_j‖²) s_j)`.

    The second term of the minimum is the step that makes d_j orthogonal to s_j; a longer one would
    reverse their product. It matters if the others are coherent with each other: their sum s_j then
    counts what they share many times.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      shared: s_j in column j, zero if nothing is shared.
      weight: the longest step.

    Returns:
      (input_dim, num_latents), of unit atoms; an atom without a remainder is zero.
    """
    squares = jnp.sum(shared**2, axis=0)
    most = jnp.sum(dictionary * shared, axis=0) / where(squares > 0, squares, 1)
    return unit_atoms(dictionary - jnp.minimum(weight, most) * shared)[0]
