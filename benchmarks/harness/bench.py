"""A study with its command line, and what a run leaves: rows, a summary, figures and a page."""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags, logging

from benchmarks import cli
from benchmarks.harness import command, crossing
from benchmarks.harness.drawings import Drawing
from benchmarks.harness.dry_run import check_writable, plan
from benchmarks.harness.outcome import write_outcome
from benchmarks.harness.preset import Knob, Preset, grid
from benchmarks.report import published
from sae_gap.data.recording import Recording, Source
from sae_gap.runtime import devices, distributed
from sae_gap.storage import results
from sae_gap.study.models import Models
from sae_gap.study.runner import run
from sae_gap.study.study import Method, Study

RECOVERY = (
    *("mcc_id", "mcc_ood", "cosine", "close", "support_f1_id", "support_f1_ood"),
    *("accuracy_id", "accuracy_ood", "auc_id", "auc_ood"),
)
INFERENCE = (
    *("l0_above_id", "mse_id", "objective_id", "gap_id", "relative_gap_id", "certificate_id"),
    *("fit_seconds", "encode_seconds"),
)


@dataclasses.dataclass(frozen=True)
class Bench:
    """A study as data, with its figures and its command line.

    Args:
      name: of the study, its module and its folder.
      title: of its page.
      about: what it asks and what it leaves, the docstring of its module.
      methods: for a source and a preset; `--methods` may name others, see `crossing`.
      presets: by name; "quick" is the default.
      options: of `Study`, beside its sources, methods, λ and protocol.
      varies: columns that its methods vary beside their name, which stand in summary.csv next to the sizes.
      figures: by the stem of their file.
      tables: columns to print, by title; their headings are the metrics' own.
      parts: whether to split each SAE's distance to the oracle.
      sources: the sources of a preset.
      slow: methods that run only when they are named, or all are.
      without: flags that make no sense here.
      knobs: options of this study alone, by name, which methods and sources find in `Preset.knobs`.
    """

    name: str
    title: str
    about: str
    methods: Callable[[Source, Preset], Sequence[Method]]
    presets: Mapping[str, Preset]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    varies: tuple[str, ...] = ()
    figures: Mapping[str, Drawing] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, Sequence[str]] = dataclasses.field(
        default_factory=lambda: {"Recovery": RECOVERY, "Inference on ID": INFERENCE}
    )
    parts: bool = False
    sources: Callable[[Preset], Sequence[Source]] = grid
    slow: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    knobs: Mapping[str, Knob] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        # Whoever reads a knob finds it in every preset.
        defaults = {name: knob.default for name, knob in self.knobs.items()}
        presets = {name: dataclasses.replace(one, knobs={**defaults, **one.knobs}) for name, one in self.presets.items()}
        object.__setattr__(self, "presets", presets)

    @functools.cached_property
    def flags(self) -> flags.FlagValues:
        """The study's own flags, apart from those of other studies in one process."""
        return command.study_flags(self)

    def study(self, preset: Preset, *, names: Sequence[str] | None = None, sources: Sequence[Source] | None = None) -> Study:
        """The study of a preset, with the methods of the given names or all of its own."""

        def chosen(source: Source) -> list[Method]:
            own = self.methods(source, preset)
            known = {method.name for method in own}
            crossed = [crossing.method_of(name, own, source, preset) for name in names or () if name not in known]
            return [*(method for method in own if names is None or method.name in names), *crossed]

        sources = self.sources(preset) if sources is None else sources
        return Study(self.name, tuple(sources), chosen, lam=preset.lam, protocol=preset.protocol, **self.options)

    def main(self) -> None:
        """Reads the flags, runs, and prints the tables."""
        self.execute(command.read_study(self))

    def run(self) -> None:
        """The binary."""
        cli.run(self.main, self.flags, self.about)

    def execute(self, read: command.Read) -> None:
        """Runs what is read from a command line, or says what would run."""
        began = time.perf_counter()
        study = self.study(read.preset, names=read.names, sources=read.sources)
        models, store = Models(read.models_dir), results.Store(read.results_dir / self.name)
        if read.dry_run:
            if distributed.is_first():
                sys.stdout.write(plan(study, store.keys(), models) + "\n")
            return
        with cli.usage():
            check_writable(study, store, models)
            devices.compilations()
            rows = run(study, store, None if read.shard == (0, 1) else read.shard, models=models)
        logging.info("%d rows in %s", len(rows), store.folder)
        if not rows and read.shard == (0, 1):
            names = ", ".join(read.names)
            raise cli.UsageError(f"none of {names} can run on these data; choose others or add the truth that they need.")
        if rows and distributed.is_first():
            notes = {
                "seconds": f"{time.perf_counter() - began:.0f}",
                "peak memory": f"{devices.peak_memory():.1f} GiB",
                "compilations": str(devices.compilations()),
                "models": str(read.models_dir),
            }
            sys.stdout.write(write_outcome(self, rows, store.folder, read, notes, is_comparable(self, read)) + "\n")
            logging.info("%s", ", ".join(f"{name}: {value}" for name, value in notes.items()))


def is_comparable(bench: Bench, read: command.Read) -> bool:
    """Whether a run is one that the paper published: its protocol, seeds, weight and lengths of training, on its own model."""
    if bench.name not in (published.HEADLINE, *published.STUDIES):
        return False
    alike = dataclasses.replace(bench.presets["quick"], protocol="paper")
    fields = ("protocol", "lam", "seeds", "epochs", "rounds", "blocks", "input_dim", "noise_db", "width", "stream", "world")
    same = all(getattr(read.preset, name) == getattr(alike, name) for name in (*fields, "world_file"))
    return same and not any(isinstance(source, Recording) for source in read.sources)
