"""Hyper-parameters as fields that carry what their values may be."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx

from sae_gap.core.checks import check_choice, check_flag, check_integer, check_number, check_numbers

if TYPE_CHECKING:
    # Type checkers know how a dataclass is made from this alone.
    from equinox import field as option


# The limits of a seed, which every generator of random numbers takes.
SEED: dict[str, Any] = {"least": 0, "most": 2**32 - 1}


def _option(
    *,
    default: Any,
    kind: type | None = None,
    optional: bool = False,
    static: bool | None = None,
    kw_only: bool = False,
    choices: Sequence[str] = (),
    length: int | None = None,
    rare: bool = False,
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
      rare: whether keys have it only where it differs from its default, so that earlier keys stay.
      **limits: of a number, those of `check_number`; of an integer `least`, without which it is
        positive.
    """
    kind = type(default) if kind is None else kind
    static = kind in (int, bool, str) if static is None else static
    checks: dict[type, Callable[[str, Any], None]] = {
        bool: check_flag,
        str: functools.partial(check_choice, choices=choices),
        tuple: functools.partial(check_numbers, count=length, **limits),
        float: functools.partial(check_number, **limits),
    }
    check = checks.get(kind, functools.partial(check_integer, **{"least": 1} | limits))
    rule = check, optional or default is None
    return eqx.field(
        default=default, static=static, kw_only=kw_only, metadata={"option": rule, "rare": rare}
    )


if not TYPE_CHECKING:
    option = _option


def check_options(module: Any) -> None:
    """Raises a ValueError where an option of a module is not what its field allows."""
    for field in dataclasses.fields(module):
        if "option" in field.metadata:
            (check, optional), value = field.metadata["option"], getattr(module, field.name)
            if value is not None or not optional:
                check(field.name, value)


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
