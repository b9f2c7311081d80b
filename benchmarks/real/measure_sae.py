"""Is it the encoder or the dictionary? Your own SAE on your own activations, measured with certificates.

Reads SAEs as SAELens, dictionary_learning, sparsify, Gemma Scope and this suite write them, or a decoder alone, and says how
they were read. Then it says whether the loading, the encoder or the dictionary is at fault, with figures and their intervals:
how much better the best codes are at the encoder's own L0, and what the dictionary is worth beside control dictionaries. All is
scored on the same rows of held-out documents. Writes rows, summary.csv, figures, README.md and report.html, one
self-contained page, under <results_dir>/measure_sae/. A run that was stopped goes on with the same command.

  python -m sae_gap measure_sae --sae=FOLDER --activations=activations.npy
  python -m sae_gap measure_sae --sae=FIRST,SECOND --activations=FOLDER --controls=random,samples,online_dl
  python -m sae_gap measure_sae --dictionary=D.npy --activations=activations.npz --match_l0=32
"""

import dataclasses
import math
import shlex
import sys
import time

from absl import flags, logging

from benchmarks import cli
from benchmarks.real import measurement_page
from benchmarks.real import subjects as subjects_of
from sae_gap import measure
from sae_gap.data.activations import Activations, open_activations
from sae_gap.runtime import devices, distributed
from sae_gap.storage import results

# Multiply-adds that a control may take to learn unless it is asked for by name: ten minutes on two cores.
AFFORDABLE = 2e12

FLAGS = flags.FlagValues()
subjects_of.define(FLAGS)
flags.DEFINE_string("activations", None, "File or folder of activations that no SAE was trained on.", flag_values=FLAGS)
flags.DEFINE_string("key", None, "Name of the array of activations in a file of several.", flag_values=FLAGS)
flags.DEFINE_float("lam", None, "Weight of the l1 norm, on unit atoms.", flag_values=FLAGS)
flags.DEFINE_float("match_l0", None, "Mean L0 of the best codes.  [the encoder's; else dimensions / 12]", flag_values=FLAGS)
flags.DEFINE_list("controls", None, f"Of {', '.join(measure.CONTROLS)}, or none.  [all that take minutes]", flag_values=FLAGS)
flags.DEFINE_integer("samples", 5_000, "Rows of held-out documents to score, at most.", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_enum(
    "outliers", "drop", ("drop", "keep"), "What becomes of rows beyond ten times the median norm.", flag_values=FLAGS
)
flags.DEFINE_integer("seed", 0, "Seed of the held-out documents and of the controls.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_string("results_dir", "results", "Where the folder of this measurement goes.", flag_values=FLAGS)
cli.define_distributed(FLAGS)


def main() -> None:
    began = time.perf_counter()
    folder = cli.folder(FLAGS.results_dir) / measure.STUDY
    _check_flags()
    with cli.usage():
        activations = open_activations(FLAGS.activations, key=FLAGS.key)
        plan = measure.Plan(
            (),
            activations,
            lam=FLAGS.lam,
            l0=FLAGS.match_l0,
            samples=FLAGS.samples,
            keep_outliers=FLAGS.outliers == "keep",
            seed=FLAGS.seed,
        )
        if len(activations.outliers.rows):
            told = "are kept" if plan.keep_outliers else "are left out; --outliers=keep keeps them"
            logging.info("%s; they %s.", activations.outliers, told)
        options = {"controls": measure.CONTROLS, "anyway": FLAGS.anyway}
        subjects, loaded = subjects_of.read(FLAGS.sae, FLAGS.dictionary, plan.scored, plan.kept.mean, **options)
        for name, report in loaded.items():
            logging.info("%s, as loaded\n%s", name, report)
        plan = dataclasses.replace(plan, subjects=subjects, loaded=loaded, controls=_controls(subjects[0], plan.kept))
        folder.require_writable()
        rows = measure.run(plan, results.Store(folder))
    if distributed.is_first():
        held = "documents" if activations.documents is not None else "contiguous blocks"
        notes = {
            "activations": f"{activations.num_samples:,} of {activations.input_dim} dimensions; "
            f"{len(plan.places):,} rows of held-out {held} are scored",
            "seconds": f"{time.perf_counter() - began:.0f}",
            "peak memory": f"{devices.peak_memory():.1f} GiB",
        }
        command = f"{cli.COMMAND}measure_sae {shlex.join(sys.argv[1:])}"
        sys.stdout.write(measurement_page.write(folder, rows, command, notes) + "\n")
        logging.info("%s; read %s/report.html", ", ".join(f"{name}: {note}" for name, note in notes.items()), folder)


def _check_flags() -> None:
    if not (FLAGS.sae or FLAGS.dictionary) or not FLAGS.activations:
        raise cli.UsageError("there is nothing to measure; give --activations and --sae or --dictionary.")
    if FLAGS.lam is not None and FLAGS.match_l0 is not None:
        raise cli.UsageError("--lam and --match_l0 each set the weight; give one of them.")
    for name, value in {"lam": FLAGS.lam, "match_l0": FLAGS.match_l0}.items():
        if value is not None and not 0 < value < math.inf:
            raise cli.UsageError(f"--{name} must be a positive number, but it is {value}.")
    subjects_of.controls(FLAGS.controls or ())


def _controls(first: measure.Subject, activations: Activations) -> tuple[str, ...]:
    if FLAGS.controls is not None:
        return tuple(subjects_of.controls(FLAGS.controls))
    chosen = []
    for name, kind in measure.CONTROLS.items():
        if kind.work(activations.num_samples, first.input_dim, first.num_latents) > AFFORDABLE:
            logging.info("%s would take hours at this width and is left out; name it in --controls to run it.", name)
        elif kind.fewest(first.num_latents) > activations.split(seed=FLAGS.seed)[0].num_samples:
            logging.info("there are too few activations for as many atoms; the control %s is left out.", name)
        else:
            chosen.append(name)
    return tuple(chosen)


if __name__ == "__main__":
    cli.run(main, FLAGS)
