"""Statistics of a dictionary without any truth: similar atoms, dead ones, and whether two learners
agree.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core import Column, product
from sae_gap.core.matching import as_matrix, match_atoms
from sae_gap.encoders import unit_atoms
from sae_gap.learners import Given
from sae_gap.metrics import Inferred, Metric

# Two atoms with a |cosine| above this are duplicates.
DUPLICATE = 0.95
# Cosines held in memory at once.
_COSINES = 2**24


def describe_atoms(
    dictionary: Float[ArrayLike, "input_dim num_latents"],
) -> dict[str, Any]:
    """Coherence, near-duplicates and dead atoms.

    Args:
      dictionary: atoms of any norm, (input_dim, num_latents). Their cosines are held 64 MiB at a
        time.

    Returns:
      `dead_atoms`, how many have zero norm; `duplicates`, how many live atoms have a |cosine| above
      0.95 with another; and `coherence`, the percentiles from 0 to 100 of the largest |cosine| of
      each live atom, empty if fewer than two live.

    Raises:
      ValueError: the dictionary is not a finite, non-empty matrix.
    """
    atoms = unit_atoms(jnp.asarray(as_matrix("dictionary", dictionary)))[0]
    width = atoms.shape[1]
    live = np.asarray(atoms).any(axis=0)

    def cosine(place: jax.Array) -> jax.Array:
        return jnp.max(jnp.abs(product(atoms[:, place], atoms)).at[place].set(0))

    size = max(1, _COSINES // width)
    largest = jax.lax.map(cosine, jnp.arange(width), batch_size=size)
    largest = np.minimum(largest, 1)[live]
    coherence = []
    if len(largest) > 1:
        coherence = np.percentile(largest, np.arange(101)).tolist()
    return {
        "dead_atoms": int((~live).sum()),
        "duplicates": int((largest > DUPLICATE).sum()),
        "coherence": coherence,
    }


def agreement(left: Any, right: Any) -> float:
    """Mean matched |cosine| of two dictionaries of one width,
    `max_π mean_j |cos(left_π(j), right_j)|`.

    If two seeds of one learner agree, they have found something in the data. On drawn worlds an
    atom that both have is hardly ever wrong, and one that only one has may still be right
    (RESULTS.md, "Other laws"); `sae_gap.core.matching.match_atoms` gives the cosine of each atom.

    Args:
      left: atoms as columns, (input_dim, num_latents), or an object with a dictionary: a `Model`,
        an `SAE`, or the result of `learn`.
      right: the same.

    Returns:
      The mean, in [0, 1].

    Raises:
      ValueError: a dictionary is not a finite, non-empty matrix, or their shapes differ.
    """
    left = _atoms_of(left)
    right = _atoms_of(right)
    if left.shape != right.shape:
        raise ValueError(
            f"two dictionaries must have one shape to agree, but have {left.shape} and "
            f"{right.shape}."
        )
    return float(abs(match_atoms(left, right).cosine).mean())


def _atoms_of(source: Any) -> np.ndarray:
    model = getattr(source, "model", source)
    return as_matrix("a dictionary", getattr(model, "decoder", model))


def measure(inferred: Inferred) -> dict[str, Any]:
    """`describe_atoms` of the model, found once."""
    if inferred.model.dictionary is None:
        return {}
    return inferred.once("atoms", lambda: describe_atoms(inferred.model.decoder))


def agreement_with(first: Given) -> Metric:
    """A metric: the `agreement` of other models with a given one, if their shapes are equal."""

    def compare(inferred: Inferred) -> dict[str, float]:
        decoder = inferred.model.dictionary
        other = first.ready.decoder
        if inferred.learner == first or decoder is None or decoder.shape != other.shape:
            return {}
        return {
            "agreement": inferred.once("agreement", lambda: agreement(other, decoder))
        }

    return Metric(f"agreement with {first.held.digest}", compare, everywhere=False)


METRIC = Metric(
    "atom_statistics",
    measure,
    {
        "dead_atoms": Column("atoms of zero length"),
        "duplicates": Column("atoms that nearly equal another"),
    },
    everywhere=False,
)
