"""The options of a binary as a dataclass, whose fields are its flags."""

import contextlib
import dataclasses
import math
import types
from collections.abc import Iterable, Sequence
from typing import Any, dataclass_transform

from absl import flags, logging

from sae_gap.core import check_options, entries, flag_of, hints, kinds
from sae_gap.core import option as option
from sae_gap.storage import Folder


@dataclass_transform(frozen_default=True, kw_only_default=True)
def frozen(kind: type) -> Any:
    """Makes a frozen dataclass of a class of options."""
    return dataclasses.dataclass(frozen=True, kw_only=True)(kind)


@frozen
class Options:
    """The options of a binary, whose fields `option` makes with a help text.

    Raises:
      ValueError: a field does not allow its value.
    """

    def __post_init__(self) -> None:
        check_options(self)


@frozen
class Results(Options):
    """Where results go."""

    results_dir: str = option(
        "results", "The folder of all results, on disk or in a bucket, gs:// or s3://."
    )

    def folder(self, name: str) -> Folder:
        """The folder of a benchmark.

        Raises:
          ValueError: nothing can be written to it.
        """
        found = Folder(self.results_dir) / name
        found.require_writable()
        return found


@frozen
class Fitted(Results):
    """Where fitted models go."""

    models_dir: str | None = option(
        None,
        "Where fitted models are kept, for all benchmarks.  [<results_dir>/models]",
    )

    @property
    def models_folder(self) -> Folder:
        """The folder of fitted models."""
        return Folder(
            f"{self.results_dir}/models" if self.models_dir is None else self.models_dir
        )


@frozen
class Distributed(Options):
    """Many processes."""

    distributed: bool = option(
        False, "Run in many processes, one a host; TPU and Slurm need no more."
    )
    coordinator: str | None = option(
        None, "With --distributed elsewhere: host:port of process 0."
    )
    num_processes: int | None = option(
        None, "With --coordinator: how many there are.", least=1
    )
    process_id: int | None = option(
        None, "With --coordinator: which one this is, from 0.", least=0
    )


@frozen
class Limited(Options):
    """When to stop."""

    minutes: float = option(
        math.inf,
        "Minutes after which no fit or row is started. The same command goes on.",
        above=0,
    )


def fields(kind: type[Options] | Options) -> list[dataclasses.Field]:
    """The fields that have a flag."""
    return [field for field in dataclasses.fields(kind) if field.metadata.get("help")]


def define(kind: type[Options]) -> flags.FlagValues:
    """The flags of options. A flag that is not given is None, whatever its field's default."""
    values = flags.FlagValues()
    # Let positional arguments stand before flags.
    values.set_gnu_getopt()
    for field in fields(kind):
        hint = hints(kind)[field.name]
        form = "list" if entries(hint) else "string"
        if bool in kinds(hint):
            form = "boolean"
        getattr(flags, f"DEFINE_{form}")(
            flag_of(field),
            None,
            _help(field, field.default),
            flag_values=values,
            module_name=_group(kind, field.name),
        )
    return values


def help_of(kind: type[Options]) -> str:
    """The flags of options, in groups by the classes that define them, the last one first."""
    values = define(kind)
    groups = reversed(values.flags_by_module_dict())
    return "\n".join(values.module_help(group) for group in groups)


def _group(kind: type[Options], name: str) -> str:
    """The first words about the class that defines a field."""
    for owner in kind.__mro__:
        if name in vars(owner).get("__annotations__", ()):
            return str(owner.__doc__).partition(".")[0]
    return ""


def parse(kind: type[Options], arguments: Sequence[str]) -> Any:
    """The options in a command line, which begins with the name of the binary.

    Raises:
      ValueError: a flag is unknown or has an invalid value, or a positional argument has no flag.
    """
    values = define(kind)
    try:
        _, *words = values(arguments)
    except flags.Error as error:
        text = " ".join(str(error).split()).removesuffix(".")
        raise ValueError(f"{text}; see --help.") from error
    found = {}
    for field in fields(kind):
        flag = values[flag_of(field)]
        if flag.present > 1:
            logging.warning(
                "--%s is given more than once; the last one counts.", flag.name
            )
        while words and field.metadata["alone"]:
            if flag.value is not None:
                raise ValueError(
                    f"--{flag.name} is given twice, as {flag.value!r} and {words[0]!r}; give one."
                )
            flag.value = words.pop(0)
        if flag.value is not None:
            found[field.name] = _read(flag.value, hints(kind)[field.name])
    if words:
        raise ValueError(f"{words[0]!r} is not a flag; see --help.")
    return kind(**found)


def _read(text: Any, hint: Any) -> Any:
    """The value of a text; a text of another type stays a text, which the options refuse."""
    if listed := entries(hint):
        return tuple(_read(entry, listed[0]) for entry in text)
    first, *others = kinds(hint)
    if text == "none" and types.NoneType in others:
        return None
    with contextlib.suppress(ValueError):
        return first(text)
    return text


def written(options: Options, names: Iterable[str] | None = None) -> list[str]:
    """The flags that give these options, or the named ones, leaving out defaults."""
    found = []
    for field in fields(options):
        value = getattr(options, field.name)
        if value != field.default and (names is None or field.name in names):
            found.append(
                f"--{flag_of(field)}" + ("" if value is True else f"={_text(value)}")
            )
    return found


def refuse(options: Options, names: Iterable[str], why: str) -> None:
    """Raises a ValueError for the first of the named flags that is not at its default; `why` says
    `{}` for the flag.
    """
    for flag in written(options, names):
        raise ValueError(why.format(flag.partition("=")[0]))


def changes(options: Options) -> dict[str, tuple[Any, Any]]:
    """The fields of the options again, all optional, each a type and a field: None keeps the value.

    The help of a field shows the value that None keeps.
    """
    return {
        field.name: (
            hints(type(options))[field.name] | None,
            dataclasses.field(
                default=None,
                metadata=field.metadata
                | {"help": _help(field, getattr(options, field.name))},
            ),
        )
        for field in fields(options)
    }


def _help(field: dataclasses.Field, default: Any) -> str:
    text = field.metadata["help"]
    choices = field.metadata["limits"].get("choices", ())
    if not all(choice in text for choice in choices):
        text = f"{text.rstrip('.')}, of {', '.join(choices)}."
    says_nothing = default is False or default in (None, "", (), (None,))
    return text if says_nothing else f"{text}  [{_text(default)}]"


def _text(value: Any) -> str:
    """A value as a flag's text."""
    entries = value if isinstance(value, tuple) else (value,)
    return ",".join("none" if entry is None else str(entry) for entry in entries)
