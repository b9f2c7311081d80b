r"""Atoms that are more coherent than chance makes them, parted.

Concepts are incoherent: in a high dimension two unit atoms of unrelated directions have a cosine of about `input_dim^-1/2`. A
sparse code of concepts that occur together is shorter on atoms that are their sums, which explain the signals as well; but a
parent's atom is then coherent with those of all its children, and these are with each other.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sae_gap.encoders.encoder import unit_atoms
from sae_gap.learners.learner import live_dims

# Cosine from which a pair is coherent, and in units of what chance makes; the share of it that is taken out.
COHERENT, CHANCES, WEIGHT = 0.3, 4, 0.5
# Columns of the atoms' Gram matrix that are formed at once.
_COLUMNS = 512


def chance(dictionary: Float[Array, "input_dim num_latents"]) -> Float[Array, ""]:
    """The cosine that unrelated atoms have by chance, `m^-1/2` in m dimensions; those that padding has added do not count."""
    return jnp.maximum(jnp.sum(live_dims(dictionary.T)), 1).astype(dictionary.dtype) ** -0.5


def coherent(dictionary: Float[Array, "input_dim num_latents"]) -> Float[Array, ""]:
    """The cosine above which a pair of atoms is coherent, `max(COHERENT, CHANCES m^-1/2)` in m dimensions."""
    return jnp.maximum(COHERENT, CHANCES * chance(dictionary))


def part(dictionary: Float[Array, "input_dim num_latents"], weight: float = WEIGHT) -> Float[Array, "input_dim num_latents"]:
    r"""Takes coherence out of coherent pairs of atoms, of which the less central moves.

    What is taken out, by `take_out`, is `s_j = Σ_i c_ij d_i`, with `c_ij = d_i · d_j` where i and j are coherent and i is the
    more central, that is, where its coherences add up to more: a parent's to more than a child's. Pairs are coherent above
    `coherent(dictionary)`, so that in 16 dimensions or fewer none are.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      weight: share of the coherence, at most.

    Returns:
      (input_dim, num_latents), of unit atoms.
    """
    input_dim, num_latents = dictionary.shape
    least = coherent(dictionary)
    number = -(-num_latents // _COLUMNS)
    size = -(-num_latents // number)
    blocks = jnp.pad(jnp.arange(num_latents), (0, number * size - num_latents), constant_values=num_latents)

    def coherences(block):
        """Of all atoms with those of a block; none of an atom with itself, nor of those that pad the last block."""
        cosine = dictionary.T @ jnp.take(dictionary, block, axis=1, mode="fill", fill_value=0)
        return jnp.where((cosine > least) & (jnp.arange(num_latents)[:, None] != block), cosine, 0)

    blocks = blocks.reshape(number, size)
    central = lax.map(lambda block: jnp.sum(coherences(block), axis=0), blocks).reshape(-1)

    def excess(block):
        much = coherences(block)
        return dictionary @ jnp.where(central[:num_latents, None] > central[block], much, 0)

    taken = jnp.moveaxis(lax.map(excess, blocks), 0, 1).reshape(input_dim, -1)[:, :num_latents]
    return take_out(dictionary, taken, weight)


def take_out(
    dictionary: Float[Array, "input_dim num_latents"], shared: Float[Array, "input_dim num_latents"], weight: float
) -> Float[Array, "input_dim num_latents"]:
    r"""Takes what each atom shares with others out of it, `d_j ← unit(d_j - min(weight, d_j · s_j / ‖s_j‖²) s_j)`.

    Where those others are coherent with each other, their sum s_j counts many times what they share. The bound is the step that
    leaves d_j orthogonal to s_j; a longer one would turn it the other way.

    Args:
      dictionary: (input_dim, num_latents), of unit atoms.
      shared: s_j in column j, zero where nothing is shared.
      weight: share that is taken out, at most.

    Returns:
      (input_dim, num_latents), of unit atoms, but for those of which nothing is left, which are zero.
    """
    squares = jnp.sum(shared**2, axis=0)
    most = jnp.sum(dictionary * shared, axis=0) / jnp.where(squares > 0, squares, 1)
    return unit_atoms(dictionary - jnp.minimum(weight, most) * shared)[0]


__all__ = ["chance", "coherent", "part", "take_out"]
