"""Worlds by name, one a file: `--world=NAME` draws the `NamedWorld` that a module of this folder
defines.
"""

from collections.abc import Mapping
from typing import Any

from sae_gap.core import check_choice, check_size, instances
from sae_gap.data import NamedWorld, World

# Studies scale this world to their own number of latents.
SCALED = "synthsae"


# The worlds of this folder by name.
WORLDS: Mapping[str, NamedWorld] = instances(__name__, NamedWorld)


def named_world(name: str, num_latents: int | None = None, **options: Any) -> World:
    """Makes a world by its name.

    Args:
      name: one of `WORLDS`.
      num_latents: number of features; None takes the world's own.
      **options: fields of `World` that replace those of the name; None keeps the name's.

    Raises:
      ValueError: the name is unknown, or an option is out of range.
    """
    if num_latents is not None:
        check_size("num_latents", num_latents)
    check_choice("world", name, WORLDS)
    given = {option: value for option, value in options.items() if value is not None}
    return World(**{**WORLDS[name].options(num_latents), **given})
