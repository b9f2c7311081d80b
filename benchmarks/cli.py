"""What the binaries share: flags that are checked at once, and one sentence with exit code 2 for whatever the user can mend."""

import dataclasses
import logging as python_logging
import math
import os
import pathlib
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from absl import app, flags, logging

from benchmarks import peers
from sae_gap import devices
from sae_gap.learners.base import Learner
from sae_gap.recording import Recording, Source
from sae_gap.study import PROTOCOLS

if TYPE_CHECKING:
    from benchmarks.bench import Bench, Preset


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
            main()
        except UsageError as error:
            _stop(str(error))
        except MemoryError:
            _stop("there is not enough memory for a run of this size; lower num_latents or num_samples.")
        except OSError as error:
            _stop(f"a file could not be read or written ({error}); once that is mended, the same command goes on from there.")

    parse(sys.argv, flag_values)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupt)
    app.run(guarded, argv=sys.argv[:1])


def parse(arguments: Sequence[str], flag_values: flags.FlagValues) -> None:
    """Parses a command line; a bad flag ends the process with one sentence and 2."""
    if any(argument in ("--help", "-h", "-help", "--helpshort", "--helpfull") for argument in arguments[1:]):
        # absl's own --help exits with 1, and leaves out flags that another module than the binary defined.
        lines = flag_values.get_help(include_special_flags=False).splitlines()
        named = "\n".join(line for line in lines if line.startswith(" "))
        sys.stdout.write(f"{sys.modules['__main__'].__doc__}\nflags:\n{named}\n")
        sys.exit(0)
    try:
        rest = flag_values(arguments)
    except flags.Error as error:
        _stop(" ".join(str(error).split()).removesuffix(".") + "; see --help.")
    if len(rest) > 1:
        _stop(f"{rest[1]!r} is not a flag; see --help.")


def _interrupt(*_) -> NoReturn:
    """Ends at once: compiled loops cannot be asked to stop, and what has reached the store is safe."""
    sys.stderr.write("interrupted; the same command goes on from what is saved.\n")
    sys.stderr.flush()
    os._exit(130)


def _stop(sentence: str, code: int = 2) -> NoReturn:
    sys.stderr.write(sentence + "\n")
    sys.exit(code)


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


@dataclasses.dataclass(frozen=True)
class Read:
    """A command line that was read.

    Attributes:
      preset: sizes and lengths, other flags taken into account.
      sources: settings or recordings.
      names: the methods to run.
      results_dir: where the folder of the study goes.
      models_dir: where fitted models go.
      shard: which part of the study to run.
      dry_run: whether to say only what would run.
      data: a file of activations in the place of settings.
      command: what was typed.
    """

    preset: "Preset"
    sources: Sequence[Source]
    names: Sequence[str]
    results_dir: pathlib.Path
    models_dir: pathlib.Path
    shard: tuple[int, int]
    dry_run: bool
    data: pathlib.Path | None
    command: str


# The flags that are fields of a preset, and lists of integers.
_SIZES = {
    "num_latents": "Numbers of latents; also the width of every dictionary.",
    "sparsity": "Numbers of active latents a sample.",
    "num_samples": "Numbers of ID samples, half of them for training; all of them with --stream.",
    "seeds": "Seeds.",
}


def study_flags(
    quick: "Preset", presets: Sequence[str], *, without: Sequence[str] = (), extra: Mapping[str, str] | None = None
) -> flags.FlagValues:
    """The command line of a study.

    Args:
      quick: the preset whose values the help shows as defaults.
      presets: their names.
      without: flags to leave out.
      extra: further fields of the preset with their help.
    """
    found = flags.FlagValues()

    def define(kind, name, default, text, **options):
        if name not in without:
            kind(name, default, text, flag_values=found, **options)

    define(flags.DEFINE_string, "preset", "quick", f"Sizes of a run, one of {', '.join(presets)}; other flags take precedence.")
    define(
        flags.DEFINE_string,
        "protocol",
        quick.protocol,
        "strict: learners see train only, codes are certified; paper: as published.",
    )
    for name, text in _SIZES.items():
        define(flags.DEFINE_list, name, None, f"{text}  [{','.join(map(str, getattr(quick, name)))}]")
    define(flags.DEFINE_list, "input_dim", None, "Dimensions of the signals; by default the compressed-sensing bound.")
    define(flags.DEFINE_list, "noise_db", None, "Signal-to-noise ratios in decibels; none for no noise.  [none]")
    define(flags.DEFINE_boolean, "stream", False, "Whether all samples are for training, with at most 2500 more to score on.")
    define(flags.DEFINE_list, "methods", None, "Methods to run, by name as in the table, or all; by default all but slow ones.")
    define(flags.DEFINE_list, "lam", None, f"Weights of the l1 norm.  [{','.join(f'{lam:g}' for lam in quick.lam)}]")
    define(flags.DEFINE_string, "data", None, "An .npz file of activations (Y_train, Y_val, Y_ood, optionally Z_* and A).")
    for name, text in (extra or {}).items():
        default = getattr(quick, name)
        is_text = isinstance(default, str)
        define(flags.DEFINE_string if is_text else flags.DEFINE_integer, name, None, f"{text}  [{default}]")
    define(flags.DEFINE_string, "results_dir", "results", "Where the folder of this study goes.")
    define(flags.DEFINE_string, "models_dir", None, "Where fitted models are kept, for all studies.  [<results_dir>/models]")
    define(flags.DEFINE_string, "shard", "0/1", "i/N: run the i-th of N parts of the study, counted from 0.")
    define(flags.DEFINE_boolean, "dry_run", False, "Say what would run and what must be fitted, and run nothing.")
    return found


def read_study(bench: "Bench", arguments: Sequence[str] | None = None) -> Read:
    """Checks the parsed flags of a study.

    Args:
      bench: the study.
      arguments: what its command line holds beside its name; None takes that of the process.

    Raises:
      UsageError: a flag has a value that the study cannot run with.
    """
    from benchmarks import bench as grammar

    given: dict[str, Any] = {name: bench.flags[name].value for name in bench.flags}
    if given["preset"] not in bench.presets:
        raise UsageError(f"--preset {given['preset']!r} is unknown; choose one of {', '.join(bench.presets)}.")
    if given["protocol"] not in PROTOCOLS:
        raise UsageError(f"--protocol {given['protocol']!r} is unknown; choose one of {', '.join(PROTOCOLS)}.")
    preset = bench.presets[given["preset"]]
    changes: dict[str, Any] = {"protocol": given["protocol"]}
    for name in (*_SIZES, "input_dim"):
        if given.get(name) is not None:
            changes[name] = parse_integers(name, given[name])
    if given.get("noise_db") is not None:
        changes["noise_db"] = parse_noise(given["noise_db"])
    if given.get("lam") is not None:
        changes["lam"] = parse_weights(given["lam"], one="lam" not in bench.varies)
    changes |= {name: given[name] for name in bench.extra if given[name] is not None}
    for name in bench.extra:
        if isinstance(changes.get(name), int) and changes[name] < 1:
            raise UsageError(f"--{name} must be 1 or more, but it is {changes[name]}.")
    if given.get("stream"):
        changes["stream"] = True
    preset = dataclasses.replace(preset, **changes)
    data = None if given.get("data") is None else pathlib.Path(given["data"])
    try:
        names = _names(bench, preset, given["methods"])
        if data is None:
            sources = bench.sources(preset)
        else:
            for name in ("num_samples", "input_dim", "noise_db"):
                if given.get(name) is not None:
                    raise UsageError(f"--{name} is the file's to say; leave it out with --data.")
            taken = {name: given[name] is not None for name in ("num_latents", "sparsity")}
            sources = grammar.recording_sources(preset, data, widths=taken["num_latents"], sparsity=taken["sparsity"])
        # Whatever a method refuses is refused before anything runs.
        for method in bench.study(preset, names=names, sources=sources).methods(sources[0]):
            _check_library(method.name, method.learner)
    except ValueError as error:
        raise UsageError(str(error)) from error
    results_dir = pathlib.Path(given["results_dir"])
    models_dir = results_dir / "models" if given["models_dir"] is None else pathlib.Path(given["models_dir"])
    command = f"python -m benchmarks.{bench.name} {shlex.join(sys.argv[1:] if arguments is None else arguments)}".strip()
    return Read(preset, sources, names, results_dir, models_dir, parse_shard(given["shard"]), given["dry_run"], data, command)


def _check_library(name: str, learner: Learner) -> None:
    """Refuses a method that learns, itself or in a base, by another library that is not there."""
    if learner.base is not None:
        _check_library(name, learner.base)
    if isinstance(learner, peers.Peer):
        try:
            learner.library()
        except ImportError:
            package = learner.module.partition(".")[0]
            message = f"{name} needs {package}, which is not installed; run: pip install 'sae_gap[peers]', or leave {name} out."
            raise UsageError(message) from None


def _names(bench: "Bench", preset: "Preset", given: Sequence[str] | None) -> list[str]:
    every = bench.names_of(preset)
    if given is None:
        return [name for name in every if name not in bench.slow]
    if list(given) == ["all"]:
        return list(every)
    unknown = [name for name in given if name not in every]
    if unknown or not given:
        raise UsageError(f"--methods has {', '.join(map(repr, unknown)) or 'no name'}; choose from {', '.join(every)}.")
    return list(given)


def describe_recording(source: Source) -> None:
    """Says what a file of activations lacks."""
    if isinstance(source, Recording):
        logging.info("%s: sparsity %d", source.path, source.sparsity)
        task = source.task()
        splits = {"Z_train": task.train, "Z_val": task.id, "Z_ood": task.ood}
        missing = [name for name, split in splits.items() if split.codes is None] + ["A"] * (task.dictionary is None)
        if missing:
            logging.warning("%s has no %s: what needs them is left out.", source.path, ", ".join(missing))


def parse_noise(values: Sequence[str]) -> tuple[float | None, ...]:
    """Reads the values of --noise_db: different finite decibels, or none."""
    try:
        ratios = tuple(None if value == "none" else float(value) for value in values)
    except ValueError:
        raise UsageError(f"--noise_db must list decibels or none, such as none,20, but it is {','.join(values)!r}.") from None
    if not ratios or len(set(ratios)) < len(ratios) or not all(ratio is None or math.isfinite(ratio) for ratio in ratios):
        raise UsageError(f"--noise_db must list different finite decibels or none, but it is {','.join(values)!r}.")
    return ratios


def parse_weights(values: Sequence[str], *, one: bool) -> tuple[float, ...]:
    """Reads the values of --lam: different numbers above 0, of which a study may take only one."""
    try:
        weights = tuple(float(value) for value in values)
    except ValueError:
        weights = ()
    if not weights or len(set(weights)) < len(weights) or not all(0 < weight < 1e30 for weight in weights):
        raise UsageError(f"--lam must be a number above 0 and below 1e30, or different ones, but it is {','.join(values)!r}.")
    if one and len(weights) > 1:
        raise UsageError(
            f"--lam must be a single number here, but it is {','.join(values)!r}; lambda_sensitivity takes several."
        )
    return weights
