"""The activations that a dictionary is learned from and scored on."""

import os

from absl import logging
from jax.typing import ArrayLike

from sae_gap.core.checks import check_choice
from sae_gap.data.activations import Activations

Rows = Activations | ArrayLike | str | os.PathLike[str]
"""What a user gives as activations: rows, the path of a file or folder of them, or opened ones."""


def screened(activations: Activations, policy: str) -> Activations:
    """Reports outliers, and returns the rows that a policy keeps."""
    check_choice("outliers", policy, ("drop", "keep"))
    if len(activations.outliers.rows):
        logging.warning("%s; %s", activations.outliers, "left out" if policy == "drop" else "kept")
    return activations.without_outliers() if policy == "drop" else activations
