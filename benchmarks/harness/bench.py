"""What the studies share: sizes and lengths, one command line, and what a run leaves: rows, summary, figures and a page."""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags, logging

from benchmarks import cli
from benchmarks.harness import command
from benchmarks.harness.dry_run import check_writable, plan
from benchmarks.harness.preset import HEADINGS, SMOKE, Preset, grid
from benchmarks.report import pages, published
from sae_gap.data.recording import Source
from sae_gap.figures import decompose, labels, tables
from sae_gap.metrics import METRICS
from sae_gap.metrics.metric import Metric
from sae_gap.runtime import devices, distributed
from sae_gap.storage import results
from sae_gap.storage.folder import Folder
from sae_gap.storage.results import CELL
from sae_gap.study.models import Models
from sae_gap.study.runner import run
from sae_gap.study.study import Method, Study

WIDTHS = (50, 100, 500, 1_000, 5_000, 10_000)


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure of a study.

    Args:
      draw: from rows, and from the published lines that they may be held against, to a figure or None.
      cells: columns whose every combination of values has a figure of its own.
    """

    draw: Callable[[Sequence[results.Row], Sequence[Mapping[str, Any]]], Any]
    cells: tuple[str, ...] = ()


RECOVERY = {
    "mcc_id": "MCC ID",
    "mcc_ood": "MCC OOD",
    "cosine": "cosine",
    "close": "cos > .9",
    "support_f1_id": "F1 ID",
    "support_f1_ood": "F1 OOD",
    "accuracy_id": "acc ID",
    "accuracy_ood": "acc OOD",
    "auc_id": "AUC ID",
    "auc_ood": "AUC OOD",
}
INFERENCE = {
    "l0_id": "L0",
    "mse_id": "MSE",
    "objective_id": "objective",
    "gap_id": "gap",
    "relative_gap_id": "relative gap",
    "certificate_id": "certificate",
    "fit_seconds": "fit s",
    "encode_seconds": "encode s",
}


@dataclasses.dataclass(frozen=True)
class Bench:
    """A study with its command line.

    Args:
      name: of the study, its module and its folder.
      about: what it asks and what it leaves, the docstring of its module.
      methods: for a source and a preset.
      presets: by name; "quick" is the default.
      varies: columns that its methods vary beside their name, which stand in summary.csv next to the sizes.
      figures: by the stem of their file.
      tables: columns to print, by title.
      parts: whether to split each SAE's distance to the oracle.
      metrics: what to measure.
      optimum: whether to find the optimum that codes are held against, which metrics of the gap need.
      timed: whether the seconds of fits are among what it asks: then learners are fitted one after the other.
      sources: the grid of a preset.
      slow: methods that run only when they are named, or all are.
      without: flags that make no sense here.
      extra: flags of its own: the fields of `Preset` with their help.
    """

    name: str
    about: str
    methods: Callable[[Source, Preset], Sequence[Method]]
    presets: Mapping[str, Preset]
    varies: tuple[str, ...] = ()
    figures: Mapping[str, Drawing] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, Mapping[str, str]] = dataclasses.field(
        default_factory=lambda: {"Recovery": RECOVERY, "Inference on ID": INFERENCE}
    )
    parts: bool = False
    metrics: Sequence[Metric] = METRICS
    optimum: bool = True
    timed: bool = False
    sources: Callable[[Preset], Sequence[Source]] = grid
    slow: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def flags(self) -> flags.FlagValues:
        """The study's own flags, apart from those of other studies in one process."""
        return command.study_flags(self.presets["quick"], tuple(self.presets), without=self.without, extra=self.extra)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Every method, in order."""
        return self.names_of(self.presets["smoke"])

    def names_of(self, preset: Preset, sources: Sequence[Source] | None = None) -> tuple[str, ...]:
        """Every method of a preset, in order, on its own sources or on given ones."""
        sources = self.sources(preset) if sources is None else sources
        if not sources:
            raise ValueError("no setting is left of these sizes; choose more latents or a lower sparsity.")
        return tuple(dict.fromkeys(method.name for method in self.methods(sources[0], preset)))

    def study(self, preset: Preset, *, names: Sequence[str] | None = None, sources: Sequence[Source] | None = None) -> Study:
        """The study of a preset, with the methods of the given names or of all."""

        def chosen(source: Source) -> list[Method]:
            return [method for method in self.methods(source, preset) if names is None or method.name in names]

        found = self.sources(preset) if sources is None else sources
        # Where λ varies, own codes are held against the optimum at the suite's usual one.
        lam = 0.1 if "lam" in self.varies else preset.weight
        options: dict[str, Any] = {"lam": lam, "protocol": preset.protocol, "metrics": self.metrics, "optimum": self.optimum}
        options |= {"timed": self.timed}
        return Study(self.name, tuple(found), chosen, **options)

    def main(self) -> None:
        """Reads the flags, runs, and prints the tables."""
        self.execute(command.read_study(self))

    def run(self) -> None:
        """The binary."""
        cli.run(self.main, self.flags)

    def execute(self, read: command.Read) -> None:
        """Runs what is read from a command line, or says what would run."""
        began = time.perf_counter()
        study = self.study(read.preset, names=read.names, sources=read.sources)
        models, store = Models(read.models_dir), results.Store(read.results_dir / self.name)
        try:
            if read.dry_run:
                if distributed.is_first():
                    sys.stdout.write(plan(study, store.keys(), models) + "\n")
                return
            check_writable(study, store, models)
            command.describe_recording(study.sources[0])
            devices.compilations()
            rows = run(study, store, None if read.shard == (0, 1) else read.shard, models=models)
        except ValueError as error:
            raise cli.UsageError(str(error)) from error
        logging.info("%d rows in %s", len(rows), store.folder)
        if not rows:
            if read.shard == (0, 1):
                raise cli.UsageError(
                    f"none of {', '.join(read.names)} can run on these data; "
                    "choose other methods or add the truth that they need."
                )
            return
        if distributed.is_first():
            notes = {
                "seconds": f"{time.perf_counter() - began:.0f}",
                "peak memory": f"{devices.peak_memory():.1f} GiB",
                "compilations": str(devices.compilations()),
                "models": str(read.models_dir),
            }
            sys.stdout.write(self.report(rows, store.folder, read, notes) + "\n")
            logging.info("%s", ", ".join(f"{name}: {value}" for name, value in notes.items()))

    def report(self, rows: Sequence[results.Row], folder: Folder, read: command.Read, notes: Mapping[str, str]) -> str:
        """Writes summary.csv, the figures and the page, removes those of an earlier run, and returns the tables to print.

        Args:
          rows: the rows of the study.
          folder: where to write.
          read: the command line.
          notes: what the run took.
        """
        # Importing matplotlib takes as long as everything else in --help.
        from sae_gap import figures

        # A run without noise, without streams and of one dimension for each size has no columns for them.
        told_apart = [name for name in ("noise_db", "stream") if any(row.get(name) not in (None, False) for row in rows)]
        told_apart += [name for name in ("world", "width") if len({row.get(name) for row in rows}) > 1]
        if len({tuple(row[name] for name in (*CELL, "input_dim")) for row in rows}) > len({_cell(row) for row in rows}):
            told_apart.append("input_dim")
        told_apart = [name for name in told_apart if name not in self.varies]
        by = tuple(dict.fromkeys((*tables.BY, *self.varies, *told_apart)))
        summary = tables.summarise(rows, by=by, methods=read.every)
        tables.write_table(folder, "summary.csv", summary)
        stale = ("published.csv", "decomposition.csv", "README.md", "page.json", "report.html")
        for name in folder.names():
            if name in stale or name.endswith((".png", ".pdf")):
                folder.remove(name)
        lines = published.published(self.name) if is_comparable(read, self) else []
        drawn = []
        for stem, drawing in self.figures.items():
            cells = tuple(dict.fromkeys((*drawing.cells, *told_apart)))
            groups: dict[tuple[Any, ...], list[results.Row]] = {}
            for row in rows:
                groups.setdefault(tuple(row.get(name) for name in cells), []).append(row)
            for cell, group in groups.items():
                figure = drawing.draw(group, lines)
                if figure is not None:
                    named = [value if isinstance(value, str) else f"{value:g}" for value in cell if value is not None]
                    suffix = "".join(f"_{value}" for value in named) if len(groups) > 1 else ""
                    name, _ = figures.save(figure, folder, f"{stem}{suffix}")
                    drawn.append(pages.Figure(name, figure.get_label()))
        varied = [name for name in by if name != "method" and len({line[name] for line in summary}) > 1]
        heads = {"method": "method"} | {name: HEADINGS.get(name, name.replace("_", " ")) for name in varied}
        shown = [
            pages.Table(title, heads | {name: head for name, head in columns.items() if _is_in(name, summary)}, summary)
            for title, columns in self.tables.items()
        ]
        if self.parts:
            shown += self._decompositions(rows, folder, heads, read, told_apart)
        printed = [f"{title}\n{tables.format_table(table, columns)}" for title, columns, table in shown]
        comparison = published.compare(summary, self.name) if is_comparable(read, self) else []
        if comparison:
            tables.write_table(folder, "published.csv", comparison)
            printed.append(published.describe(comparison))
            shown.append(published.table(comparison))
        title, told = labels.label(self.name, "study"), {**notes, **pages.provenance(rows[-1])}
        finding = pages.first_sentence(drawn[0].caption) if drawn else ""
        pages.write(folder, pages.Page(self.name, title, _prose(self.about), read.command, finding, drawn, shown, told))
        return "\n\n".join(printed)

    def _decompositions(self, rows, folder, heads, read, told_apart) -> list[pages.Table]:
        """The parts of each score, all of them to a file and those of the MCC to a table."""
        names, by = read.every, (*tables.BY, *told_apart)
        scores = [f"{stem}_{split}" for stem in ("mcc", "support_f1", "accuracy", "auc") for split in ("id", "ood")]
        split = {score: tables.summarise(decompose.decompositions(rows, score), by=by, methods=names) for score in scores}
        found = [{"metric": score} | line for score, lines in split.items() for line in lines]
        if not found:
            return []
        tables.write_table(folder, "decomposition.csv", found)
        columns = (
            "encoder",
            "support",
            "frozen",
            "oracle",
            "values_part",
            "support_part",
            "amortisation_part",
            "dictionary_part",
        )
        table = split["mcc_ood"]
        kept = {name: name.replace("_part", " part") for name in columns if _is_in(name, table)}
        title = "Decomposition of MCC OOD: oracle - encoder = values part + support part + dictionary part"
        return [pages.Table(title, heads | kept, table)] if table else []


def _cell(row: results.Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in CELL)


def _prose(about: str) -> str:
    """A docstring without its command lines, which are indented."""
    return "\n".join(line for line in about.splitlines() if not line.startswith("  ")).strip()


def _is_in(name: str, summary: Sequence[Mapping[str, Any]]) -> bool:
    return any(line.get(f"{name}_mean") is not None or line.get(name) is not None for line in summary)


def is_comparable(read: command.Read, bench: Bench) -> bool:
    """Whether a run is one that the paper published: its protocol, seeds and lengths of training, on its own model."""
    if bench.name not in (published.HEADLINE, *published.STUDIES):
        return False
    preset, quick = read.preset, bench.presets["quick"]
    lengths = ("seeds", "epochs", "rounds", "blocks", "input_dim", "noise_db", "stream")
    same = all(getattr(preset, name) == getattr(quick, name) for name in lengths)
    world = preset.world is not None or preset.world_file is not None
    return (
        preset.protocol == "paper"
        and same
        and not world
        and (preset.lam == (0.1,) or "lam" in bench.varies)
        and read.data is None
    )


__all__ = ["INFERENCE", "RECOVERY", "SMOKE", "WIDTHS", "Bench", "Drawing", "Preset"]
