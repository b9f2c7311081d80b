"""What a user gives as activations, opened and checked."""

import os

from absl import logging
from jax.typing import ArrayLike

from sae_gap.core import check_choice, check_number
from sae_gap.data import Activations, open_activations
from sae_gap.encoders import DENSEST

Rows = Activations | ArrayLike | str | os.PathLike[str]
"""What a user gives as activations: rows, the path of a file or folder of them, or opened ones."""


def open_rows(
    activations: Rows,
    *,
    documents: ArrayLike | None = None,
    targets: Rows | None = None,
    outliers: str = "drop",
) -> tuple[Activations | None, Activations]:
    """Opens copies of what a transcoder reads, if there are targets, and of what is explained,
    without outliers if they are dropped.
    """
    if targets is None:
        rows = open_activations(activations, documents=documents).copied()
        return None, screened(rows, outliers)
    inputs = open_activations(activations).copied()
    rows = open_activations(targets, documents=documents).copied()
    return inputs, screened(rows.with_inputs(inputs), outliers)


def screened(activations: Activations, policy: str) -> Activations:
    """Reports outliers, and returns the rows that a policy keeps."""
    check_choice("outliers", policy, ("drop", "keep"))
    drops = policy == "drop"
    if len(activations.outliers.rows):
        logging.warning("%s; %s", activations.outliers, "left out" if drops else "kept")
    return activations.without_outliers() if drops else activations


def check_sparse(name: str, value: float, input_dim: int, width: int) -> None:
    """Raises a ValueError if codes with so many latents are not sparse, which no measurement
    allows.
    """
    check_number(name, value, above=0)
    most = min(DENSEST * input_dim, width - 1)
    if value > most:
        raise ValueError(
            f"{name} is {value:g}, but codes are sparse only up to {most:g}, a quarter of the "
            f"{input_dim} dimensions and fewer than the {width} atoms; ask for less."
        )
