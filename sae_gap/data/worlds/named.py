"""Worlds by name: SynthSAEBench's at any size, and small ones in which a known fault of SAEs shows."""

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sae_gap.core.checks import check_size, shown
from sae_gap.data.worlds.law import Law
from sae_gap.data.worlds.world import World

# The published number of features, and the least for which three levels of children fit below its 128 roots.
_FULL = 16_384
_THREE_LEVELS = 10_880
# What the small worlds have in common: features that go together by what their own law says alone, and are all as loud as the
# benchmark's, so that one λ serves all worlds.
_TOY = {
    "rank": 0,
    "loudest": 5.0,
    "softest": 5.0,
    "spread": (0.75, 0.0),
    "scale_children": False,
    "bias": 0.0,
    "exponent": -1.0,
}


def synthsae(num_latents: int | None) -> dict[str, Any]:
    """SynthSAEBench's law. Below 10,880 features trees have two levels of children, and a root for every 32 features.

    One tree of two levels has 21 features; fewer than that have none.
    """
    number = _FULL if num_latents is None else num_latents
    deep = number >= _THREE_LEVELS
    trees = {"roots": number // 128, "depth": 3} if deep else {"roots": max(number // 32, int(number >= 21)), "depth": 2}
    return {"num_latents": number, "input_dim": 768 if deep else max(8, number // 8)} | trees


def correlated(num_latents: int | None) -> dict[str, Any]:
    """Features that fire together, fewer than there are dimensions: an SAE whose k is too small mixes them.

    After the toy model of Chanin & Garriga-Alonso (2025), "Sparse but wrong: incorrect L0 leads to incorrect features in sparse
    autoencoders", arXiv:2508.16560: 50 features in 100 dimensions, at probabilities from .345 down to .05.
    """
    number = 50 if num_latents is None else num_latents
    law = {"roots": 0, "depth": 0, "most": 0.345, "least": 0.05, "rank": 10, "correlation": 0.25, "orthogonal_steps": 1_000}
    return _TOY | law | {"num_latents": number, "input_dim": 2 * number}


def hedging(num_latents: int | None) -> dict[str, Any]:
    """A parent and its child, and a dictionary of one latent, which takes in some of the child.

    After Chanin, Dulka & Garriga-Alonso (2025), "Feature hedging: correlated features break narrow sparse autoencoders",
    arXiv:2505.11756.
    """
    return absorption(num_latents) | {"width": 1}


def absorption(num_latents: int | None) -> dict[str, Any]:
    """A parent and its child, and room for both: sparsity is cheapest where the child's latent has the parent's direction too.

    After Chanin et al. (2024), "A is for absorption: studying feature splitting and absorption in sparse autoencoders",
    arXiv:2409.14507.
    """
    if num_latents not in (None, 2):
        raise ValueError(f"this world has 2 features, not {num_latents}; leave num_latents out.")
    law = {"roots": 1, "branching": 1, "depth": 1, "most": 0.3, "least": 0.15}
    return _TOY | law | {"num_latents": 2, "input_dim": 20}


# The world that has any number of features.
SCALED = "synthsae"
# What a name stands for, given the number of features or None for the world's own.
WORLDS: Mapping[str, Callable[[int | None], dict[str, Any]]] = types.MappingProxyType(
    {SCALED: synthsae, "correlated": correlated, "hedging": hedging, "absorption": absorption}
)


def named_world(name: str, num_latents: int | None = None, **options: Any) -> World:
    """A world by its name.

    Args:
      name: one of `WORLDS`.
      num_latents: how many features; None takes the world's own number.
      **options: of `World`, in the place of what the name stands for; None stands for it.

    Raises:
      ValueError: the name is unknown, or an option is out of range.
    """
    if num_latents is not None:
        check_size("num_latents", num_latents)
    if not isinstance(name, str) or name not in WORLDS:
        raise ValueError(f"world {shown(name)} is unknown; choose one of {', '.join(WORLDS)}.")
    given = {option: value for option, value in options.items() if value is not None}
    return World(**WORLDS[name](num_latents) | given)


def parse_law(entries: Sequence[str]) -> dict[str, Any]:
    """Reads `name=value` pairs of a law, such as "roots=64" and "scale_children=false"; a spread is "0.5:0.5".

    Raises:
      ValueError: an entry is no such pair, or names no part of a law.
      TypeError: the entries are no list of texts.
    """
    fields = {field.name: field.default for field in dataclasses.fields(Law)}
    for name in ("num_latents", "input_dim", "seed", "folder"):
        del fields[name]
    found: dict[str, Any] = {}
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not all(isinstance(entry, str) for entry in entries):
        raise TypeError(f"the law must be a list of pairs such as roots=64, but it is {shown(entries)}.")
    for entry in entries:
        name, equals, value = entry.partition("=")
        if name not in fields or not equals or name in found:
            raise ValueError(
                f"the law has {shown(entry)}; it must list different pairs such as roots=64, of {', '.join(fields)}."
            )
        try:
            found[name] = _read(value, fields[name])
        except ValueError:
            raise ValueError(f"the law has {shown(entry)}; {name} must be {_kind(fields[name])}.") from None
    return found


def _read(value: str, like: Any) -> Any:
    if isinstance(like, bool):
        if value.lower() not in ("true", "false"):
            raise ValueError(value)
        return value.lower() == "true"
    if isinstance(like, tuple):
        first, second = value.split(":")
        return float(first), float(second)
    return type(like)(value)


def _kind(like: Any) -> str:
    if isinstance(like, bool):
        return "true or false"
    return "two numbers, such as 0.5:0.5" if isinstance(like, tuple) else "an integer" if isinstance(like, int) else "a number"


__all__ = ["SCALED", "WORLDS", "named_world", "parse_law"]
