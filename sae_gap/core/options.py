"""Fields that say what their values may be: hyper-parameters, settings and flags."""

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from typing import Any

from sae_gap.core.checks import check_choice, check_flag, check_integer, check_number, shown


def option(
    default: Any,
    help: str = "",
    *,
    static: bool | None = None,
    kw_only: Any = dataclasses.MISSING,
    flag: str = "",
    alone: bool = False,
    rare: bool = False,
    **limits: Any,
) -> Any:
    """A field of an Equinox module or of a dataclass, which `check_options` checks.

    Its annotation gives the type: an int, a float, a bool, a str or a tuple of these, `| None`
    where there may be none. A tuple of any length has entries, all different.

    Args:
      default: its value unless another is given, which may lie beyond the limits.
      help: what the help of its flag says; without it there is no flag.
      static: whether it sets a shape or a loop length; None takes a default that is an integer,
        a bool or a str as static.
      kw_only: whether it is given by its name alone.
      flag: the name of its flag, where that is not the field's.
      alone: whether its flag takes a word without a flag.
      rare: whether keys have it only where it differs from its default, so that earlier keys stay.
      **limits: those of `check_number`; of an integer `least` and `most`, without which it is
        positive and below 2**31; of a str the `choices`.
    """
    static = isinstance(default, int | str) if static is None else static
    metadata = {"static": static, "limits": limits, "help": help, "flag": flag, "alone": alone}
    metadata["rare"] = rare
    return dataclasses.field(default=default, kw_only=kw_only, metadata=metadata)


def check_options(module: Any) -> None:
    """Raises a ValueError where an option of a module is not what its field allows."""
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        if "limits" in field.metadata and value is not field.default:
            name = f"--{flag_of(field)}" if field.metadata["help"] else field.name
            _check(name, value, hints(type(module))[field.name], **field.metadata["limits"])


def flag_of(field: dataclasses.Field) -> str:
    """The name of an option's flag."""
    return field.metadata["flag"] or field.name


# The annotation of each field of a class.
hints: Callable[[type], dict[str, Any]] = functools.cache(typing.get_type_hints)


def kinds(hint: Any) -> tuple[Any, ...]:
    """The types that an annotation allows."""
    is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if is_union else (hint,)


def entries(hint: Any) -> tuple[Any, ...]:
    """The types of the entries of a tuple, the second of them ... where it may have any length;
    none where no tuple is allowed.
    """
    listed = (typing.get_args(kind) for kind in kinds(hint) if typing.get_origin(kind) is tuple)
    return next(listed, ())


def _check(name: str, value: Any, hint: Any, **limits: Any) -> None:
    allowed, listed = kinds(hint), entries(hint)
    if value is None and types.NoneType in allowed:
        return
    if listed:
        count = None if ... in listed else len(listed)
        if not isinstance(value, tuple) or (len(value) != count if count else not value):
            wanted = f"a tuple of {count or 'one or more'} values"
            raise ValueError(f"{name} must be {wanted}, but it is {shown(value)}.")
        for place, entry in enumerate(value):
            _check(f"an entry of {name}", entry, listed[0], **limits)
            if not count and entry in value[:place]:
                raise ValueError(
                    f"{name} must list different values, but {shown(entry)} comes twice."
                )
    elif bool in allowed:
        check_flag(name, value)
    elif float in allowed:
        check_number(name, value, **limits)
    elif int in allowed:
        check_integer(name, value, **limits)
    elif limits:
        check_choice(name, value, **limits)


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
