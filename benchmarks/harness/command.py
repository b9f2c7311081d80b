"""The command line of a study: the flags that every study has, and what is read from them."""

import dataclasses
import itertools
import math
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags, logging

from benchmarks import cli
from benchmarks.harness.preset import Preset, grid
from sae_gap.core.checks import check_size
from sae_gap.core.types import check_width
from sae_gap.data.activations import fetched
from sae_gap.data.recording import Recording, Source
from sae_gap.data.worlds.law import parse_law
from sae_gap.data.worlds.named import SCALED, WORLDS
from sae_gap.learners.learner import Learner
from sae_gap.learners.peer import Peer
from sae_gap.storage.folder import Folder
from sae_gap.study.study import PROTOCOLS


@dataclasses.dataclass(frozen=True)
class Read:
    """A command line that was read.

    Attributes:
      preset: sizes and lengths, other flags taken into account.
      sources: settings or recordings.
      every: all methods of the study, in order.
      names: those to run.
      results_dir: where the folder of the study goes.
      models_dir: where fitted models go.
      shard: which part of the study to run.
      dry_run: whether to say only what would run.
      data: a file of activations in the place of settings.
      command: what was typed.
    """

    preset: Preset
    sources: Sequence[Source]
    every: Sequence[str]
    names: Sequence[str]
    results_dir: Folder
    models_dir: Folder
    shard: tuple[int, int]
    dry_run: bool
    data: pathlib.Path | None
    command: str


# The flags that are fields of a preset, and lists of integers.
_SIZES = {
    "num_latents": "Numbers of latents.",
    "sparsity": "Numbers of active latents a sample.",
    "num_samples": "Numbers of ID samples, half of them for training; all of them with --stream.",
    "seeds": "Seeds.",
}


def study_flags(
    quick: Preset, presets: Sequence[str], *, without: Sequence[str] = (), extra: Mapping[str, str] | None = None
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
    define(flags.DEFINE_list, "width", None, "Numbers of atoms to learn; by default as many as there are latents.")
    define(flags.DEFINE_list, "input_dim", None, "Dimensions of the signals; by default the compressed-sensing bound.")
    define(flags.DEFINE_list, "noise_db", None, "Signal-to-noise ratios in decibels; none for no noise.  [none]")
    define(flags.DEFINE_boolean, "stream", False, "Whether all samples are for training, with at most 2500 more to score on.")
    define(flags.DEFINE_list, "methods", None, "Methods to run, by name as in the table, or all; by default all but slow ones.")
    define(flags.DEFINE_list, "lam", None, f"Weights of the l1 norm.  [{','.join(f'{lam:g}' for lam in quick.lam)}]")
    define(flags.DEFINE_string, "world", None, f"A world in the place of the paper's model: {', '.join(WORLDS)}.")
    define(flags.DEFINE_list, "law", None, "Parts of the world's law, such as roots=64,depth=2,most=0.4.")
    define(flags.DEFINE_string, "world_file", None, "The folder of a published world, such as SynthSAEBench-16k.")
    define(flags.DEFINE_string, "data", None, "An .npz file of activations (Y_train, Y_val, Y_ood, optionally Z_* and A).")
    for name, text in (extra or {}).items():
        default = getattr(quick, name)
        is_text = isinstance(default, str)
        define(flags.DEFINE_string if is_text else flags.DEFINE_integer, name, None, f"{text}  [{default}]")
    define(flags.DEFINE_string, "results_dir", "results", "Where the folder of this study goes; gs:// and s3:// are buckets.")
    define(flags.DEFINE_string, "models_dir", None, "Where fitted models are kept, for all studies.  [<results_dir>/models]")
    define(flags.DEFINE_string, "shard", "0/1", "i/N: run the i-th of N parts of the study, counted from 0.")
    define(flags.DEFINE_boolean, "dry_run", False, "Say what would run and what must be fitted, and run nothing.")
    cli.define_distributed(found)
    return found


def read_study(bench: Any, arguments: Sequence[str] | None = None) -> Read:
    """Checks the parsed flags of a study.

    Args:
      bench: the study.
      arguments: what its command line holds beside its name; None takes that of the process.

    Raises:
      cli.UsageError: a flag has a value that the study cannot run with.
    """
    given: dict[str, Any] = {name: bench.flags[name].value for name in bench.flags}
    if given["preset"] not in bench.presets:
        raise cli.UsageError(f"--preset {given['preset']!r} is unknown; choose one of {', '.join(bench.presets)}.")
    if given["protocol"] not in PROTOCOLS:
        raise cli.UsageError(f"--protocol {given['protocol']!r} is unknown; choose one of {', '.join(PROTOCOLS)}.")
    preset = bench.presets[given["preset"]]
    changes: dict[str, Any] = {"protocol": given["protocol"]}
    for name in (*_SIZES, "input_dim", "width"):
        if given.get(name) is not None:
            changes[name] = cli.parse_integers(name, given[name])
    if given.get("noise_db") is not None:
        changes["noise_db"] = parse_noise(given["noise_db"])
    if given.get("lam") is not None:
        changes["lam"] = parse_weights(given["lam"], one="lam" not in bench.varies)
    changes |= {name: given[name] for name in bench.extra if given[name] is not None}
    for name in bench.extra:
        if isinstance(changes.get(name), int) and changes[name] < 1:
            raise cli.UsageError(f"--{name} must be 1 or more, but it is {changes[name]}.")
    if given.get("stream"):
        changes["stream"] = True
    try:
        for number in changes.get("num_latents", ()):
            check_size("num_latents", number)
        changes |= _world(bench, preset, given)
        preset = dataclasses.replace(preset, **changes)
        data = None if given.get("data") is None else fetched(given["data"])
        if data is None:
            sources = bench.sources(preset)
        else:
            for name in ("num_latents", "num_samples", "input_dim", "noise_db", "stream"):
                if given.get(name) not in (None, False):
                    raise cli.UsageError(f"--{name} is the file's to say; leave it out with --data.")
            sources = recording_sources(preset, data, sparsity=given["sparsity"] is not None)
        every = bench.names_of(preset, sources)
        names = _names(bench, every, given["methods"])
        # Whatever a method refuses is refused before anything runs.
        for method in bench.study(preset, names=names, sources=sources).methods(sources[0]):
            _check_library(method.name, method.learner)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    results_dir = cli.folder("results_dir", given["results_dir"])
    models_dir = results_dir / "models" if given["models_dir"] is None else cli.folder("models_dir", given["models_dir"])
    command = f"{cli.COMMAND}{bench.name} {shlex.join(sys.argv[1:] if arguments is None else arguments)}".strip()
    shard = cli.parse_shard(given["shard"])
    return Read(preset, sources, every, names, results_dir, models_dir, shard, given["dry_run"], data, command)


def _world(bench: Any, preset: Preset, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a preset that say which world, where one is asked for."""
    told = {name: given.get(name) for name in ("world", "law", "world_file") if given.get(name) is not None}
    if not told and preset.world is None:
        return {}
    if bench.sources is not grid:
        raise cli.UsageError(f"{bench.name} takes no world; leave --{next(iter(told))} out.")
    if "world_file" in told:
        said = [name for name in ("world", "law", "num_latents", "input_dim") if given.get(name) is not None]
        if said:
            raise cli.UsageError(f"--{said[0]} is the file's to say; leave it out with --world_file.")
    elif told.get("world", preset.world) is None:
        raise cli.UsageError(f"--{next(iter(told))} is part of a world; give --world={SCALED} with it.")
    for name, why in {"sparsity": "follows from its law", "stream": "is how it is", "data": "takes its place"}.items():
        if given.get(name) not in (None, False):
            raise cli.UsageError(f"--{name} {why} in a world; leave it out with --world.")
    if given.get("num_latents") is None and ("world_file" in told or told.get("world", SCALED) != SCALED):
        # As wide as the world has it, and not as the preset.
        told["num_latents"] = (0,)
    if "law" in told:
        told["law"] = tuple(parse_law(given["law"]).items())
    return told


def _check_library(name: str, learner: Learner) -> None:
    """Refuses a method that learns, itself or in a base, by another library that is not there."""
    if learner.base is not None:
        _check_library(name, learner.base)
    if isinstance(learner, Peer):
        try:
            learner.library()
        except ImportError:
            package = learner.module.partition(".")[0]
            message = f"{name} needs {package}, which is not installed; run: pip install 'sae_gap[peers]', or leave {name} out."
            raise cli.UsageError(message) from None


def _names(bench: Any, every: Sequence[str], given: Sequence[str] | None) -> list[str]:
    if given is None:
        return [name for name in every if name not in bench.slow]
    if list(given) == ["all"]:
        return list(every)
    unknown = [name for name in given if name not in every]
    if unknown or not given:
        raise cli.UsageError(f"--methods has {', '.join(map(repr, unknown)) or 'no name'}; choose from {', '.join(every)}.")
    if len(set(given)) < len(given):
        raise cli.UsageError(f"--methods must list different names, but it is {','.join(given)!r}.")
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
        raise cli.UsageError(
            f"--noise_db must list decibels or none, such as none,20, but it is {','.join(values)!r}."
        ) from None
    if not ratios or len(set(ratios)) < len(ratios) or not all(ratio is None or math.isfinite(ratio) for ratio in ratios):
        raise cli.UsageError(f"--noise_db must list different finite decibels or none, but it is {','.join(values)!r}.")
    return ratios


def parse_weights(values: Sequence[str], *, one: bool) -> tuple[float, ...]:
    """Reads the values of --lam: different numbers above 0, of which a study may take only one."""
    try:
        weights = tuple(float(value) for value in values)
    except ValueError:
        weights = ()
    if not weights or len(set(weights)) < len(weights) or not all(0 < weight < 1e30 for weight in weights):
        raise cli.UsageError(
            f"--lam must be a number above 0 and below 1e30, or different ones, but it is {','.join(values)!r}."
        )
    if one and len(weights) > 1:
        raise cli.UsageError(
            f"--lam must be a single number here, but it is {','.join(values)!r}; lambda_sensitivity takes several."
        )
    return weights


def recording_sources(preset: Preset, path: pathlib.Path, *, sparsity: bool) -> list[Recording]:
    """A file in the place of settings, at each width, sparsity and seed; what is not given comes from the file."""
    codes = Recording(path, 1).task().train.codes
    if not sparsity and codes is not None:
        preset = dataclasses.replace(
            preset, sparsity=(max(1, round(float(np.count_nonzero(np.asarray(codes), axis=1).mean()))),)
        )
    sources = [Recording(path, *cell) for cell in itertools.product(preset.width, preset.sparsity, preset.seeds)]
    for source in sources:
        check_width(source.sparsity, source.task().width)
    return sources


__all__ = ["Read", "describe_recording", "read_study", "study_flags"]
