"""The command line of a study: the flags that every study has, those of its own knobs, and what is read from them."""

import dataclasses
import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from benchmarks import cli
from benchmarks.harness.preset import LENGTHS, Preset, grid
from sae_gap.core.checks import check_choice
from sae_gap.core.types import check_width
from sae_gap.data.activations import fetched
from sae_gap.data.recording import Recording, Source
from sae_gap.data.worlds.law import parse_law
from sae_gap.data.worlds.named import SCALED, WORLDS
from sae_gap.learners.learner import Learner
from sae_gap.learners.peer import Peer
from sae_gap.storage.folder import Folder
from sae_gap.study.study import PROTOCOLS

if TYPE_CHECKING:
    from benchmarks.harness.bench import Bench

# The axes of the grid, all lists of integers but for the noise.
_AXES = {
    "num_latents": "Numbers of latents.",
    "sparsity": "Numbers of active latents a sample.",
    "num_samples": "Numbers of ID samples, half of them for training; all of them with --stream.",
    "seeds": "Seeds.",
    "width": "Numbers of atoms to learn; by default as many as there are latents.",
    "input_dim": "Dimensions of the signals; by default the compressed-sensing bound.",
    "noise_db": "Signal-to-noise ratios in decibels; none for no noise.",
}


@dataclasses.dataclass(frozen=True)
class Read:
    """A command line that was read.

    Attributes:
      preset: grid, lengths and knobs, other flags taken into account.
      sources: settings, worlds or recordings.
      names: the methods to run, in order.
      results_dir: where the folder of the study goes.
      models_dir: where fitted models go.
      shard: which part of the study to run.
      dry_run: whether to say only what would run.
      command: what was typed.
    """

    preset: Preset
    sources: Sequence[Source]
    names: Sequence[str]
    results_dir: Folder
    models_dir: Folder
    shard: tuple[int, int]
    dry_run: bool
    command: str


def study_flags(bench: "Bench") -> flags.FlagValues:
    """The flags of a study; its knobs take the place of flags of the same name."""
    found, quick = flags.FlagValues(), bench.presets["quick"]

    def define(kind, name, default, text, **options):
        if name not in bench.without and name not in found:
            kind(name, default, text, flag_values=found, **options)

    for name, knob in bench.knobs.items():
        default = knob.default
        shown = ",".join(f"{one:g}" for one in default) if isinstance(default, tuple) else default or ""
        define(flags.DEFINE_string, name, None, f"{knob.help}  [{shown}]" if shown else knob.help)
    presets = ", ".join(bench.presets)
    define(flags.DEFINE_string, "preset", "quick", f"Sizes of a run, one of {presets}; other flags take precedence.")
    text = "strict: learners see train only, codes are certified; paper: as published."
    define(flags.DEFINE_string, "protocol", quick.protocol, text)
    for name, text in _AXES.items():
        values = [value for value in getattr(quick, name) if value is not None]
        define(flags.DEFINE_list, name, None, f"{text}  [{','.join(map(str, values))}]" if values else text)
    define(flags.DEFINE_boolean, "stream", False, "Whether all samples are for training, with at most 2500 more to score on.")
    text = "Methods to run: names as in the table, LEARNER:ENCODER, LEARNER, sae_ENCODER, or all; by default all but slow ones."
    define(flags.DEFINE_list, "methods", None, text)
    define(cli.DEFINE_number, "lam", None, f"Weight of the l1 norm.  [{quick.lam:g}]", lower_bound=1e-30)
    for name, text in LENGTHS.items():
        define(flags.DEFINE_integer, name, None, f"{text}  [{getattr(quick, name)}]", lower_bound=1)
    define(flags.DEFINE_string, "world", None, f"A world in the place of the paper's model: {', '.join(WORLDS)}.")
    define(flags.DEFINE_list, "law", None, "Parts of the world's law, such as roots=64,depth=2,most=0.4.")
    define(flags.DEFINE_string, "world_file", None, "The folder of a published world, such as SynthSAEBench-16k.")
    define(flags.DEFINE_string, "data", None, "An .npz file of activations (Y_train, Y_val, Y_ood, optionally Z_* and A).")
    define(flags.DEFINE_string, "results_dir", "results", "Where the folder of this study goes; gs:// and s3:// are buckets.")
    define(flags.DEFINE_string, "models_dir", None, "Where fitted models are kept, for all studies.  [<results_dir>/models]")
    define(flags.DEFINE_string, "shard", "0/1", "i/N: run the i-th of N parts of the study, counted from 0.")
    define(flags.DEFINE_boolean, "dry_run", False, "Say what would run and what must be fitted, and run nothing.")
    cli.define_distributed(found)
    return found


def read_study(bench: "Bench", arguments: Sequence[str] | None = None) -> Read:
    """Checks the parsed flags of a study.

    Args:
      bench: the study.
      arguments: what its command line holds beside its name; None takes that of the process.

    Raises:
      cli.UsageError: a flag has a value that the study cannot run with.
    """
    values = {name: bench.flags[name].value for name in bench.flags}
    given: dict[str, Any] = {name: value for name, value in values.items() if value not in (None, False)}
    with cli.usage():
        check_choice("--preset", given["preset"], bench.presets)
        check_choice("--protocol", given["protocol"], PROTOCOLS)
        preset = _changed(bench, bench.presets[given["preset"]], given)
        sources = _recordings(preset, given) if "data" in given else bench.sources(preset)
        if not sources:
            raise ValueError("no setting is left of these sizes; choose more latents or a lower sparsity.")
        names = _names(bench, preset, sources, given.get("methods"))
        # Whatever a method refuses is refused before anything runs.
        for method in bench.study(preset, names=names, sources=sources).methods(sources[0]):
            _check_library(method.name, method.learner)
    results_dir = cli.folder(given["results_dir"])
    models_dir = cli.folder(given["models_dir"]) if "models_dir" in given else results_dir / "models"
    typed = shlex.join(sys.argv[1:] if arguments is None else arguments)
    shard = cli.parse_shard(given["shard"])
    dry_run = given.get("dry_run", False)
    return Read(preset, sources, names, results_dir, models_dir, shard, dry_run, f"{cli.COMMAND}{bench.name} {typed}".strip())


def _changed(bench: "Bench", preset: Preset, given: Mapping[str, Any]) -> Preset:
    """A preset as the flags have it."""
    changes: dict[str, Any] = {name: given[name] for name in ("protocol", "stream", *LENGTHS) if name in given}
    if "lam" in given and "lam" not in bench.knobs:
        changes["lam"] = given["lam"]
    for name in _AXES:
        if name in given:
            changes[name] = parse_noise(given[name]) if name == "noise_db" else cli.parse_integers(name, given[name], least=0)
    knobs = dict(preset.knobs)
    for name, knob in bench.knobs.items():
        if name in given:
            try:
                knobs[name] = knob.read(given[name])
            except ValueError as error:
                raise ValueError(f"--{name}: {str(error).rstrip('.')}.") from None
    return dataclasses.replace(preset, **changes, **_world(bench, preset, given), knobs=knobs)


def _world(bench: "Bench", preset: Preset, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a preset that say which world, where one is asked for."""
    told = {name: given[name] for name in ("world", "law", "world_file") if name in given}
    if not told and preset.world is None:
        return {}
    if bench.sources is not grid:
        raise ValueError(f"{bench.name} takes no world; leave --{next(iter(told))} out.")
    if "world_file" in told:
        refused = dict.fromkeys(
            ("world", "law", "num_latents", "input_dim"), "is the file's to say; leave it out with --world_file"
        )
    else:
        refused = {"sparsity": "follows from its law", "stream": "is how it is", "data": "takes its place"}
        refused = {name: f"{why} in a world; leave it out with --world" for name, why in refused.items()}
    for name, why in refused.items():
        if name in given:
            raise ValueError(f"--{name} {why}.")
    world = told.get("world", preset.world)
    if world is None and "world_file" not in told:
        raise ValueError(f"--law is part of a world; give --world={SCALED} with it.")
    if "num_latents" not in given and ("world_file" in told or world != SCALED):
        # As many as the world has, and not as the preset.
        told["num_latents"] = (None,)
    if "law" in told:
        told["law"] = parse_law(given["law"])
    return told


def _recordings(preset: Preset, given: Mapping[str, Any]) -> list[Recording]:
    """A file in the place of settings, at each width, sparsity and seed; what is not given comes from the file."""
    for name in ("num_latents", "num_samples", "input_dim", "noise_db", "stream"):
        if name in given:
            raise ValueError(f"--{name} is the file's to say; leave it out with --data.")
    path, sparsities = fetched(given["data"]), preset.sparsity
    codes = Recording(path, preset.width[0]).task().train.codes
    if "sparsity" not in given and codes is not None:
        sparsities = (max(1, round(float(np.count_nonzero(np.asarray(codes), axis=1).mean()))),)
    sources = [Recording(path, *cell) for cell in itertools.product(preset.width, sparsities, preset.seeds)]
    for source in sources:
        check_width(source.sparsity, source.task().width)
    return sources


def _names(bench: "Bench", preset: Preset, sources: Sequence[Source], given: Sequence[str] | None) -> list[str]:
    """The methods to run: those of the study in its order, then crossings."""
    own = list(dict.fromkeys(method.name for method in bench.methods(sources[0], preset)))
    if given is None:
        return [name for name in own if name not in bench.slow]
    if list(given) == ["all"]:
        return own
    if not given or "" in given or len(set(given)) < len(given):
        raise ValueError(f"--methods must list different names, but it is {','.join(given)!r}; choose from {', '.join(own)}.")
    return [*(name for name in own if name in given), *(name for name in given if name not in own)]


def _check_library(name: str, learner: Learner) -> None:
    """Refuses a method that learns, itself or in a base, by another library that is not there."""
    if learner.base is not None:
        _check_library(name, learner.base)
    if isinstance(learner, Peer):
        try:
            learner.library()
        except ImportError:
            package = learner.module.partition(".")[0]
            raise ValueError(
                f"{name} needs {package}, which is not installed; run: pip install 'sae_gap[peers]', or leave {name} out."
            ) from None


def parse_noise(values: Sequence[str]) -> tuple[float | None, ...]:
    """Reads the values of --noise_db: different finite decibels, or none."""
    return tuple(None if value == "none" else cli.parse_numbers("noise_db", [value])[0] for value in values)
