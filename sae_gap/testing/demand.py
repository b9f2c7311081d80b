"""What the checks share: a demand that raises, the demands on every part, and comparisons."""

from dataclasses import dataclass
from json import dumps
from re import fullmatch
from typing import Any

import numpy as np
from numpy import asarray

from sae_gap.core import MethodPart, check_type, describe, looks_of


@dataclass(frozen=True)
class Demand:
    """Raises an AssertionError of a subject for what does not hold."""

    subject: Any

    def __call__(self, holds: Any, says: str) -> None:
        if not holds:
            raise AssertionError(f"{self.subject} {says}.")


def demand_of(part: Any) -> Demand:
    """The demand of an encoder or a learner that is fit for rows and figures."""
    check_type(
        "the part", part, MethodPart, "give an instance of an encoder or a learner"
    )
    demand = Demand(type(part).__name__)
    for name, look in looks_of(type(part)).items():
        demand(
            fullmatch("[a-z0-9_]+", name),
            "must have a name of a-z, 0-9 and _; set `name`",
        )
        demand(
            look.label, "must have a label that is not empty; leave it out, or fill it"
        )
        demand(
            fullmatch("|#[0-9A-F]{6}", str(look.colour)),
            "must have a colour such as #1B9E9E",
        )
    try:
        dumps([describe(part), part.coordinates])
    except TypeError as error:
        demand(
            False, f"must have fields and columns of plain numbers and words ({error})"
        )
    return demand


def close(result: Any, wanted: Any, tol: float = 1e-3) -> bool:
    """True if two arrays agree up to a share of the largest number."""
    result = asarray(result)
    wanted = asarray(wanted)
    atol = tol * max(1, np.abs(wanted).max())
    return result.shape == wanted.shape and np.allclose(result, wanted, tol, atol)
