"""Is it the encoder or the dictionary? Your own SAE on your own activations, with certificates.

Reads SAEs as SAELens, dictionary_learning, sparsify, Gemma Scope and this suite write them, or a
decoder alone, and says how they were read. Then it says whether the loading, the encoder or the
dictionary is at fault, with figures and their intervals: how much better the best codes are at the
encoder's own L0, and what the dictionary is worth beside control dictionaries. All is scored on the
same rows of held-out documents. Writes rows, summary.csv, figures, README.md and report.html, one
self-contained page, under <results_dir>/measure_sae/. A run that was stopped goes on with the same
command.

  python -m sae_gap measure_sae --sae=FOLDER --activations=activations.npy
  python -m sae_gap measure_sae --sae=FIRST,SECOND --activations=FOLDER --controls=random,samples
  python -m sae_gap measure_sae --dictionary=D.npy --activations=activations.npz --match_l0=32
"""

import dataclasses
import shlex
import sys
import time

from absl import logging

from benchmarks import cli
from benchmarks.options import Distributed, Results, option
from benchmarks.real import measurement_page
from benchmarks.real.inputs import CONTROLS, Measured
from sae_gap import measure
from sae_gap.data.activations import Activations, open_activations
from sae_gap.runtime import devices, distributed
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage import results

# Multiply-adds that a control may take to learn unless it is asked for by name: some ten minutes on
# two cores.
AFFORDABLE = 1e13


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureOptions(Results, Measured, Distributed):
    """What to measure, on what, and where results go."""

    activations: str | None = option(
        None, "File or folder of activations that no SAE was trained on."
    )
    key: str | None = option(None, "Name of the array of activations in a file of several.")
    lam: float | None = option(None, "Weight of the l1 norm, on unit atoms.", least=1e-9)
    match_l0: float | None = option(
        None, "Mean L0 of the best codes.  [the encoder's; else dimensions / 12]", least=0.01
    )
    controls: tuple[str, ...] | None = option(
        None, "Control dictionaries, or none.  [all that take minutes]", choices=CONTROLS
    )
    samples: int = option(5_000, "Rows of held-out documents to score, at most.", least=2)
    outliers: str = option(
        "drop",
        "What becomes of rows beyond ten times the median norm.",
        choices=("drop", "keep"),
    )
    seed: int = option(0, "Seed of the held-out documents and of the controls.", least=0)


def plan_of(options: MeasureOptions) -> measure.Plan:
    """What to measure.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    if not (options.sae or options.dictionary) or not options.activations:
        raise ValueError(
            "there is nothing to measure; give --activations and --sae or --dictionary."
        )
    if options.lam is not None and options.match_l0 is not None:
        raise ValueError("--lam and --match_l0 each set the weight; give one of them.")
    activations = open_activations(options.activations, key=options.key)
    plan = measure.Plan(
        (),
        activations,
        lam=options.lam,
        l0=options.match_l0,
        samples=options.samples,
        keep_outliers=options.outliers == "keep",
        seed=options.seed,
    )
    if len(activations.outliers.rows):
        fate = "kept" if plan.keep_outliers else "left out; --outliers=keep keeps them"
        logging.info("%s; they are %s.", activations.outliers, fate)
    saes, reports = options.read(plan.scored, plan.kept.mean, measure.CONTROLS)
    for name, report in reports.items():
        logging.info("%s, as loaded\n%s", name, report)
    controls = controls_of(options, saes[0], plan.kept)
    return dataclasses.replace(plan, saes=saes, loaded=reports, controls=controls)


def controls_of(options: MeasureOptions, first: SAE, activations: Activations) -> tuple[str, ...]:
    """The controls that are asked for, or those that can be had in minutes."""
    if options.controls is not None:
        return tuple(name for name in options.controls if name != "none")
    chosen = []
    for name, kind in measure.CONTROLS.items():
        # Each of three rounds of the pursuit, and the step, is a product with the dictionary.
        work = 4 * kind.visits(first.num_latents) * first.input_dim * first.num_latents
        train = activations.split(seed=options.seed)[0]
        if work > AFFORDABLE:
            logging.info("%s would take hours and is left out; --controls=%s runs it.", name, name)
        elif kind.fewest(first.num_latents) > train.num_samples:
            logging.info("%s is left out: there are fewer activations than atoms.", name)
        else:
            chosen.append(name)
    return tuple(chosen)


def main(options: MeasureOptions) -> None:
    began = time.perf_counter()
    folder = cli.folder(options.results_dir) / measure.STUDY
    with cli.usage():
        plan = plan_of(options)
        folder.require_writable()
        rows = measure.run(plan, results.Store(folder))
    if distributed.is_first():
        held = "documents" if plan.activations.documents is not None else "contiguous blocks"
        size = f"{plan.activations.num_samples:,} of {plan.activations.input_dim} dimensions"
        notes = {
            "activations": f"{size}; {len(plan.places):,} rows of held-out {held} are scored",
            "seconds": f"{time.perf_counter() - began:.0f}",
            "peak memory": f"{devices.peak_memory():.1f} GiB",
        }
        command = f"{cli.COMMAND}measure_sae {shlex.join(sys.argv[1:])}"
        print(measurement_page.write(folder, rows, command, notes))
        logging.info("read %s/report.html", folder)


if __name__ == "__main__":
    cli.run(main)
