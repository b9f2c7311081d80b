"""The activations that a dictionary is learned from and scored on: opened, and without outlier
tokens.
"""

import os
from typing import Any

import numpy as np
from absl import logging
from jax.typing import ArrayLike

from sae_gap.core.checks import check_choice, check_unmasked, detached
from sae_gap.data.activations import Activations, open_activations
from sae_gap.storage.tensor_files import brief

Rows = Activations | ArrayLike | str | os.PathLike[str]
"""What a user gives as activations: rows, the path of a file or folder of them, or opened ones."""


def opened(
    activations: Rows,
    documents: ArrayLike | None = None,
) -> Activations:
    """What a user gives as activations, with the document of each row."""
    if isinstance(activations, Activations):
        if documents is not None:
            raise ValueError("opened activations name their own documents; leave documents out.")
        return activations
    check_unmasked("activations", activations)
    try:
        source: Any = (
            activations
            if isinstance(activations, str | os.PathLike)
            else np.asarray(detached(activations))
        )
        named = None if documents is None else np.asarray(detached(documents))
    except (TypeError, ValueError) as error:
        reason = brief(error).partition(". ")[0]
        mend = "join documents of unequal lengths and name the document of each row by documents"
        raise ValueError(f"activations make no array ({reason}); {mend}.") from None
    return open_activations(source, documents=named)


def screened(activations: Activations, policy: str) -> Activations:
    """The rows that a policy leaves, once outliers are named."""
    check_choice("outliers", policy, ("drop", "keep"))
    if len(activations.outliers.rows):
        logging.warning("%s; %s", activations.outliers, "left out" if policy == "drop" else "kept")
    return activations.without_outliers() if policy == "drop" else activations
