"""The front door for a dictionary that `learn` did not make, such as the rows of an unembedding."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from sae_gap.core import Model, as_matrix, detached
from sae_gap.dictionaries import LearnedDictionary
from sae_gap.encoders import check_model, unit_atoms


def dictionary(
    atoms: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    l0: float = 25,
) -> LearnedDictionary:
    """Makes of given atoms the class that `learn` returns: it encodes, scores, reports and
    compares.

    It has no rows of its own. So `encode` finds the weight for an L0 on the rows that it codes, and
    `fvu`, `report` and `lam` need activations.

    Args:
      atoms: non-zero atoms of any length, as columns, (input_dim, num_latents); codes are for the
        atoms scaled to unit length.
      bias: b in `x ≈ b + D z`, (input_dim,); None takes zeros, so that codes are of the unshifted
        activations.
      l0: the default mean L0 of codes.

    Returns:
      The dictionary.

    Raises:
      ValueError: the atoms are no finite matrix, one is zero, or the bias does not fit them.
    """
    matrix = as_matrix("atoms", atoms)
    decoder = unit_atoms(jnp.asarray(matrix))[0]
    empty = np.flatnonzero(~np.asarray(decoder).any(axis=0))
    if empty.size:
        raise ValueError(
            f"{empty.size} of the atoms have zero length, the first is number {empty[0]}; leave "
            "them out."
        )
    offset = np.zeros(len(matrix)) if bias is None else detached(bias)
    model = Model(decoder, jnp.asarray(offset, decoder.dtype))
    check_model(model)
    return LearnedDictionary(model, l0, None, None, 0.0)
