"""A dictionary by itself, without any truth: how alike its atoms are, which are dead, and whether
two learners agree.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from sae_gap.core import matching
from sae_gap.core.lasso_problem import product
from sae_gap.core.registry import Column
from sae_gap.encoders.encoder import unit_atoms
from sae_gap.learners.given import Given
from sae_gap.metrics.metric import Inferred, Metric

# Above this largest |cosine| an atom is nearly another one.
DUPLICATE = 0.95
# Percentiles of each atom's largest |cosine| that a description keeps.
QUANTILES = tuple(range(101))
# Floats of the cosines that are held at once.
_COSINES = 2**24


class Atoms(NamedTuple):
    """A dictionary in numbers.

    Attributes:
      num_latents: atoms, dead ones counted.
      dead: atoms of zero norm.
      duplicates: live atoms whose largest |cosine| with another is above `DUPLICATE`.
      coherence: quantiles, at `QUANTILES` per cent, over live atoms of the largest |cosine| with
        another; empty of fewer than two.
    """

    num_latents: int
    dead: int
    duplicates: int
    coherence: tuple[float, ...]


def largest_cosines(
    dictionary: Float[ArrayLike, "input_dim num_latents"],
) -> Float[np.ndarray, " num_latents"]:
    """For each atom, `max_{l ≠ j} |cos(d_j, d_l)|`; 0 for an atom of zeros.

    Args:
      dictionary: atoms of any norm, (input_dim, num_latents). Their cosines are held in blocks of
        64 MiB.

    Returns:
      The largest of each.

    Raises:
      ValueError: the dictionary is not a finite, non-empty matrix.
    """
    atoms = unit_atoms(jnp.asarray(matching.as_matrix("dictionary", dictionary)))[0]
    size = max(1, _COSINES // atoms.shape[1])
    starts = range(0, atoms.shape[1], size)
    return np.minimum(
        np.concatenate(
            [_largest(atoms, atoms[:, start : start + size], start) for start in starts]
        ),
        1,
    )


@jax.jit
def _largest(atoms, block, start):
    places = jnp.arange(block.shape[1])
    return jnp.max(jnp.abs(product(block.T, atoms)).at[places, start + places].set(0), axis=1)


def describe_atoms(dictionary: Float[ArrayLike, "input_dim num_latents"]) -> Atoms:
    """Coherence, near-duplicates and dead atoms.

    Args:
      dictionary: atoms of any norm, (input_dim, num_latents).

    Returns:
      The numbers.

    Raises:
      ValueError: the dictionary is not a finite, non-empty matrix.
    """
    atoms = matching.as_matrix("dictionary", dictionary)
    live = atoms.any(axis=0)
    largest = largest_cosines(atoms)[live]
    coherence = np.percentile(largest, QUANTILES).tolist() if live.sum() > 1 else ()
    return Atoms(
        atoms.shape[1], int((~live).sum()), int((largest > DUPLICATE).sum()), tuple(coherence)
    )


def agreement(left: Any, right: Any) -> float:
    """Mean matched |cosine| of two dictionaries of one width,
    `max_π mean_j |cos(left_π(j), right_j)|`.

    Two seeds of one learner that agree have found something in the data. On drawn worlds an atom
    that both have is hardly ever wrong, and one that is not may be right all the same (RESULTS.md,
    "Other laws"); `sae_gap.core.matching.match_atoms` tells the cosine of each atom.

    Args:
      left: atoms as columns, (input_dim, num_latents), or what has some: a `Model`, an `SAE`, or
        what `learn` returned.
      right: the same.

    Returns:
      The mean, in [0, 1].

    Raises:
      ValueError: a dictionary is not a finite, non-empty matrix, or their shapes differ.
    """
    models = (getattr(source, "model", source) for source in (left, right))
    left, right = (
        matching.as_matrix("a dictionary", getattr(model, "decoder", model)) for model in models
    )
    if left.shape != right.shape:
        raise ValueError(
            f"two dictionaries must have one shape to agree, but have {left.shape} and "
            f"{right.shape}."
        )
    return float(np.abs(matching.match_atoms(left, right).cosine).mean())


def measure(inferred: Inferred) -> dict[str, Any]:
    """`describe_atoms` of the model, found once: `dead_atoms`, `duplicates` and `coherence`."""
    if inferred.model.dictionary is None:
        return {}
    if "atoms" not in inferred.shared:
        inferred.shared["atoms"] = describe_atoms(inferred.model.decoder)
    found = inferred.shared["atoms"]
    names = {"dead_atoms": "dead", "duplicates": "duplicates", "coherence": "coherence"}
    return {column: getattr(found, name) for column, name in names.items()}


def agreement_with(first: Given) -> Metric:
    """A metric of the `agreement` with the dictionary of a given model, of others of its shape."""

    def compare(inferred):
        decoder, other = inferred.model.dictionary, first.ready.decoder
        if inferred.learner == first or decoder is None or decoder.shape != other.shape:
            return {}
        if "agreement" not in inferred.shared:
            inferred.shared["agreement"] = agreement(other, decoder)
        return {"agreement": inferred.shared["agreement"]}

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
