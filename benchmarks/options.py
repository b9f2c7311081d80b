"""The options of a binary as a dataclass: each field is a flag, and what its value may be stands
with the field.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags


def option(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    choices: Sequence[str] | None = None,
    flag: str | None = None,
    alone: bool = False,
) -> Any:
    """A field of `Options`.

    Args:
      default: its value unless another is given.
      help: of its flag, which shows the default after it.
      least: the least that a number, or each number of a tuple, may be.
      choices: what a text, or each text of a tuple, may be.
      flag: the name of its flag, where that is not the field's.
      alone: whether a word without a flag is its value too.
    """
    metadata = {"help": help, "flag": flag, "least": least, "choices": choices, "alone": alone}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a binary, in fields that `option` makes and int, float, str, bool or tuples of
    these annotate.

    Raises:
      ValueError: a value is not what its field allows.
    """

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata and value is not None and value != field.default:
                _check(type(self), field, value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results(Options):
    """Where results go."""

    results_dir: str = option("results", "Where the folder of this benchmark goes.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distributed(Options):
    """The options of a binary that may run in many processes."""

    distributed: bool = option(
        False, "Run in many processes, one a host; TPU and Slurm need no more."
    )
    coordinator: str | None = option(None, "With --distributed elsewhere: host:port of process 0.")
    num_processes: int | None = option(None, "With --coordinator: how many there are.", least=1)
    process_id: int | None = option(None, "With --coordinator: which one this is, from 0.", least=0)


def define(kind: type[Options]) -> flags.FlagValues:
    """The flags of options. A flag that is not given is None, whatever the default of its field."""
    values = flags.FlagValues()
    # A word without a flag may stand before others with one.
    values.set_gnu_getopt()
    for field in dataclasses.fields(kind):
        if field.metadata:
            entry, listed, _ = _types(kind, field.name)
            make = (
                flags.DEFINE_boolean
                if entry is bool
                else flags.DEFINE_list
                if listed
                else flags.DEFINE_string
            )
            make(_flag(field), None, _help(field, field.default), flag_values=values)  # type: ignore[operator]
    return values


def alone(kind: type[Options]) -> str | None:
    """The flag whose value a word without a flag is, if there is one."""
    fields = dataclasses.fields(kind)
    return next((_flag(field) for field in fields if field.metadata.get("alone")), None)


def given(kind: type[Options], values: flags.FlagValues) -> dict[str, Any]:
    """The options that flags give, by name.

    Raises:
      ValueError: a text is not of the type of its field.
    """
    found = {}
    for field in dataclasses.fields(kind):
        text = values[_flag(field)].value if field.metadata else None
        if text is not None:
            entry, listed, may_lack = _types(kind, field.name)
            texts, entries = text if listed else [text], []
            for one in texts:
                try:
                    entries.append(None if may_lack and one == "none" else entry(one))
                except ValueError:
                    raise ValueError(_refusal(kind, field, texts, f"{one} does not fit")) from None
            found[field.name] = tuple(entries) if listed else entries[0]
    return found


def written(options: Options, names: Iterable[str] | None = None) -> list[str]:
    """The flags that give these options, or those of some names, where they are not the
    defaults.
    """
    flags = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.metadata and value != field.default and (names is None or field.name in names):
            flags.append(f"--{_flag(field)}" + ("" if value is True else f"={_text(value)}"))
    return flags


def changes(options: Options) -> dict[str, tuple[Any, Any]]:
    """The same options as changes to these, by name, each a type and a field: None changes nothing.

    The help of a change shows what stands without it.
    """
    found, hints = {}, typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        if field.metadata:
            metadata = {**field.metadata, "help": _help(field, getattr(options, field.name))}
            found[field.name] = (
                hints[field.name] | None,
                dataclasses.field(default=None, metadata=metadata),
            )
    return found


def _flag(field: dataclasses.Field) -> str:
    return field.metadata.get("flag") or field.name


def _help(field: dataclasses.Field, default: Any) -> str:
    text, choices = field.metadata["help"], field.metadata["choices"] or ()
    if not all(choice in text for choice in choices):
        text = f"{text.rstrip('.')}, of {', '.join(choices)}."
    says_nothing = default is False or default in (None, "", (), (None,))
    return text if says_nothing else f"{text}  [{_text(default)}]"


def _text(value: Any) -> str:
    """A value as a flag has it."""
    return (
        ",".join("none" if entry is None else str(entry) for entry in value)
        if isinstance(value, tuple)
        else str(value)
    )


def _types(kind: type[Options], name: str) -> tuple[type, bool, bool]:
    """The type of an option or of a tuple's entries, whether it is a tuple, and whether its entries
    may be None.
    """
    hint = _without_none(typing.get_type_hints(kind)[name])
    listed = typing.get_origin(hint) is tuple
    entry = typing.get_args(hint)[0] if listed else hint
    return _without_none(entry), listed, listed and isinstance(entry, types.UnionType)


def _without_none(hint: Any) -> Any:
    parts = [part for part in typing.get_args(hint) if part is not types.NoneType]
    return parts[0] if isinstance(hint, types.UnionType) else hint


def _check(kind: type[Options], field: dataclasses.Field, value: Any) -> None:
    listed = value if isinstance(value, tuple | list) else (value,)
    least, choices = field.metadata["least"], field.metadata["choices"]
    faults = [] if listed else [""]
    for place, entry in enumerate(listed):
        fits = not (isinstance(entry, float) and not math.isfinite(entry))
        fits &= entry is None or least is None or entry >= least
        fits &= entry is None or choices is None or entry in choices
        if not fits:
            faults.append(f"{entry} does not fit")
        elif entry in listed[:place]:
            faults.append(f"{entry} comes twice")
    if faults:
        raise ValueError(_refusal(kind, field, listed, faults[0]))


def _refusal(kind: type[Options], field: dataclasses.Field, given: Sequence, fault: str) -> str:
    """The sentence that says what an option must be, what it is, and what is wrong in a list."""
    entry, listed, _ = _types(kind, field.name)
    least, choices = field.metadata["least"], field.metadata["choices"]
    one, many = {int: ("an integer", "integers"), float: ("a finite number", "finite numbers")}.get(
        entry, ("a", "names")
    )
    if listed:
        one = f"different {many}"
    wanted = one if least is None else f"{one} of at least {least:g}"
    if choices is not None:
        wanted = f"{'some' if listed else 'one'} of {', '.join(choices)}{', each once' * listed}"
    text = f"{','.join(map(str, given))!r}{f', where {fault}' if len(given) > 1 else ''}"
    return f"--{_flag(field)} must {'list' if listed else 'be'} {wanted}, but it is {text}."
