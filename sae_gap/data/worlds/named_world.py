"""What a file in `named/` defines, and what the small worlds there have in common."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

# Features go together only as a world's own law says, and are all as loud as the benchmark's, so
# that one λ serves all worlds.
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
      name: what `--world` calls it.
      about: one line on what it shows.
      options: the arguments of `World` for a number of features, or for the world's own number
        where that is None.
    """

    name: str
    about: str
    options: Callable[[int | None], Mapping[str, Any]]
