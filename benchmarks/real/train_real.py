"""SAEs and dictionaries learned from activations of your own, and what their held-out rows are reconstructed with.

Trains SAEs and `online_dl` on activations that `sae_gap.open_activations` reads, on the part that `Activations.split` gives
for training, as `measure_sae` splits them too, so that what it measures with is held out here. `--methods` takes any SAE of
the suite by its name, the same from the dictionary of `online_dl` with `_from_online_dl` after its name, and three
dictionaries. Each is stored in <results_dir>/train_real/ as SAELens does; an SAE that SAELens has no form for, such as
`lista_topk`, as `load_sae` reads it; a dictionary as atoms and bias. On held-out rows it then asks, at one mean L0, for the
share of variance unexplained (FVU, squared error over the variance about the mean of those rows) of

  own          the SAE's own codes, and the least squares on their supports
  lasso        the certified lasso on the same dictionary, at the λ whose codes are as sparse as was asked
  refit        the least squares on the lasso's supports

Outlier tokens, of more than ten times the median norm, are left out of learning and of these figures; --outliers=keep learns
from them as from rows of the median norm. Either way columns `with outlier tokens` hold the FVU where held-out ones count.

Fitted models are kept under --models_dir, so that a run that was stopped goes on.

  python -m sae_gap train_real --activations=results/record/SmolLM2-135M-Instruct.Q4_1-bbc/block10
"""

import dataclasses
import datetime
import functools
import io
import sys
import time
from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
from absl import flags, logging
from jaxtyping import Array, Float
from tqdm import tqdm

from benchmarks import cli
from benchmarks.real import training_flags
from sae_gap import catalogue, measure
from sae_gap.core import identity
from sae_gap.core.types import Model, Task
from sae_gap.data.activations import fetched
from sae_gap.data.recording import Recording
from sae_gap.encoders.encoder import unit_atoms
from sae_gap.figures import tables
from sae_gap.learners.learner import Learner
from sae_gap.learners.online.families import Families
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.runtime import devices, distributed, progress
from sae_gap.saes.save import files_of
from sae_gap.storage import results
from sae_gap.storage.folder import Folder
from sae_gap.study.models import Models

NAME = "train_real"
# As much as `Activations.split` holds out unless told otherwise.
HELD_OUT = 0.1
# Raised whenever a row comes to hold something else, so that models are scored again.
FORM = 3
# Share of atoms that may be copies of others before that is said.
MANY = 0.01
METHODS = ("topk", "topk_from_online_dl", "batchtopk", "jumprelu", "matryoshka", "relu", "online_dl")
# What has no encoder: how each is learned, given `online_dl`. Families take several times as long as the others.
DICTIONARIES: dict[str, Callable[[OnlineDictionary], Learner]] = {
    "online_dl": lambda online: online,
    "online_dl_incoherent": lambda online: dataclasses.replace(online, incoherent=True),
    "online_dl_families": lambda online: Families(
        margin=online.margin, num_slots=online.num_slots, base=dataclasses.replace(online, incoherent=True)
    ),
}
# What an SAE is called that starts from the dictionary of `online_dl`.
FROM = "_from_online_dl"
EVERY = (*(name + start for start in ("", FROM) for name in catalogue.saes()), *DICTIONARIES)
# What tells the lines of the summary apart, and what they hold.
CELL = ("method", "num_latents", "sparsity")
METRICS = {"l0_own": "L0 own", "fvu_own": "FVU own", "fvu_own_refit": "refit", "l0_lasso": "L0 lasso"}
METRICS |= {"fvu_lasso": "FVU lasso", "fvu_lasso_refit": "lasso refit", "fit_seconds": "fit s"}
# Where a held-out row is an outlier.
WITH_OUTLIERS = {"fvu_own_outliers": "FVU own with outlier tokens", "fvu_lasso_outliers": "FVU lasso with outlier tokens"}

FLAGS = flags.FlagValues()
training_flags.define(FLAGS)
NAMES = f"{', '.join(catalogue.saes())}, each also with {FROM} after it, and {', '.join(DICTIONARIES)}"
flags.DEFINE_list("methods", list(METHODS), f"What to train, of {NAMES}.", flag_values=FLAGS)
flags.DEFINE_float("visits", 150.0, "Rows that online_dl sees for each latent.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("samples", 5_000, "Held-out rows to score, at most.", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_enum("outliers", "drop", ["drop", "keep"], "Whether to learn from outlier tokens.", flag_values=FLAGS)
flags.DEFINE_string("models_dir", None, "Where fitted models are kept.  [models, beside this folder]", flag_values=FLAGS)
cli.define_distributed(FLAGS)


def learner_of(
    name: str,
    *,
    width: int,
    sparsity: int,
    input_dim: int,
    epochs: int,
    batch_size: int,
    visits: float,
) -> Learner:
    """How a method learns from activations of this many dimensions."""
    online = OnlineDictionary.for_activations(width, sparsity, input_dim, visits=visits)
    if name in DICTIONARIES:
        return DICTIONARIES[name](online)
    trained: dict[str, Any] = {"num_steps": epochs, "batch_size": batch_size, "base": online if name.endswith(FROM) else None}
    return catalogue.sae_for_activations(name.removesuffix(FROM), sparsity=sparsity, input_dim=input_dim, **trained)


def score(
    model: Model, rows: Float[np.ndarray, "n input_dim"], sparsity: int, outliers: Float[np.ndarray, "m input_dim"]
) -> dict[str, Any]:
    """The FVU of a model's own codes, if it has an encoder, and of the lasso's, as `measure_sae` takes them.

    Args:
      model: what was learned.
      rows: held-out rows without outliers.
      sparsity: the mean L0 of the lasso's codes.
      outliers: the outliers that belong to them.
    """
    subject = measure.of_model("learned", model)
    lam = measure.find_weight(subject, rows, sparsity)
    (best,), own = measure.measure_curve(subject, rows, [lam])
    found: dict[str, Any] = {"lam": lam, "l0_lasso": best.l0, "fvu_lasso": best.fvu, "fvu_lasso_refit": best.refit_fvu}
    found["certificate"] = best.certificate
    if own is not None:
        found |= {"l0_own": own.l0, "fvu_own": own.fvu, "fvu_own_refit": own.refit_fvu}
    if len(outliers):
        (best,), own = measure.measure_curve(subject, np.concatenate([rows, outliers]), [lam])
        found |= {"fvu_lasso_outliers": best.fvu} | ({} if own is None else {"fvu_own_outliers": own.fvu})
    return found


def save(model: Model, folder: Folder) -> None:
    """Stores an SAE as `save_sae` does, and a dictionary as atoms and bias, in the place of an earlier one."""
    if model.encode is None:
        files = {"dictionary.npy": _npy(unit_atoms(model.decoder)[0]), "bias.npy": _npy(model.bias)}
    else:
        files = files_of(model)
    for name, content in files.items():
        folder.write(name, content)


def _npy(array: Array) -> bytes:
    content = io.BytesIO()
    np.save(content, np.asarray(array))
    return content.getvalue()


def learners_of(task: Task) -> dict[str, Learner]:
    """The learner of each method that the flags name.

    Raises:
      cli.UsageError: one cannot learn from these data.
    """
    if FLAGS.sparsity >= task.input_dim:
        raise cli.UsageError(f"--sparsity must be below the {task.input_dim} dimensions, but it is {FLAGS.sparsity}.")
    options: dict[str, Any] = {name: FLAGS[name].value for name in ("width", "sparsity", "batch_size", "visits")}
    options |= {"epochs": max(1, round(FLAGS.epochs)), "input_dim": task.input_dim}
    learners = {name: learner_of(name, **options) for name in FLAGS.methods}
    for name, learner in learners.items():
        lacking = learner.needs(task)
        if lacking is not None:
            raise cli.UsageError(f"--methods: {name} cannot be learned, since the data lack {lacking}; leave it out.")
    return learners


def keep(store: results.Store, key: str, row: results.Row, model: Model, rows: np.ndarray, outliers: np.ndarray) -> None:
    """Scores a model and stores its row."""
    copies = measure.describe_atoms(model.decoder).duplicates
    row = row | score(model, rows, FLAGS.sparsity, outliers) | {"num_scored": len(rows), "duplicates": copies}
    if copies > MANY * FLAGS.width:
        logging.warning("%s has %d atoms that are copies of others: it is narrower than it looks.", row["method"], copies)
    made = {"device": devices.describe(), "date": datetime.datetime.now(datetime.UTC).isoformat()}
    store.append([row | results.provenance() | made | {"key": key, "job": key}])


def show(line: tqdm, learner: Learner, fitted: Learner, place: int, steps: int) -> None:
    """Moves a line of progress to the steps of its learner; its bases go before."""
    if fitted is learner:
        line.update(steps - line.n)


def latest(rows: Sequence[results.Row], current: Container[str]) -> list[results.Row]:
    """The rows of each cell by the options of this run, or else of its last run; each has found its own weight."""
    chosen: dict[Any, Any] = {}
    for row in sorted(rows, key=lambda row: (row["learner"] in current, row["date"])):
        chosen[tuple(row[name] for name in CELL)] = row["learner"]
    mine = [row for row in rows if row["learner"] == chosen[tuple(row[name] for name in CELL)]]
    return [{name: value for name, value in row.items() if name != "lam"} for row in mine]


def main() -> Folder:
    training_flags.check(FLAGS, "methods", list(EVERY))
    results_dir = cli.folder(FLAGS.results_dir)
    models_dir = results_dir / "models" if FLAGS.models_dir is None else cli.folder(FLAGS.models_dir)
    directory = results_dir / NAME
    keeps = FLAGS.outliers == "keep"
    with cli.usage():
        path = fetched(FLAGS.activations)
        source = Recording(path, FLAGS.width, FLAGS.sparsity, FLAGS.seed, HELD_OUT, FLAGS.key, keep_outliers=keeps)
        whole = source.activations()
        # The rows that `measure_sae` scores too.
        plan = measure.Plan((), whole, samples=FLAGS.samples)
        task, rows = source.task(), plan.scored
        measure.check_varies(rows)
        learners = learners_of(task)
        directory.require_writable()
    if keeps and len(whole.outliers.rows):
        logging.warning("kept, and learned from as of the median norm: %s", whole.outliers)
    logging.info("%d rows to learn from, %d held out", len(task.train.signals), len(task.id.signals))
    store, models, current = results.Store(directory), Models(models_dir), set()
    for place, (name, learner) in enumerate(learners.items(), 1):
        began = time.process_time()
        with progress.bar(learner.num_steps, f"{name} ({place} of {len(learners)})", unit="step") as line:
            watch = None if line.disable else functools.partial(show, line, learner)
            end = models.fit(learner, [source], [task], mesh=devices.mesh(), watch=watch)[0].end
        logging.info("%s: %.0f s of the processor; fitted in %.0f s", name, time.process_time() - began, end.seconds)
        fit, options = models.folder(learner, source), results.key({"options": identity.describe(learner)})
        row = {"study": NAME, "method": name, "fit": None if fit is None else fit.name, "learner": options} | source.asdict()
        seconds = end.seconds
        if learner.base is not None:
            seconds += models.fit(learner.base, [source], [task], mesh=devices.mesh())[0].end.seconds
        key = results.key(row | {"scored": len(rows), "form": FORM})
        current.add(options)
        # What is scored is small: the first process does it.
        if distributed.is_first():
            save(end.model, directory / name)
            if key not in store.keys():  # noqa: SIM118
                keep(store, key, row | {"fit_seconds": seconds}, end.model, rows, plan.left_out)
    if distributed.is_first():
        data = source.asdict()["data"]
        alike = [row for row in store.rows() if (row["data"], row["num_scored"]) == (data, len(rows))]
        metrics = METRICS | {name: heading for name, heading in WITH_OUTLIERS.items() if any(name in row for row in alike)}
        summary = tables.summarise(latest(alike, current), by=CELL, metrics=list(metrics))
        tables.write_table(directory, "summary.csv", summary)
        sys.stdout.write(tables.format_table(summary, {"method": "method", "num_latents": "latents", **metrics}) + "\n")
    return directory


if __name__ == "__main__":
    cli.run(main, FLAGS)
