"""Is it the encoder or the dictionary? Your own SAE on your own activations, with certificates.

Reads SAEs as SAELens, dictionary_learning, sparsify, Gemma Scope and this suite write them, or a
decoder alone, and says how they were read. Then it says whether the loading, the encoder or the
dictionary is at fault, with figures and their intervals: how much better the best codes are at the
encoder's own L0, and what the dictionary is worth beside control dictionaries. All is scored on the
same rows, of held-out documents if controls learn. Writes rows, summary.csv, figures, README.md and
report.html, one self-contained page, under <results_dir>/measure_sae/. A run that was stopped goes
on with the same command.

  python -m sae_gap measure_sae --sae=FOLDER --activations=activations.npy
  python -m sae_gap measure_sae --sae=FIRST,SECOND --activations=FOLDER --controls=random,samples
  python -m sae_gap measure_sae --dictionary=D.npy --activations=activations.npz --match_l0=32
"""

import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence

from absl import logging

from benchmarks import cli
from benchmarks.options import Distributed, Results, option
from benchmarks.real import measurement_page
from benchmarks.real.inputs import Measured, OnPairs, Outliers
from sae_gap import measure
from sae_gap.data.activations import Activations
from sae_gap.health.check import Check
from sae_gap.learners.online.gradient_sums import total_visits
from sae_gap.learners.online.online_dictionary import VISITS
from sae_gap.runtime import devices, distributed
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage import results

# Most multiply-adds for learning `online_dl` unless it is named: about ten minutes on two cores.
AFFORDABLE = 1e13


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureOptions(Results, OnPairs, Measured, Outliers, Distributed):
    """The options of `measure_sae`."""

    lam: float | None = option(None, "Weight of the l1 norm, on unit atoms.", least=1e-9)
    match_l0: float | None = option(
        None, "Mean L0 of the best codes.  [the encoder's; else dimensions / 12]", least=0.01
    )
    controls: tuple[str, ...] | None = option(
        None,
        "Dictionaries of learners of the suite to compare with, or none.  [online_dl if it takes "
        "minutes, samples, random]",
    )
    codes: tuple[str, ...] = option(
        (), "Further codes: omp, or an encoder of the suite without parameters; _refit refits them."
    )
    samples: int = option(5_000, "Rows to score, at most.", least=2)
    held_out: str | None = option(
        None,
        "Share of the documents to hold out and score; all scores all.  [all without controls; "
        "else 0.1, which train_real leaves too]",
    )
    seed: int = option(0, "Seed of the held-out documents and of the controls.", least=0)


def plan_of(options: MeasureOptions) -> tuple[measure.Plan, dict[str, Check]]:
    """The plan of the measurement, and a report on how each SAE was read, by name.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    if not (options.sae or options.dictionary) or not options.activations:
        raise ValueError(
            "there is nothing to measure; give --activations and --sae or --dictionary."
        )
    if options.lam is not None and options.match_l0 is not None:
        raise ValueError("--lam and --match_l0 each set the weight; give one of them.")
    chosen = measure.CONTROLS if options.controls is None else options.controls
    controls = tuple(name for name in chosen if name != "none")
    activations, inputs = options.read_pairs()
    plan = measure.Plan(
        (),
        activations,
        lam=options.lam,
        l0=options.match_l0,
        controls=controls,
        held_out=_held_out(options.held_out, activations, controls),
        codes=options.codes,
        samples=options.samples,
        keep_outliers=options.keep_outliers,
        seed=options.seed,
        inputs=inputs,
    )
    if len(activations.outliers.rows):
        fate = "kept" if plan.keep_outliers else "left out; --outliers=keep keeps them"
        logging.info("%s; they are %s.", activations.outliers, fate)
    taken = (*measure.CONTROLS, *chosen)
    source = plan.source
    saes, reports = options.read(
        source.scored, source.kept.mean, taken, inputs=source.scored_inputs
    )
    for name, report in reports.items():
        logging.info("%s, as loaded\n%s", name, report)
    if options.controls is None and not is_affordable(saes[0]):
        logging.info("online_dl would take hours and is left out; --controls=online_dl runs it.")
        controls = controls[1:]
    return dataclasses.replace(plan, saes=saes, controls=controls), reports


def _held_out(
    text: str | None, activations: Activations, controls: Sequence[str]
) -> Activations | float | None:
    """What is scored, or the share of it."""
    if text != "all":
        try:
            return None if text is None else float(text)
        except ValueError:
            raise ValueError(
                f"--held_out must be a share between 0 and 1, or all, but it is {text!r}."
            ) from None
    if controls:
        raise ValueError(
            "--held_out=all leaves no rows for controls to learn from; give a share, or "
            "--controls=none."
        )
    return activations


def is_affordable(sae: SAE) -> bool:
    """True if `online_dl` learns a dictionary of the SAE's width in minutes."""
    # Each of three rounds of the pursuit costs a product with the dictionary, and so does the step.
    products = 4 * total_visits(VISITS, sae.num_latents)
    return products * sae.input_dim * sae.num_latents <= AFFORDABLE


def main(options: MeasureOptions) -> None:
    began = time.perf_counter()
    folder = options.folder(measure.STUDY)
    plan, reports = plan_of(options)
    store = results.Store(folder)
    rows = measure.run(plan, store)
    if distributed.is_first():
        size = f"{plan.activations.num_samples:,} of {plan.activations.input_dim} dimensions"
        notes = {
            "activations": f"{size}; {plan.activations.outliers}",
            "seconds": f"{time.perf_counter() - began:.0f}",
            "peak memory": f"{devices.peak_memory():.1f} GiB",
        }
        command = f"{cli.COMMAND}measure_sae {shlex.join(sys.argv[1:])}"
        stored = store.rows()
        print(measurement_page.write(folder, rows, stored, plan.source, reports, command, notes))
        logging.info("read %s/report.html", folder)


if __name__ == "__main__":
    cli.run(main)
