"""SAEs and dictionaries learned from activations of your own, and what reconstructs held-out rows.

Trains SAEs and `online_dl` on activations that `sae_gap.open_activations` reads, on the part that
`Activations.split` gives for training, as `measure_sae` splits them too, so that what it measures
with is held out here. `--methods` takes any SAE of the suite by its name, the same from the
dictionary of `online_dl` with `_from_online_dl` after its name, and three dictionaries. Each is
stored in <results_dir>/train_real/ as SAELens does, or as `load_sae` reads it where SAELens has no
form for it; a dictionary as atoms and bias. On held-out rows it then
asks, at one mean L0, for the share of variance unexplained (FVU, squared error over the variance
about the mean of those rows) of

  own          the SAE's own codes, and the least squares on their supports
  lasso        the certified lasso on the same dictionary, at the λ whose codes are as sparse
  refit        the least squares on the lasso's supports

Outlier tokens, of more than ten times the median norm, are left out of learning and of these
figures; --outliers=keep learns from them as from rows of the median norm. Either way columns
`with outlier tokens` hold the FVU where held-out ones count.

Fitted models are kept under --models_dir, so that a run that was stopped goes on.

  python -m sae_gap train_real --activations=results/record/SmolLM2-135M-Instruct.Q4_1-bbc/block10
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float
from tqdm import tqdm

from benchmarks import cli
from benchmarks.options import Distributed, Results, option
from benchmarks.real.inputs import npy
from sae_gap import catalogue
from sae_gap.core import identity
from sae_gap.core.types import Model
from sae_gap.data.activations import fetched
from sae_gap.data.recording import Recording
from sae_gap.encoders.encoder import unit_atoms
from sae_gap.figures import tables
from sae_gap.learners.learner import Learner
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.measure import Plan, describe_atoms, find_weight, measure_curve
from sae_gap.measure.structure import with_families
from sae_gap.runtime import devices, distributed, progress
from sae_gap.saes.decoders import ATOMS, BIAS
from sae_gap.saes.loaded_sae import SAE
from sae_gap.saes.save import files_of
from sae_gap.storage import results
from sae_gap.storage.folder import Folder
from sae_gap.storage.results import Row
from sae_gap.study.models import Models

NAME = "train_real"
# As much as `Activations.split` holds out unless told otherwise.
HELD_OUT = 0.1
# Raised whenever a row comes to hold something else, so that models are scored again.
FORM = 6
METHODS = (
    *("topk", "topk_from_online_dl", "batchtopk", "jumprelu"),
    *("matryoshka", "relu", "online_dl"),
)
# What has no encoder: how each is learned, given `online_dl`.
DICTIONARIES: dict[str, Callable[[OnlineDictionary], Learner]] = {
    "online_dl": lambda online: online,
    "online_dl_incoherent": lambda online: dataclasses.replace(online, incoherent=True),
    "online_dl_families": with_families,
}
# What an SAE is called that starts from the dictionary of `online_dl`.
FROM = "_from_online_dl"
EVERY = (*(name + start for start in ("", FROM) for name in catalogue.saes()), *DICTIONARIES)
# What tells the lines of the summary apart, and what they hold.
CELL = ("method", "num_latents", "sparsity")
METRICS = {
    "l0_own": "L0 own",
    "fvu_own": "FVU own",
    "fvu_own_refit": "refit",
    "l0_lasso": "L0 lasso",
    "fvu_lasso": "FVU lasso",
    "fvu_lasso_refit": "lasso refit",
    "duplicates": "copied atoms",
    "fit_seconds": "fit s",
    # Where a held-out row is an outlier.
    "fvu_own_outliers": "FVU own with outlier tokens",
    "fvu_lasso_outliers": "FVU lasso with outlier tokens",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions(Results, Distributed):
    """What to train, on what, and where results go."""

    activations: str | None = option(None, "File or folder of activations.")
    key: str | None = option(None, "Name of the array, where there are several.")
    methods: tuple[str, ...] = option(METHODS, "What to train.", choices=EVERY)
    width: int = option(3072, "Atoms to learn, the width of each dictionary.", least=1)
    sparsity: int = option(32, "Mean L0 to train and to compare at.", least=1)
    epochs: int = option(8, "Passes of an SAE over the training rows.", least=1)
    batch_size: int = option(256, "Rows to a step of an SAE.", least=1)
    visits: float = option(150.0, "Rows that online_dl sees for each latent.", least=1)
    samples: int = option(5_000, "Held-out rows to score, at most.", least=2)
    outliers: str = option(
        "drop", "Whether to learn from outlier tokens.", choices=("drop", "keep")
    )
    seed: int = option(0, "Seed of what is learned.", least=0)
    models_dir: str | None = option(
        None, "Where fitted models are kept.  [models, beside this folder]"
    )


def learner_of(name: str, options: TrainOptions, input_dim: int) -> Learner:
    """How a method learns from activations of this many dimensions."""
    width, sparsity = options.width, options.sparsity
    online = OnlineDictionary.for_activations(width, sparsity, input_dim, visits=options.visits)
    if name in DICTIONARIES:
        return DICTIONARIES[name](online)
    return catalogue.sae_for_activations(
        name.removesuffix(FROM),
        sparsity=sparsity,
        input_dim=input_dim,
        base=online if name.endswith(FROM) else None,
        num_steps=options.epochs,
        batch_size=options.batch_size,
    )


def score(
    model: Model,
    rows: Float[np.ndarray, "n input_dim"],
    sparsity: int,
    outliers: Float[np.ndarray, "m input_dim"],
) -> Row:
    """The FVU of a model's own codes, if it has an encoder, and of the lasso's.

    Args:
      model: what was learned.
      rows: held-out rows without outliers.
      sparsity: the mean L0 of the lasso's codes.
      outliers: the outliers that belong to them.
    """
    sae = SAE.of_model(model, name="learned")
    lam = find_weight(sae, rows, sparsity)
    (lasso,), own = measure_curve(sae, rows, [lam])
    row: Row = {"lam": lam, "certificate": lasso.certificate}
    for name, point in {"lasso": lasso, "own": own}.items():
        if point is not None:
            row |= {f"l0_{name}": point.l0, f"fvu_{name}": point.fvu}
            row[f"fvu_{name}_refit"] = point.refit_fvu
    if len(outliers):
        (lasso,), own = measure_curve(sae, np.concatenate([rows, outliers]), [lam])
        row["fvu_lasso_outliers"] = lasso.fvu
        row |= {} if own is None else {"fvu_own_outliers": own.fvu}
    return row


def save(model: Model, folder: Folder) -> None:
    """Stores an SAE as `save_sae` does, and a dictionary as atoms and bias."""
    if model.encode is not None:
        files = files_of(model)
    else:
        arrays = {ATOMS: unit_atoms(model.decoder)[0], BIAS: model.bias}
        files = {name: npy(array) for name, array in arrays.items()}
    for name, content in files.items():
        folder.write(name, content)


def show(line: tqdm, learner: Learner, fitted: Learner, place: int, steps: int) -> None:
    """Moves a line of progress to the steps of its learner; its bases go before."""
    if fitted is learner:
        line.update(steps - line.n)


def latest(rows: Sequence[Row], current: Collection[str]) -> list[Row]:
    """The rows of each cell by the options of this run, or else of its last run."""
    by_cell: dict[Any, str] = {}
    for row in sorted(rows, key=lambda row: (row["learner"] in current, row["date"])):
        by_cell[tuple(row[name] for name in CELL)] = row["learner"]
    return [row for row in rows if row["learner"] == by_cell[tuple(row[name] for name in CELL)]]


def train(options: TrainOptions) -> list[Row]:
    """Trains, stores and scores each method, and writes the summary.

    Returns:
      A line for each cell: means over the seeds that are stored.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    if options.activations is None:
        raise ValueError("--activations is needed: a file or a folder, such as make real writes.")
    results_dir = cli.folder(options.results_dir)
    directory, models_dir = results_dir / NAME, results_dir / "models"
    models = Models(models_dir if options.models_dir is None else cli.folder(options.models_dir))
    source = Recording(
        fetched(options.activations),
        options.width,
        options.sparsity,
        options.seed,
        HELD_OUT,
        options.key,
        keep_outliers=options.outliers == "keep",
    )
    # The rows that `measure_sae` scores too.
    plan = Plan((), source.activations(), samples=options.samples)
    task, rows = source.task(), plan.scored
    if options.sparsity >= min(options.width, task.input_dim):
        limits = f"the {options.width} atoms and the {task.input_dim} dimensions"
        raise ValueError(f"--sparsity must be below {limits}, but it is {options.sparsity}.")
    learners = {name: learner_of(name, options, task.input_dim) for name in options.methods}
    for name, learner in learners.items():
        lacking = learner.needs(task)
        if lacking is not None:
            fault = f"{name} cannot be learned, since the data lack {lacking}"
            raise ValueError(f"--methods: {fault}; leave it out.")
    directory.require_writable()
    logging.info("%d rows to learn from, %d held out", source.num_train, len(task.id.signals))
    store, current = results.Store(directory), []
    for name, learner in learners.items():
        with progress.bar(learner.num_steps, name, unit="step") as line:
            watch = None if line.disable else functools.partial(show, line, learner)
            # The base has been fitted on the way.
            end, *bases = (
                models.fit(part, [source], [task], mesh=devices.mesh(), watch=watch)[0].end
                for part in (learner, learner.base)
                if part is not None
            )
        seconds = end.seconds + sum(base.seconds for base in bases)
        logging.info("%s fitted in %.0f s", name, seconds)
        folder = models.folder(learner, source)
        current.append(results.key({"options": identity.describe(learner)}))
        settings = {
            "form": FORM,
            "study": NAME,
            "method": name,
            "fit": None if folder is None else folder.name,
            "learner": current[-1],
            "num_scored": len(rows),
        } | source.asdict()
        if distributed.is_first():
            save(end.model, directory / name)
        store.once(
            settings,
            functools.partial(_row, settings, end.model, plan, options.sparsity, seconds),
        )
    data = source.asdict()["data"]
    # What an earlier form of this program wrote is not summed up with today's.
    alike = [row for row in store.rows() if row.get("form") == FORM]
    alike = [row for row in alike if (row["data"], row["num_scored"]) == (data, len(rows))]
    # Each row has found its own weight.
    alike = [row | {"lam": None} for row in latest(alike, current)]
    metrics = [name for name in METRICS if any(name in row for row in alike)]
    summary = tables.summarise(alike, by=CELL, metrics=metrics)
    if distributed.is_first():
        tables.write_table(directory, "summary.csv", summary)
    return summary


def _row(settings: Row, model: Model, plan: Plan, sparsity: int, seconds: float) -> list[Row]:
    copies = describe_atoms(model.decoder).duplicates
    scores = score(model, plan.scored, sparsity, plan.left_out)
    return [settings | scores | {"fit_seconds": seconds, "duplicates": copies}]


def main(options: TrainOptions) -> None:
    with cli.usage():
        lines = train(options)
    if distributed.is_first():
        columns = {"method": "method", "num_latents": "latents"}
        columns |= {name: title for name, title in METRICS.items() if f"{name}_mean" in lines[0]}
        print(tables.format_table(lines, columns))


if __name__ == "__main__":
    cli.run(main)
