"""The options of a binary as a dataclass: each field is a flag, and what its value may be stands with the field."""

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from typing import Any

from absl import flags


def option(
    default: Any, help: str, *, least: float | None = None, most: float | None = None, choices: Sequence[str] | None = None
) -> Any:
    """A field of `Options`.

    Args:
      default: its value unless another is given.
      help: of its flag, which shows the default after it.
      least: the least that a number, or each number of a tuple, may be.
      most: the most.
      choices: what a text, or each text of a tuple, may be.
    """
    return dataclasses.field(default=default, metadata={"help": help, "least": least, "most": most, "choices": choices})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a binary, in fields that `option` makes and int, float, str, bool or tuples of these annotate.

    Raises:
      ValueError: a value is not what its field allows.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata and value is not None and value != field.default:
                _check(type(self), field, value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distributed(Options):
    """The options of a binary that may run in many processes."""

    distributed: bool = option(False, "Run in many processes, one a host; TPU and Slurm need no more.")
    coordinator: str | None = option(None, "With --distributed elsewhere: host:port of process 0.")
    num_processes: int | None = option(None, "With --coordinator: how many there are.", least=1)
    process_id: int | None = option(None, "With --coordinator: which one this is, from 0.", least=0)


def define(kind: type[Options], without: Sequence[str] = ()) -> flags.FlagValues:
    """The flags of options. A flag that is not given is None, whatever the default of its field."""
    values = flags.FlagValues()
    for field in dataclasses.fields(kind):
        if field.metadata and field.name not in without:
            entry, listed = _types(kind, field.name)
            shown = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
            text = field.metadata["help"] + ("" if shown is None or shown is False or shown == "" else f"  [{shown}]")
            make = flags.DEFINE_boolean if entry is bool else flags.DEFINE_list if listed else flags.DEFINE_string
            make(field.name, None, text, flag_values=values)  # type: ignore[operator]
    return values


def given(kind: type[Options], values: flags.FlagValues) -> dict[str, Any]:
    """The options that flags give, by name.

    Raises:
      ValueError: a text is not of the type of its field.
    """
    found = {}
    for field in dataclasses.fields(kind):
        text = values[field.name].value if field.name in values else None
        if text is not None:
            entry, listed = _types(kind, field.name)
            try:
                found[field.name] = tuple(map(entry, text)) if listed else entry(text)
            except ValueError:
                raise ValueError(_refusal(kind, field, ",".join(text) if listed else text)) from None
    return found


def _types(kind: type[Options], name: str) -> tuple[type, bool]:
    """The type of an option, or that of the entries of a tuple and True."""
    hint = typing.get_type_hints(kind)[name]
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    return (typing.get_args(hint)[0], True) if typing.get_origin(hint) is tuple else (hint, False)


def _check(kind: type[Options], field: dataclasses.Field, value: Any) -> None:
    entries = value if isinstance(value, tuple | list) else (value,)
    least, most, choices = (field.metadata[name] for name in ("least", "most", "choices"))
    fits = all(math.isfinite(entry) for entry in entries if isinstance(entry, float))
    fits &= least is None or all(entry >= least for entry in entries)
    fits &= most is None or all(entry <= most for entry in entries)
    fits &= choices is None or set(entries) <= set(choices)
    if not fits or not entries or len(set(entries)) < len(entries):
        raise ValueError(_refusal(kind, field, ",".join(map(str, entries))))


def _refusal(kind: type[Options], field: dataclasses.Field, text: str) -> str:
    """The sentence that says what an option must be, and what it is."""
    entry, listed = _types(kind, field.name)
    least, most, choices = (field.metadata[name] for name in ("least", "most", "choices"))
    one, many = {int: ("an integer", "integers"), float: ("a finite number", "finite numbers")}.get(entry, ("a", "names"))
    bounds = ("" if least is None else f" of at least {least:g}") + ("" if most is None else f", at most {most:g}")
    wanted = f"different {many}{bounds}" if listed else f"{one}{bounds}"
    if choices is not None:
        wanted = f"{'some' if listed else 'one'} of {', '.join(choices)}"
    return f"--{field.name} must {'list' if listed else 'be'} {wanted}, but it is {text!r}."
