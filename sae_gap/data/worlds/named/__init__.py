"""Worlds by name, one a file: the `NamedWorld` that a module of this folder defines is found, and
`--world=NAME` draws it.
"""

from collections.abc import Mapping
from typing import Any

from sae_gap.core.checks import check_choice, check_size
from sae_gap.core.registry import instances
from sae_gap.data.worlds.named_world import NamedWorld
from sae_gap.data.worlds.world import World

# The world that studies scale to their own number of latents.
SCALED = "synthsae"


# The worlds that are found in this folder, by name.
WORLDS: Mapping[str, NamedWorld] = instances(__name__, NamedWorld)


def named_world(name: str, num_latents: int | None = None, **options: Any) -> World:
    """A world by its name.

    Args:
      name: one of `WORLDS`.
      num_latents: how many features; None takes the world's own number.
      **options: of `World`, in the place of what the name stands for; None keeps that.

    Raises:
      ValueError: the name is unknown, or an option is out of range.
    """
    if num_latents is not None:
        check_size("num_latents", num_latents)
    check_choice("world", name, WORLDS)
    given = {option: value for option, value in options.items() if value is not None}
    return World(**{**WORLDS[name].options(num_latents), **given})


__all__ = ["SCALED", "WORLDS", "named_world"]
