"""Fields that state their valid values: hyper-parameters, settings and flags."""

import dataclasses
import types
import typing
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from sae_gap.core import check_choice, check_flag, check_integer, check_number, shown


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
    """A field of an Equinox module or of a dataclass, with limits that `check_options` checks.

    The field's annotation gives the type: an int, a float, a bool, a str or a tuple of these, or
    `| None` if None is valid. A tuple of any length has at least one entry, and no entry twice.

    Args:
      default: the default value, which may lie beyond the limits.
      help: the help text of the flag; a field without it has no flag.
      static: whether the value sets a shape or a loop length; None treats a field as static if its
        default is an integer, a bool or a str.
      kw_only: whether the argument must be given by name.
      flag: the name of the flag, if not the field's.
      alone: whether a positional argument sets the flag.
      rare: whether keys have it only where it differs from its default, which keeps earlier keys.
      **limits: the limits of `check_number`; for an integer `least` and `most`, by default 1 and
        2**31 - 1; for a str the `choices`.
    """
    static = isinstance(default, int | str) if static is None else static
    metadata = dict(
        static=static, limits=limits, help=help, flag=flag, alone=alone, rare=rare
    )
    return dataclasses.field(default=default, kw_only=kw_only, metadata=metadata)


def set_fields(thing: Any) -> dict[str, Any]:
    """The fields of a dataclass, and their values, but for rare ones at their defaults."""
    every = ((field, getattr(thing, field.name)) for field in fields(thing))
    return {
        field.name: value
        for field, value in every
        if not field.metadata.get("rare") or value != field.default
    }


def check_options(module: Any) -> None:
    """Raises a ValueError if an option of a module has a value that its field forbids."""
    for field in fields(module):
        value = getattr(module, field.name)
        if "limits" in field.metadata and value is not field.default:
            name = f"--{flag_of(field)}" if field.metadata["help"] else field.name
            _check(
                name, value, hints(type(module))[field.name], **field.metadata["limits"]
            )


def flag_of(field: dataclasses.Field) -> str:
    """Returns the name of an option's flag."""
    return field.metadata["flag"] or field.name


# The annotation of each field of a class.
hints: Callable[[type], dict[str, Any]] = cache(get_type_hints)


def kinds(hint: Any) -> tuple[Any, ...]:
    """Returns the types that an annotation allows."""
    is_union = get_origin(hint) in (types.UnionType, typing.Union)
    return get_args(hint) if is_union else (hint,)


def entries(hint: Any) -> tuple[Any, ...]:
    """Returns the types of a tuple's entries, the second of them ... for a tuple of any length; an
    empty tuple if the annotation allows no tuple.
    """
    for kind in kinds(hint):
        if get_origin(kind) is tuple:
            return get_args(kind)
    return ()


def _check(name: str, value: Any, hint: Any, **limits: Any) -> None:
    allowed = kinds(hint)
    listed = entries(hint)
    if value is None and NoneType in allowed:
        return
    if listed:
        count = None if ... in listed else len(listed)
        if not isinstance(value, tuple) or (
            len(value) != count if count else not value
        ):
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
    """Checks the options of a frozen dataclass, and turns numbers of NumPy and JAX into Python's,
    so that keys agree.
    """
    check_options(settings)
    for field in fields(settings):
        object.__setattr__(settings, field.name, _plain(getattr(settings, field.name)))


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.item() if hasattr(value, "item") else value
