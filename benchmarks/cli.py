"""What the binaries share: flags that are checked at once, and one sentence with exit code 2 for whatever the user can mend."""

import contextlib
import dataclasses
import logging as python_logging
import math
import os
import pathlib
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
from absl import flags, logging
from jaxtyping import Float

from benchmarks.options import Distributed, Options, define, given
from sae_gap.core import matching
from sae_gap.runtime import devices, distributed
from sae_gap.storage.folder import Folder

# How a binary is called, on the pages that it writes.
COMMAND = "python -m sae_gap "


class UsageError(Exception):
    """Something the user can mend; its message is one sentence naming the fault and the mend."""


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """Around what checks a user's input: its `ValueError` is a `UsageError`."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def run(
    main: Callable[..., object],
    flag_values: flags.FlagValues | None = None,
    *,
    options: type[Options] | None = None,
    about: str | None = None,
) -> NoReturn:
    """Runs a binary: `--help` exits with 0, a `UsageError` or a bad flag with one sentence and 2.

    Args:
      main: what to run, given its options.
      flag_values: the flags of a main that takes no options.
      options: the class of the options, whose fields are the flags; None takes what annotates `options` of `main`.
      about: what the help begins with; None takes the text of the module of `main`.
    """
    options = options or options_of(main)
    flag_values = define(options) if options else flag_values
    assert flag_values is not None
    if any(argument in ("--help", "-h", "-help") for argument in sys.argv[1:]):
        # absl's own help exits with 1.
        named = [line for line in flag_values.get_help(include_special_flags=False).splitlines() if line.startswith(" ")]
        sys.stdout.write(f"{about or sys.modules[main.__module__].__doc__}\nflags:\n" + "\n".join(named) + "\n")
        sys.exit(0)
    flags.FLAGS(sys.argv[:1])
    logging.use_absl_handler()
    # The root logger would let every library's chatter through.
    python_logging.getLogger().setLevel(python_logging.WARNING)
    logging.get_absl_logger().setLevel(python_logging.INFO)
    try:
        take(sys.argv, flag_values)
        with usage():
            chosen = None if options is None else options(**given(options, flag_values))
        devices.enable_compilation_cache()
        if isinstance(chosen, Distributed):
            _join({name: getattr(chosen, name) for name in _PROCESSES})
        elif "distributed" in flag_values:
            _join({name: flag_values[name].value for name in _PROCESSES})
        if options is None:
            main()
        else:
            main(chosen)
    except UsageError as error:
        _stop(str(error))
    except OSError as error:
        # The suite's own errors are sentences.
        told = (
            f"{error.filename or 'a file'} could not be read or written ({error.strerror}); mend that and run the same again."
        )
        _stop(told if error.strerror else str(error))
    except Exception as error:
        if isinstance(error, MemoryError) or re.search("RESOURCE_EXHAUSTED|[Oo]ut of memory", str(error)):
            _stop("there is not enough memory for a run of this size; lower num_latents or num_samples.")
        if distributed.count() > 1:
            # At its end Python would wait for the other processes, which wait for this one.
            traceback.print_exc()
            distributed.leave(1)
        raise
    sys.exit(0)


def options_of(main: Callable[..., object]) -> type[Options] | None:
    """The class that annotates the options of a main."""
    return typing.get_type_hints(main).get("options")


def take(arguments: Sequence[str], flag_values: flags.FlagValues) -> None:
    """Parses a command line.

    Raises:
      UsageError: a flag is not known, or has a value that cannot be.
    """
    try:
        rest = flag_values(arguments)
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split()).removesuffix(".") + "; see --help.") from error
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is not a flag; see --help.")


def define_distributed(flag_values: flags.FlagValues) -> None:
    """The flags of a binary that may run in many processes."""
    flags.DEFINE_boolean(
        "distributed",
        False,
        "Run in many processes, one a host; TPU and Slurm need no more.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "With --distributed elsewhere: host:port of process 0.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer("num_processes", None, "With --coordinator: how many there are.", flag_values=flag_values)
    flags.DEFINE_integer(
        "process_id",
        None,
        "With --coordinator: which one this is, from 0.",
        flag_values=flag_values,
    )


_PROCESSES = [field.name for field in dataclasses.fields(Distributed)]


def _join(options: dict[str, Any]) -> None:
    several = options.pop("distributed")
    if not several:
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise UsageError(f"--{given[0]} goes with --distributed; give both or neither.")
        return
    try:
        distributed.start(**options)
    except ValueError as error:
        # Flags are the user's to mend; others that have not come yet may be there at the next start.
        _stop(str(error), 1 if isinstance(error.__cause__, RuntimeError) else 2)
    if not distributed.is_first():
        # What all would say is said once.
        logging.get_absl_logger().setLevel(python_logging.ERROR)


def _stop(sentence: str, code: int = 2) -> NoReturn:
    sys.stderr.write(sentence + "\n")
    distributed.leave(code)
    sys.exit(code)


class _FiniteParser(flags.FloatParser):
    """Finite numbers: no bound keeps NaN out."""

    def convert(self, argument: str | float) -> float:
        value = super().convert(argument)
        if not math.isfinite(value):
            raise ValueError(f"{argument} is not a finite number")
        return value


def DEFINE_number(  # noqa: N802
    name: str,
    default: float | None,
    help: str,
    flag_values: flags.FlagValues,
    lower_bound: float,
    upper_bound: float = 1e30,
) -> flags.FlagHolder:
    """A flag that is a finite number, named like the others of absl."""
    parser = _FiniteParser(lower_bound, upper_bound)
    return flags.DEFINE(parser, name, default, help, flag_values, serializer=flags.ArgumentSerializer())


def folder(value: str) -> Folder:
    """The folder that a flag names, on disk or in a bucket."""
    with usage():
        return Folder(value)


def local_folder(value: str) -> pathlib.Path:
    """The folder on this machine that --results_dir names."""
    found = folder(value).local
    if found is None:
        raise UsageError(f"--results_dir must be a folder of this machine, but it is {value!r}.")
    return found


def parse_shard(text: str) -> tuple[int, int]:
    """Reads `i/N`, the i-th of N shards, counted from 0."""
    index, slash, count = text.partition("/")
    numbers = (index + count).isascii() and index.isdigit() and count.isdigit()
    if not (slash and numbers and int(index) < int(count)):
        raise UsageError(f"--shard must read i/N with 0 <= i < N, such as 0/4, but it is {text!r}.")
    return int(index), int(count)


def parse_integers(name: str, values: Sequence[str], least: int | None = None) -> tuple[int, ...]:
    """Reads the values of a list flag as different integers, of a least size."""
    numbers = parse_numbers(name, values, read=int, kind="integers, such as 1,2")
    if least is not None and min(numbers) < least:
        raise UsageError(f"--{name} must list integers of at least {least}, but it is {','.join(values)!r}.")
    return numbers


def parse_numbers(name: str, values: Sequence[str], read: type = float, kind: str = "numbers, such as 0.1,0.01") -> tuple:
    """Reads the values of a list flag as different finite numbers."""
    with contextlib.suppress(ValueError):
        numbers = tuple(read(value) for value in values)
        if numbers and len(set(numbers)) == len(numbers) and all(map(math.isfinite, numbers)):
            return numbers
    raise UsageError(f"--{name} must list different {kind}, but it is {','.join(values)!r}.")


def require_one_of(name: str, values: Sequence[str], choices: Sequence[str]) -> None:
    """Refuses a list flag that is empty, or holds an unknown name or one twice."""
    unknown = [value for value in values if value not in choices]
    if unknown or not values:
        raise UsageError(f"--{name} must list some of {', '.join(choices)}, but {', '.join(unknown) or 'none'} is there.")
    if len(set(values)) < len(values):
        raise UsageError(f"--{name} must list each name once, but it is {','.join(values)!r}.")


def read_matrix(name: str, path: str) -> Float[np.ndarray, "rows columns"]:
    """The finite matrix of floating-point numbers in the .npy file that a flag names, as float32.

    Raises:
      UsageError: the file cannot be read, or holds anything else.
    """
    path = os.path.expanduser(path)
    try:
        if not os.path.isfile(path):
            raise OSError("it is not a file")
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"--{name} {path} cannot be read as a .npy file ({error}); write it by numpy.save.") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise UsageError(f"--{name} {path} does not hold one array of real numbers; save that as float32 by numpy.save.")
    with usage():
        return matching.as_matrix(f"--{name} {path}", array.astype(np.float32))
