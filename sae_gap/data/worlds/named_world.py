"""The form of a file in `named/`, and the options that the small worlds there share."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

# Only a world's own law correlates features, and all are as loud as the benchmark's, so that one λ
# serves all worlds.
TOY = {
    "rank": 0,
    "loudest": 5.0,
    "softest": 5.0,
    "spread": (0.75, 0.0),
    "scale_children": False,
    "bias": 0.0,
    "exponent": -1.0,
}


@dataclasses.dataclass(frozen=True)
class NamedWorld:
    """A world by its name.

    Attributes:
      name: the value of `--world`.
      about: one line that says what it shows.
      options: returns the arguments of `World` for a number of features, or for the world's own
        number if given None.
    """

    name: str
    about: str
    options: Callable[[int | None], Mapping[str, Any]]
