"""Hyper-parameters as fields that carry what their values may be."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx

from sae_gap.core.checks import check_choice, check_flag, check_integer, check_number, check_numbers

if TYPE_CHECKING:
    # Type checkers know how a dataclass is made from this alone.
    from equinox import field as option


# The limits of a seed, which every generator of random numbers takes.
SEED: dict[str, Any] = {"least": 0, "most": 2**32 - 1}


class _Rule(NamedTuple):
    kind: type
    optional: bool
    choices: Sequence[str]
    length: int | None
    limits: dict[str, float]


def _option(
    *,
    default: Any,
    kind: type | None = None,
    optional: bool = False,
    static: bool | None = None,
    kw_only: bool = False,
    choices: Sequence[str] = (),
    length: int | None = None,
    **limits: Any,
) -> Any:
    """A field of an Equinox module or of a dataclass, which `check_options` checks.

    Args:
      default: its value unless another is given.
      kind: of a value: int, float, bool, str, or tuple for a tuple of numbers; None takes that of
        the default.
      optional: whether it may be None, as it may where the default is.
      static: whether it sets a shape or a loop length; None takes all as static but numbers that
        may be fractions.
      kw_only: whether it is given by its name alone.
      choices: of a text.
      length: of a tuple; None allows any from one on.
      **limits: of a number, those of `check_number`; of an integer `least`, without which it is
        positive.
    """
    kind = type(default) if kind is None else kind
    static = kind in (int, bool, str) if static is None else static
    rule = _Rule(kind, optional or default is None, choices, length, limits)
    return eqx.field(default=default, static=static, kw_only=kw_only, metadata={"option": rule})


if not TYPE_CHECKING:
    option = _option


def check_options(module: Any) -> None:
    """Raises a ValueError where an option of a module is not what its field allows."""
    for field in dataclasses.fields(module):
        rule, name, value = field.metadata.get("option"), field.name, getattr(module, field.name)
        if rule is None or (value is None and rule.optional):
            continue
        if rule.kind is bool:
            check_flag(name, value)
        elif rule.kind is str:
            check_choice(name, value, rule.choices)
        elif rule.kind is tuple:
            check_numbers(name, value, rule.length, **rule.limits)
        elif rule.kind is float:
            check_number(name, value, **rule.limits)
        else:
            check_integer(name, value, **{"least": 1} | rule.limits)


def settle(settings: Any) -> None:
    """Checks the options of a frozen dataclass, and makes Python's own numbers of NumPy's and
    JAX's, so that keys agree.
    """
    check_options(settings)
    for field in dataclasses.fields(settings):
        object.__setattr__(settings, field.name, _plain(getattr(settings, field.name)))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.item() if hasattr(value, "item") else value
