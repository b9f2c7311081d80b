"""The activations that a dictionary is learned from and scored on."""

import os

from absl import logging
from jax.typing import ArrayLike

from sae_gap.core import check_choice
from sae_gap.data import Activations, open_activations

Rows = Activations | ArrayLike | str | os.PathLike[str]
"""What a user gives as activations: rows, the path of a file or folder of them, or opened ones."""


def open_pair(
    activations: Rows, targets: Rows | None, documents: ArrayLike | None
) -> tuple[Activations | None, Activations]:
    """Opens copies of what a transcoder reads, if there are targets, and of what is explained."""
    if targets is None:
        return None, open_activations(activations, documents=documents).copied()
    inputs = open_activations(activations).copied()
    opened = open_activations(targets, documents=documents).copied()
    return inputs, opened.with_inputs(inputs)


def screened(activations: Activations, policy: str) -> Activations:
    """Reports outliers, and returns the rows that a policy keeps."""
    check_choice("outliers", policy, ("drop", "keep"))
    if len(activations.outliers.rows):
        logging.warning("%s; %s", activations.outliers, "left out" if policy == "drop" else "kept")
    return activations.without_outliers() if policy == "drop" else activations
