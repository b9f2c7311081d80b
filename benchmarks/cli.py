"""The common frame of the binaries: checked flags, and one sentence with exit code 2 for any fault
that the user can mend.
"""

import logging as python_logging
import math
import os
import re
import sys
import traceback
import typing
from collections.abc import Callable
from typing import Any, NoReturn

from absl import flags, logging

from benchmarks.options import Distributed, Options, help_of, parse, refuse
from sae_gap.runtime import devices, distributed, progress

# The command in front of a binary's name, on the pages that it writes.
COMMAND = "python -m sae_gap "


def run(
    main: Callable[[Any], object],
    *,
    options: type[Options] | None = None,
    about: str | None = None,
) -> NoReturn:
    """Runs a binary: `--help` exits with 0, a `ValueError` with its sentence and 2.

    Args:
      main: the function to run on its options.
      options: the class of the options, whose fields are the flags; None takes the annotation of
        `options` in `main`.
      about: the beginning of the help; None takes the docstring of `main`'s module.
    """
    options = options or options_of(main)
    if any(argument in ("--help", "-h", "-help") for argument in sys.argv[1:]):
        # absl's own help exits with 1.
        print(f"{about or sys.modules[main.__module__].__doc__}\n{help_of(options)}")
        sys.exit(0)
    flags.FLAGS(sys.argv[:1])
    logging.use_absl_handler()
    # The root logger would pass on every library's messages.
    python_logging.getLogger().setLevel(python_logging.WARNING)
    logging.get_absl_logger().setLevel(python_logging.INFO)
    try:
        chosen = parse(options, sys.argv)
        devices.enable_compilation_cache()
        if isinstance(chosen, Distributed):
            _join(chosen)
        progress.limit(getattr(chosen, "minutes", math.inf))
        main(chosen)
    except progress.UnfinishedError as left:
        logging.warning("%s", left.text)
    except ValueError as error:
        _stop(str(error))
    except OSError as error:
        # The suite's own errors are already sentences.
        if error.strerror is None:
            _stop(str(error))
        _stop(
            f"{error.filename or 'a file'} could not be read or written ({error.strerror}); mend "
            "that and run the same again."
        )
    except Exception as error:
        if isinstance(error, MemoryError) or re.search(
            "RESOURCE_EXHAUSTED|[Oo]ut of memory", str(error)
        ):
            _stop(
                "there is not enough memory for a run of this size; lower num_latents or "
                "num_samples."
            )
        if (asked := os.environ.get("JAX_PLATFORMS")) and not devices.has_devices():
            _stop(
                f"JAX finds no device of JAX_PLATFORMS={asked}; install the suite's extra for it, "
                "cuda or tpu, or unset JAX_PLATFORMS."
            )
        if distributed.count() > 1:
            # Python would wait at its end for the other processes, which wait for this one.
            traceback.print_exc()
            distributed.leave(1)
        raise
    sys.exit(0)


def options_of(main: Callable[..., object]) -> type[Options]:
    """The class that annotates the options of a main."""
    return typing.get_type_hints(main)["options"]


def _join(options: Distributed) -> None:
    names = ("coordinator", "num_processes", "process_id")
    if not options.distributed:
        refuse(options, names, "{} goes with --distributed; give both or neither.")
        return
    try:
        distributed.start(**{name: getattr(options, name) for name in names})
    except ValueError as error:
        # The user can mend flags; other processes that have not come yet may be there at the next
        # start.
        _stop(str(error), 1 if isinstance(error.__cause__, RuntimeError) else 2)
    if not distributed.is_first():
        # Only the first process logs what all would say.
        logging.get_absl_logger().setLevel(python_logging.ERROR)


def _stop(sentence: str, code: int = 2) -> NoReturn:
    sys.stderr.write(sentence + "\n")
    distributed.leave(code)
    sys.exit(code)


def parse_shard(text: str) -> tuple[int, int]:
    """Reads `i/N`, the i-th of N shards, counted from 0."""
    match = re.fullmatch("([0-9]+)/([0-9]+)", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise ValueError(
            f"--shard must read i/N with 0 <= i < N, such as 0/4, but it is {text!r}."
        )
    return int(match[1]), int(match[2])
