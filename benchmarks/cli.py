"""What the binaries share: flags that are checked at once, and one sentence with exit code 2 for whatever the user can mend."""

import errno
import logging as python_logging
import os
import pathlib
import re
import sys
import traceback
import zipfile
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar

import numpy as np
from absl import app, flags, logging
from jaxtyping import Float

from sae_gap.core import matching
from sae_gap.runtime import devices, distributed
from sae_gap.storage.folder import Folder

T = TypeVar("T")
# What numpy.load raises of a file that is no array, or one in name alone.
_UNREADABLE = (OSError, ValueError, EOFError, MemoryError, OverflowError, RecursionError, SyntaxError, zipfile.BadZipFile)
_TOO_LARGE = "there is not enough memory for a run of this size; lower num_latents or num_samples."
# How a binary is called, in its help and on the pages that it writes; `sae-gap` puts itself here.
COMMAND = "python -m sae_gap "


class UsageError(Exception):
    """Something the user can mend; its message is one sentence naming the fault and the mend."""


def run(main: Callable[[], None], flag_values: flags.FlagValues) -> None:
    """Runs a binary: `--help` exits with 0, a `UsageError` or a bad flag with one sentence and 2.

    Args:
      main: what to run once the flags are parsed.
      flag_values: the binary's own flags, apart from absl's, so that one process can import several binaries.
    """

    def guarded(arguments: Sequence[str]) -> None:
        logging.use_absl_handler()
        # The root logger would let every library's chatter through.
        python_logging.getLogger().setLevel(python_logging.WARNING)
        logging.get_absl_logger().setLevel(python_logging.INFO)
        try:
            devices.enable_compilation_cache()
            _join(flag_values)
            main()
        except UsageError as error:
            _stop(str(error))
        except MemoryError:
            _stop(_TOO_LARGE)
        except OSError as error:
            _stop(_of_file(error))
        except Exception as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                # What JAX says of memory is a page, and no MemoryError.
                _stop(_TOO_LARGE)
            if distributed.count() > 1:
                # At its end Python would wait for the other processes, which wait for this one.
                traceback.print_exc()
                distributed.leave(1)
            raise

    # Streams that were closed before the start are none.
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    parse(sys.argv, flag_values)
    app.run(guarded, argv=sys.argv[:1])


def _of_file(error: OSError) -> str:
    """A sentence of what went wrong with a file; the suite's own errors are one already."""
    if error.strerror is None:
        told = " ".join(str(error).split())
        return told or f"a file or a bucket failed ({type(error).__name__}); the same command goes on from there."
    mend = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "mend that"
    name = "a file" if error.filename is None else str(error.filename)
    return f"{name} could not be read or written ({error.strerror}); {mend}, and the same command goes on from there."


def parse(arguments: Sequence[str], flag_values: flags.FlagValues) -> None:
    """Parses a command line; `--help` ends the process with 0, and a bad flag with one sentence and 2."""
    if any(argument in ("--help", "-h", "-help", "--helpshort", "--helpfull") for argument in arguments[1:]):
        # absl's own --help exits with 1, and leaves out flags that another module than the binary defined.
        lines = flag_values.get_help(include_special_flags=False).splitlines()
        named = "\n".join(line for line in lines if line.startswith(" "))
        purpose = sys.modules["__main__"].__doc__
        sys.stdout.write(f"{purpose}\nflags:\n{named}\n")
        sys.exit(0)
    try:
        take(arguments, flag_values)
    except UsageError as error:
        _stop(str(error))


def take(arguments: Sequence[str], flag_values: flags.FlagValues) -> None:
    """Parses a command line.

    Raises:
      UsageError: a flag is not known, or has a value that cannot be.
    """
    strange = next((argument for argument in arguments[1:] if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", argument)), None)
    if strange is not None:
        # Names go into pages, figures and terminals.
        raise UsageError(f"{strange!r} holds a character that cannot be printed; rename the file or the folder.")
    try:
        rest = flag_values(arguments)
    except flags.Error as error:
        raise UsageError(" ".join(str(error).split()).removesuffix(".") + "; see --help.") from error
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is not a flag; see --help.")


def define_distributed(flag_values: flags.FlagValues) -> None:
    """The flags of a binary that may run in many processes."""
    flags.DEFINE_boolean(
        "distributed", False, "Run in many processes, one a host; TPU and Slurm need no more.", flag_values=flag_values
    )
    flags.DEFINE_string("coordinator", None, "With --distributed elsewhere: host:port of process 0.", flag_values=flag_values)
    flags.DEFINE_integer("num_processes", None, "With --coordinator: how many there are.", flag_values=flag_values)
    flags.DEFINE_integer("process_id", None, "With --coordinator: which one this is, from 0.", flag_values=flag_values)


def _join(flag_values: flags.FlagValues) -> None:
    """Joins the other processes, if the flags say that there are any."""
    if "distributed" not in flag_values or not flag_values["distributed"].value:
        return
    try:
        distributed.start(**{name: flag_values[name].value for name in ("coordinator", "num_processes", "process_id")})
    except ValueError as error:
        raise UsageError(str(error)) from error
    if not distributed.is_first():
        # What all would say is said once.
        logging.get_absl_logger().setLevel(python_logging.ERROR)


def _stop(sentence: str, code: int = 2) -> NoReturn:
    sys.stderr.write(sentence + "\n")
    distributed.leave(code)
    sys.exit(code)


def folder(name: str, value: str) -> Folder:
    """The folder that a flag names, on disk or in a bucket."""
    if value == "":
        raise UsageError(f"--{name} is empty; name a folder.")
    try:
        return Folder(value)
    except ValueError as error:
        raise UsageError(str(error)) from error


def local_folder(name: str, value: str) -> pathlib.Path:
    """The folder on this machine that a flag names."""
    found = folder(name, value).local
    if found is None:
        raise UsageError(f"--{name} must be a folder of this machine, but it is {value!r}.")
    return found


def parse_shard(text: str) -> tuple[int, int]:
    """Reads `i/N`, the i-th of N shards, counted from 0."""
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        raise UsageError(f"--shard must read i/N, such as 0/4, but it is {text!r}.") from None
    if not 0 <= index < count:
        raise UsageError(f"--shard must have 0 <= i < N, but it is {text!r}.")
    return index, count


def parse_integers(name: str, values: Sequence[str]) -> tuple[int, ...]:
    """Reads the values of a list flag as different integers."""
    try:
        numbers = tuple(int(value) for value in values)
    except ValueError:
        raise UsageError(f"--{name} must list integers, such as 1,2, but it is {','.join(values)!r}.") from None
    if not numbers or len(set(numbers)) < len(numbers):
        raise UsageError(f"--{name} must list different integers, but it is {','.join(values)!r}.")
    return numbers


def read_matrix(name: str, path: str) -> Float[np.ndarray, "rows columns"]:
    """The finite matrix of floating-point numbers in the .npy file that a flag names, as float32.

    Raises:
      UsageError: the file cannot be read, or holds anything else.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except _UNREADABLE as error:
        raise UsageError(f"--{name} {path} cannot be read as a .npy file ({error}); write it by numpy.save.") from None
    if not isinstance(array, np.ndarray):
        array.close()
        raise UsageError(f"--{name} {path} holds several arrays; write the one that is meant by numpy.save.")
    if array.dtype.kind != "f":
        raise UsageError(f"--{name} {path} holds {array.dtype}; convert it to float32.")
    try:
        with np.errstate(over="ignore"):
            return matching.as_matrix(f"--{name} {path}", array.astype(np.float32))
    except ValueError as error:
        raise UsageError(f"{str(error).rstrip('.')}; write it again by numpy.save.") from None
