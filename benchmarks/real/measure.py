r"""Is it the encoder or the dictionary? Your own SAE on your own activations, with certificates.

Reads SAEs as SAELens, dictionary_learning, sparsify, Gemma Scope and this suite write them, or a
decoder alone, and says how they were read. Then it says whether the loading, the encoder or the
dictionary is at fault, with figures and their intervals: how much better the best codes are at the
encoder's own L0, and what the dictionary is worth beside control dictionaries. All is scored on the
same rows, of held-out documents if controls learn.

The loss is the variance that is left. With the recording of a language model it is also what
reconstructions cost the model in nats; `--costs=all` adds what codes cost in products and seconds.
`--layers` replaces several layers instead, each by its own SAE: alone, and all of them together.
Writes rows, summary.csv, figures, README.md and report.html, one self-contained page, under
<results_dir>/measure/, and what the network says to nats/, costs/ and together/ in there. A
run that was stopped goes on with the same command.

  python -m sae_gap measure --sae=FOLDER --activations=activations.npy
  python -m sae_gap measure --sae=FIRST,SECOND --activations=FOLDER --controls=random,samples
  python -m sae_gap measure --dictionary=D.npy --activations=activations.npz --l0=32
  python -m sae_gap measure --sae=FOLDER --recording=FOLDER --layer=10 --l0=16,32 --costs=all
  python -m sae_gap measure --sae=FIRST,SECOND --recording=FOLDER --layers=5,10
"""

import dataclasses
import math
import shlex
import sys
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from absl import logging

from benchmarks import cli
from benchmarks.options import Distributed, Limited, frozen, option, refuse
from benchmarks.real import measurement_page
from benchmarks.real.inputs import OfRecording, OnPairs, Outliers, check_place
from sae_gap import figures, measure
from sae_gap.analysis import (
    BEST,
    LOSSES,
    Table,
    at,
    over,
    over_documents,
    sentence,
    splits,
    table_of,
    tables,
)
from sae_gap.analysis.tables import table
from sae_gap.data import TENTH, Activations, HeldOut
from sae_gap.health import Check
from sae_gap.learners import total_visits
from sae_gap.learners.online.online_dictionary import VISITS
from sae_gap.measure import KINDS, check_codes
from sae_gap.runtime import devices, distributed, progress
from sae_gap.saes import SAE
from sae_gap.storage import Folder, Row, Store

# What needs no network loads none.
if TYPE_CHECKING:
    from sae_gap.lm.on_network import OnNetwork
    from sae_gap.lm.pretrained import LM
    from sae_gap.lm.recording import Recorded

NAME = "measure"
# Most multiply-adds for learning `online_dl` unless it is named: about ten minutes on two cores.
AFFORDABLE = 1e13
# Codes in nats, and codes whose cost is measured beside `KINDS`.
CODES = ("own", "own_refit", "omp", "lasso", "lasso_refit", "screened", "proposed")
NAMED = ("mp", "gradient_pursuit")
LEVELS = (16, 32, 64, 128)
PRICED = 32
# Options that only a network has, and those that several layers do not.
OF_NETWORK = "layer mlp tokens costs"
OF_ONE_LAYER = (
    "layer mlp dictionary controls costs activations key targets held_out samples"
)
# Columns of the tables.
SCORES = "dictionary codes level l0 fvu kl delta_ce kl_score ce_score ce_score_mean own_certificate"
COSTS = (
    "dictionary codes products processor seconds l0 fvu kl delta_ce objective_gap shared "
    "own_certificate"
)


@frozen
class MeasureOptions(OnPairs, OfRecording, Outliers, Distributed, Limited):
    """What to measure, and how much."""

    l0: tuple[float, ...] = option(
        (),
        "Mean L0s at which dictionaries are compared: each in nats, the middle one in variance and "
        "costs.  [the encoder's or dimensions / 12 in variance; "
        f"{', '.join(map(str, LEVELS))} in nats; {PRICED} in costs]",
        least=0.01,
    )
    controls: tuple[str, ...] | None = option(
        None,
        "Dictionaries of learners of the suite to compare with, or none.  [online_dl if it takes "
        "minutes, samples, random]",
    )
    codes: tuple[str, ...] = option(
        (),
        "Further codes: omp, or an encoder of the suite without parameters; _refit refits them.",
    )
    costs: tuple[str, ...] = option(
        (),
        f"Codes whose cost to measure: all, or some of {', '.join(KINDS)} and encoders by their "
        "names.  [none]",
    )
    layers: tuple[int, ...] = option(
        (),
        "Blocks whose streams to replace together, ascending, by one --sae for each.  [none]",
        least=0,
    )
    mlp: bool = option(
        False,
        "Replace the output of the block's MLP, which transcoders and SAEs of it explain.",
    )
    samples: int = option(5_000, "Rows to score, at most.", least=2)
    held_out: str | None = option(
        None,
        "Share of the documents to hold out and score; all scores all.  [all if no controls or "
        "codes learn; else 0.1, which train_real leaves too]",
    )
    tokens: int = option(
        8_192, "Held-out tokens to run, rounded up to whole documents.", least=1
    )
    seed: int = option(
        0,
        "Seed of the held-out documents, of those that are run, and of the controls.",
        least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        named = [name for name in self.costs if name not in ("all", *KINDS)]
        check_codes([*self.codes, *named])
        if self.distributed and self.recording:
            raise ValueError("--recording takes one process; leave --distributed out.")
        if not self.layers:
            return
        refuse(
            self,
            OF_ONE_LAYER.split(),
            "--layers replaces streams of a recording; leave {} out.",
        )
        if [*self.layers] != sorted(self.layers) or len(self.sae) != len(self.layers):
            raise ValueError("--layers must ascend, with one --sae for each.")

    @property
    def levels(self) -> tuple[float, ...]:
        """The mean L0s at which nats are compared."""
        return tuple(int(l0) if l0 == int(l0) else l0 for l0 in self.l0) or LEVELS

    @property
    def middle(self) -> float | None:
        """The mean L0 of variance and of costs, if it is given."""
        return float(self.l0[len(self.l0) // 2]) if self.l0 else None

    def read_pairs(self) -> tuple[Activations, Activations | None]:
        if not self.recording:
            refuse(
                self,
                OF_NETWORK.split(),
                "{} is of the network; give its --recording too.",
            )
            return super().read_pairs()
        from sae_gap.lm.recording import open_recording

        # Its faults come first: the network runs after the variance is measured.
        recorded = open_recording(self.recording)
        if self.activations:
            return super().read_pairs()
        inputs, activations = self.recorded_pair(recorded)
        return activations, inputs

    def recorded_pair(
        self, recorded: "Recorded"
    ) -> tuple[Activations | None, Activations]:
        """What transcoders read, and what is replaced."""
        if self.mlp:
            return recorded.mlp(self.layer)
        return None, recorded.activations(self.layer)

    def begin(
        self,
        l0: Sequence[float],
        controls: Collection[str] = (),
        opened: tuple["Recorded", "LM"] | None = None,
    ) -> tuple["OnNetwork", list[SAE]]:
        """The documents with the network, and the SAEs to measure on them.

        Args:
          l0: mean L0s at which dictionaries are compared.
          controls: names that no SAE may take.
          opened: what `open` returns, if that is known.

        Raises:
          ValueError: something does not fit; the message says how to mend it.
        """
        from sae_gap.lm.on_network import OnNetwork

        recorded, lm = opened or self.open()
        inputs, activations = self.recorded_pair(recorded)
        # The split of `train_real`, whatever the seed: do not score what its SAEs learned from.
        rows = HeldOut(
            activations, keep_outliers=self.keep_outliers, split_seed=0, inputs=inputs
        )
        saes, reports = self.read(
            rows.scored, rows.parts[0].mean, controls, rows.scored_inputs
        )
        narrowest = min(saes, key=lambda sae: sae.num_latents)
        densest = min(activations.input_dim // 4, narrowest.num_latents - 1)
        if max(l0) > densest:
            raise ValueError(
                f"--l0 {max(l0)} is too much for a quarter of the dimensions and the "
                f"{narrowest.num_latents} atoms of {narrowest.name}; ask for at most {densest}."
            )
        for name, report in reports.items():
            notes = report.sae.notes
            hook = ""
            for word in ("hookpoint", "hook_name", "hook_name_out"):
                hook = notes.get(word, hook)
            check_place(name, hook, self.layer, self.mlp)
        _log_outliers(
            activations, "replaced" if rows.keep_outliers else "left as they are"
        )
        rows = dataclasses.replace(rows, width=saes[0].num_latents)
        return OnNetwork(
            recorded, lm, self.layer, rows, self.tokens, documents_seed=self.seed
        ), saes


def plan_of(options: MeasureOptions) -> tuple[measure.Plan, dict[str, Check]]:
    """The plan of the measurement, and a report on how each SAE was read, by name.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    if not (options.sae or options.dictionary):
        raise ValueError(
            "there is nothing to measure; give --activations and --sae or --dictionary."
        )
    chosen = measure.CONTROLS if options.controls is None else options.controls
    controls = () if chosen == ("none",) else chosen
    activations, inputs = options.read_pairs()
    source = HeldOut(
        activations,
        samples=options.samples,
        keep_outliers=options.keep_outliers,
        seed=options.seed,
        held_out=_held_out(
            options.held_out,
            activations,
            {*controls} - measure.UNLEARNED or measure.learns(options.codes),
        ),
        inputs=inputs,
    )
    _log_outliers(
        activations,
        "kept" if source.keep_outliers else "left out; --outliers=keep keeps them",
    )
    saes, reports = options.read(
        source.scored,
        source.kept.mean,
        (*measure.CONTROLS, *chosen),
        inputs=source.scored_inputs,
    )
    for name, report in reports.items():
        logging.info("%s, as loaded\n%s", name, report)
    if options.controls is None and not is_affordable(saes[0]):
        logging.info(
            "online_dl would take hours and is left out; --controls=online_dl runs it."
        )
        controls = controls[1:]
    return measure.Plan(saes, source, options.middle, controls, options.codes), reports


def _log_outliers(activations: Activations, fate: str) -> None:
    if len(activations.outliers.rows):
        logging.info("%s; they are %s.", activations.outliers, fate)


def _held_out(
    text: str | None, activations: Activations, learns: object
) -> Activations | float:
    """What is scored, or the share of it."""
    if text == "all" and learns:
        raise ValueError(
            "--held_out=all leaves no rows for controls or codes to learn from; give a share, or "
            "--controls=random or none and no codes that are trained."
        )
    if text in (None, "all"):
        return TENTH if learns else activations
    try:
        return float(str(text))
    except ValueError:
        raise ValueError(
            f"--held_out must be a share between 0 and 1, or all, but it is {text!r}."
        ) from None


def is_affordable(sae: SAE) -> bool:
    """True if `online_dl` learns a dictionary of the SAE's width in minutes."""
    # Each of three rounds of the pursuit costs a product with the dictionary, and so does the step.
    products = 4 * total_visits(VISITS, sae.num_latents)
    return products * sae.input_dim * sae.num_latents <= AFFORDABLE


def variance(options: MeasureOptions) -> tuple[str, Sequence[str]]:
    """Measures variance, writes the page, and returns what to print, which the first process alone
    has, and the controls.
    """
    began = time.perf_counter()
    folder = options.folder(NAME)
    plan, reports = plan_of(options)
    store = Store(folder)
    partial = {}
    try:
        rows = measure.run(plan, store)
    except progress.UnfinishedError as left:
        rows = left.rows
        if at(rows, BEST, "common") is None:
            raise
        unjudged = {*plan.controls, *(sae.name for sae in plan.saes)} - {
            row["dictionary"] for row in rows
        }
        partial["partial"] = (
            f"{left.text} Not measured yet: {', '.join(sorted(unjudged))}."
        )
    if not distributed.is_first():
        return "", plan.controls
    activations = plan.source.activations
    notes = {
        "activations": f"{activations.num_samples:,} of {activations.input_dim} dimensions; "
        f"{activations.outliers}",
        "seconds": f"{time.perf_counter() - began:.0f}",
        "peak memory": f"{devices.peak_memory():.1f} GiB",
        **partial,
    }
    text = measurement_page.write(
        folder,
        measurement_page.Measurement(rows, store.rows(), plan.source, reports),
        f"{cli.COMMAND}{NAME} {shlex.join(sys.argv[1:])}",
        notes,
    )
    logging.info("read %s/report.html", folder)
    return f"{text}\n", plan.controls


def network(options: MeasureOptions, controls: Sequence[str]) -> list[Any]:
    """Measures nats, and costs where they are asked for: their tables."""
    k = round(options.middle or PRICED)
    folder = options.folder(NAME)
    levels = options.levels
    source, saes = options.begin((*levels, k) if options.costs else levels, controls)
    codes = [*dict.fromkeys((*CODES, *options.codes))]
    rows = nats(
        folder / "nats",
        source,
        saes,
        levels,
        codes,
        controls,
        f"{source.lm.name}, block {source.layer}",
    )
    shown = report(rows)
    if options.costs:
        named = [name for name in options.costs if name != "all"]
        named += (*KINDS, *NAMED) if "all" in options.costs else ()
        shown += costs(folder / "costs", source, saes, k, named)
    return shown


def nats(
    folder: Folder,
    source: Any,
    saes: Sequence[SAE],
    l0: Sequence[float],
    codes: Sequence[str],
    controls: Sequence[str],
    where: str = "",
) -> list[Row]:
    """The rows of `put_back`; writes the tables as files, and the figures."""
    rows = measure.put_back(source, saes, Store(folder), l0, codes, controls)
    lines = splits(rows, LOSSES)
    tables.write_table(folder, "summary.csv", rows)
    if lines:
        tables.write_table(folder, "splits.csv", lines)
    figures.save(figures.fvu_curve(rows), folder, "curve")
    figures.save(figures.loss_parts(lines, where=where), folder, "parts")
    return rows


def report(rows: Sequence[Row]) -> list[Any]:
    """The tables of rows in nats, and a sentence each on the parts of each SAE's nats."""
    return [*tables_of(rows), *(f"{sentence(line)}." for line in splits(rows, ["kl"]))]


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """The parts of each SAE's loss, and the scores of all codes."""
    first = rows[0]
    lines = splits(rows, LOSSES)
    scored = sorted(rows, key=lambda row: (row["dead"], row["level"], row["kl"]))
    dead = ", ".join(dict.fromkeys(row["dictionary"] for row in scored if row["dead"]))
    lost = f"The loss of each SAE ± half its 95 % interval {over_documents(first)}"
    lost += f"; left out, since their encoders are dead: {dead}" if dead else ""
    clean = sum(first["ce_clean"]) / sum(first["tokens"])
    scores = table(
        f"Nats above a clean loss of {clean:.3f} "
        f"(zeros {first['ce_zero']:.3f}, the mean {first['ce_mean']:.3f})",
        SCORES,
        scored,
    )
    return [*([table_of(lines, lost)] if lines else []), scores]


def costs(
    folder: Folder, source: Any, saes: Sequence[SAE], k: int, codes: Sequence[str]
) -> list[Table]:
    """Measures what codes on each SAE cost, and writes the rows as a file, and the figures.

    Returns:
      A table for each SAE, sorted by the cost of codes.
    """
    rows: list[Row] = []
    shown = []
    for sae in saes:
        mine = measure.priced(source, sae, Store(folder), k, codes)
        figures.save(figures.loss_by_cost(mine), folder, sae.name.replace("/", "_"))
        rows += mine
        mine.sort(key=lambda row: (row["products"] or math.inf, row["kl"]))
        shown.append(table(f"Codes on {sae.name} at a mean L0 of {k}", COSTS, mine))
    tables.write_table(folder, "summary.csv", rows)
    return shown


def together(options: MeasureOptions) -> list[Any]:
    """Measures SAEs of several layers: a table and a sentence; writes the table, and a figure."""
    folder = options.folder(NAME) / "together"
    opened = options.open()
    sources = {}
    saes = {}
    for layer, path in zip(options.layers, options.sae, strict=True):
        here = dataclasses.replace(options, layers=(), layer=layer, sae=(path,))
        sources[layer], (saes[layer],) = here.begin((1,), opened=opened)
    codes = [*dict.fromkeys(("own", "screened", *options.codes))]
    lines = measure.put_back_together(
        sources, saes, Store(folder), options.levels, codes
    )
    tables.write_table(folder, "together.csv", lines)
    figures.save(figures.together(lines), folder, "together")
    title = (
        f"Nats ± half their 95 % intervals {over(lines[0]['documents'], 'document')}"
    )
    return [
        table(title, "codes replaced l0 kl delta_ce ratio of_own", lines),
        measure.together_sentence(lines),
    ]


def main(options: MeasureOptions) -> None:
    if options.layers:
        print(*together(options), sep="\n\n")
        return
    codes = options.codes
    if options.recording:
        # Activations alone do not tell what an error costs in nats.
        codes = tuple(name for name in codes if measure.stem(name) != "weighted")
    text, controls = variance(dataclasses.replace(options, codes=codes))
    print(text, end="")
    if options.recording:
        shown = network(options, controls)
        print()
        print(*shown, sep="\n\n")


if __name__ == "__main__":
    cli.run(main)
