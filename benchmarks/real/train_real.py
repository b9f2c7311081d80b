"""SAEs and dictionaries learned from activations of your own, and what reconstructs held-out rows.

Trains SAEs and `online_dl` on activations that `sae_gap.open_activations` reads, on the part that
`Activations.split` gives for training, as `measure --held_out=0.1` splits them too, so that what it
scores is held out here. `--methods` takes any SAE of the suite by its name, the same from the
dictionary of `online_dl` with `_from_online_dl` after its name, three dictionaries, and any learner
that needs nothing but rows. Each is stored in <results_dir>/train_real/ as SAELens does, or as
`load_sae` reads it where SAELens has no form for it; a dictionary as atoms and bias. On held-out
rows it then asks, at one mean L0, for the share of variance unexplained (FVU, squared error over
the variance about the mean of those rows) of

  own          the SAE's own codes, and the least squares on their supports
  lasso        the certified lasso on the same dictionary, at the λ whose codes are as sparse
  refit        the least squares on the lasso's supports

and of whatever encoders --codes names. The summary has a line for each method and codes, of means
over the seeds that are stored.

Outlier tokens, of more than ten times the median norm, are left out of learning and of these
figures; --outliers=keep learns from them as from rows of the median norm. Either way the column
`fvu_outliers` holds the FVU where held-out ones count.

Fitted models are kept under --models_dir, so that a run that was stopped goes on.

  python -m sae_gap train_real --activations=results/record/SmolLM2-135M-Instruct.Q4_1-bbc/block10
"""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging

from benchmarks import cli
from benchmarks.options import Distributed, Fitted, Limited, frozen, option
from benchmarks.real.inputs import OnPairs, Outliers
from sae_gap import catalogue
from sae_gap.analysis import tables
from sae_gap.core import Model, Split, Task, Transcoder
from sae_gap.data import HeldOut
from sae_gap.encoders import unit_atoms
from sae_gap.learners import Learner
from sae_gap.lm.recording import bytes_of, origin_of
from sae_gap.measure import (
    DICTIONARIES,
    check_codes,
    learner_at,
    methods_of,
    sae_names,
    study_of,
)
from sae_gap.measure.methods import FROM, TRANSCODERS
from sae_gap.metrics import atom_statistics
from sae_gap.runtime import devices, distributed, progress
from sae_gap.saes import ATOMS, BIAS, files_of
from sae_gap.storage import Folder, Row, Store
from sae_gap.study import Models, Stored, Study, jobs, run

NAME = "train_real"
METHODS = (
    "topk",
    "topk_from_online_dl",
    "batchtopk",
    "jumprelu",
    "matryoshka",
    "relu",
    "online_dl",
)
SAES = sae_names()


def learners_of_rows() -> list[str]:
    """The learners that learn a dictionary from rows alone, by name."""
    split = Split(np.zeros((1, 2)))  # type: ignore[arg-type]
    rows = Task(split, split, split, width=1)
    names = []
    for name in dict.fromkeys((*DICTIONARIES, *catalogue.learners())):
        try:
            learner = learner_at(name, 1, 1, 2)
        except ValueError:
            # It goes on from another, or has arguments that no name gives.
            continue
        if learner.needs(rows) is None:
            names.append(name)
    return names


LEARNERS = learners_of_rows()
EVERY = (*SAES, *LEARNERS)
METHODS_HELP = (
    f"What to train: an SAE, {', '.join(catalogue.saes())}; or a dictionary, "
    f"{', '.join(LEARNERS)}. An SAE's name may end in {', '.join(TRANSCODERS)}, which explains "
    f"--targets by the activations, without or with a skip, and then in {FROM}, which starts from "
    "that dictionary."
)
CODES = ("own", "own_refit", "lasso", "lasso_refit")
# The columns that tell the lines of the summary apart, and the others, with headings.
CELL = {"method": "method", "codes": "codes", "num_latents": "latents", "sparsity": "k"}
COLUMNS = {
    "l0": "L0",
    "fvu": "FVU",
    # For held-out rows that are outliers.
    "fvu_outliers": "FVU with outlier tokens",
    "duplicates": "copied atoms",
    "fit_seconds": "fit s",
}


@frozen
class TrainOptions(Fitted, OnPairs, Outliers, Distributed, Limited):
    """What to train, and how much."""

    methods: tuple[str, ...] = option(METHODS, METHODS_HELP)
    codes: tuple[str, ...] = option((), "Further codes, encoders by their names too.")
    width: int = option(3072, "Atoms to learn, the width of each dictionary.", least=1)
    sparsity: int = option(32, "Mean L0 to train and to compare at.", least=1)
    epochs: int = option(8, "Passes of an SAE over the training rows.", least=1)
    steps: tuple[int, ...] = option(
        (),
        "Budgets of steps in the place of --epochs, each for SAEs of their own, which learn from "
        "as many rows as they take. Whole passes come close to more steps than there are rows.",
        least=1,
    )
    batch_size: int = option(256, "Rows to a step of an SAE.", least=1)
    visits: float = option(150.0, "Rows that online_dl sees for each latent.", least=1)
    rows: int | None = option(
        None, "Rows to learn from, at most, evenly spaced.  [all]", least=2
    )
    samples: int = option(5_000, "Held-out rows to score, at most.", least=2)
    seed: int = option(0, "Seed of what is learned.", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.methods:
            if name not in EVERY:
                raise ValueError(
                    f"--methods: {name!r} is not learned from rows alone; --help lists what is."
                )


def source_of(options: TrainOptions) -> HeldOut:
    """The rows to learn from, and those that `measure --held_out=0.1` also scores.

    Raises:
      ValueError: there are none, or none that vary, or the sparsity does not suit them.
    """
    activations, inputs = options.read_pairs()
    if not options.keep_outliers and len(activations.outliers.rows):
        logging.warning("left out: %s", activations.outliers)
    source = HeldOut(
        activations,
        inputs=inputs,
        learn_from=options.rows,
        width=options.width,
        sparsity=options.sparsity,
        samples=options.samples,
        seed=options.seed,
        split_seed=0,
        together=True,
        learn_outliers=options.keep_outliers,
    )
    if options.sparsity >= min(options.width, source.input_dim):
        limits = f"the {options.width} atoms and the {source.input_dim} dimensions"
        raise ValueError(
            f"--sparsity must be below {limits}, but it is {options.sparsity}."
        )
    return source


def budgets(options: TrainOptions) -> Iterator[tuple[str, TrainOptions]]:
    """The options of each training that `--steps` asks for, and what is added to the names of its
    SAEs: their place in the network if it is known, atoms, steps taken, and seed.

    Raises:
      ValueError: a method learns by other steps.
    """
    if not options.steps:
        yield "", options
        return
    for name in options.methods:
        if name not in SAES:
            raise ValueError(f"--steps is of SAEs; leave {name} out of --methods.")
    whole = source_of(options).num_train
    size = options.batch_size
    for steps in options.steps:
        rows = min(steps * size, whole)
        epochs = max(1, round(steps * size / whole))
        taken = epochs * -(-rows // size)
        yield (
            f"-{options.width}-{taken}-{options.seed}",
            dataclasses.replace(options, steps=(), rows=rows, epochs=epochs),
        )


def learner_of(name: str, options: TrainOptions, input_dim: int) -> Learner:
    """The learner of a method for activations of `input_dim` dimensions."""
    return learner_at(
        name,
        options.width,
        options.sparsity,
        input_dim,
        options.visits,
        num_steps=options.epochs,
        batch_size=options.batch_size,
    )


def study_for(
    options: TrainOptions,
    sources: Sequence[HeldOut],
    names: Collection[str],
) -> Study:
    """All codes on the dictionaries of the named methods."""
    check_codes(options.codes, names)
    methods = [
        method
        for name in names
        for method in methods_of(
            learner_of(name, options, sources[0].input_dim),
            dict.fromkeys((*CODES, *options.codes)),
            options.sparsity,
            row={"dictionary": name},
        )
    ]
    return study_of(NAME, sources, methods, atom_statistics.METRIC, spread="rows")


def save(
    model: Model, folder: Folder, metadata: Mapping[str, Any], read: str | None
) -> None:
    """Stores an SAE as `save_sae` does, and a dictionary as atoms and bias; `read` names the hook
    point of a transcoder's inputs.
    """
    if isinstance(model, Transcoder) and read:
        metadata = {
            **metadata,
            "hook_name": read,
            "hook_name_out": metadata.get("hook_name"),
        }
    if model.encode is not None:
        files = files_of(model, metadata=metadata)
    else:
        arrays = {ATOMS: unit_atoms(model.decoder)[0], BIAS: model.bias}
        files = {name: bytes_of(np.save, array) for name, array in arrays.items()}
    for name, content in files.items():
        folder.write(name, content)


def summarise(
    rows: Sequence[Row], options: TrainOptions, names: Sequence[str]
) -> list[Row]:
    """Means over seeds, a line for each method and codes, the named methods first."""
    kept = ("codes", "seed", *COLUMNS, *catalogue.default_columns())
    lines = []
    for row in rows:
        about = {
            "method": row["dictionary"],
            "sparsity": options.sparsity,
            "num_latents": row.get("num_latents", options.width),
        }
        lines.append({name: row[name] for name in kept if name in row} | about)
    return tables.summarise(lines, by=[*CELL], methods=names)


def train(options: TrainOptions) -> list[Row]:
    """Trains, stores and scores each method, with each budget of steps, and writes the summary.

    Returns:
      A line for each stored method with these options, and for each codes: means over its seeds.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    lines = []
    for ending, each in budgets(options):
        for line in _train(each, ending):
            lines.append(
                {"steps": int(ending.split("-")[2])} | line if ending else line
            )
    if distributed.is_first():
        tables.write_table(options.folder(NAME), "summary.csv", lines)
    return lines


def _train(options: TrainOptions, ending: str) -> list[Row]:
    source = source_of(options)
    directory = options.folder(NAME)
    models = Models(options.models_folder)
    task = source.task()
    learners = {
        name: learner_of(name, options, source.input_dim) for name in options.methods
    }
    for name, learner in learners.items():
        lacking = learner.needs(task)
        if lacking is not None:
            raise ValueError(
                f"--methods: {name} cannot be learned, since the data lack {lacking}; leave it out."
            )
    logging.info("%d rows to learn from", source.num_train)
    origin = origin_of(options.targets or options.activations or "")
    read = origin_of(options.activations or "").get("hook_name")
    store = Store(directory)
    try:
        run(study_for(options, [source], options.methods), store, models=models)
    except progress.UnfinishedError as left:
        logging.warning("%s", left.text)
    for name, learner in learners.items():
        if models.missing(learner, source):
            continue
        (fit,) = models.fit(learner, [source], [task], mesh=devices.mesh())
        if distributed.is_first():
            place = (
                f"{origin['hook_name']}-" if ending and "hook_name" in origin else ""
            )
            save(fit.end.model, directory / f"{place}{name}{ending}", origin, read)
        # Wait until the first process has it: the others would otherwise fit it again.
        distributed.wait(name)
    # Skip rows of an earlier form and of learners that no longer exist.
    there = [row for row in store.rows() if row.get("dictionary") in EVERY]
    names = dict.fromkeys((*learners, *(row["dictionary"] for row in there)))
    sources = [
        dataclasses.replace(source, seed=seed)
        for seed in sorted({row["seed"] for row in there})
    ]
    every = study_for(options, sources, names)
    return summarise(Stored(every, store).rows(jobs(every)), options, [*learners])


def main(options: TrainOptions) -> None:
    lines = train(options)
    if lines and distributed.is_first():
        found = [
            name.removesuffix("_mean") for name in lines[0] if name.endswith("_mean")
        ]
        steps = {"steps": "steps"} if options.steps else {}
        print(
            tables.format_table(
                lines, steps | CELL | {name: COLUMNS.get(name, name) for name in found}
            )
        )


if __name__ == "__main__":
    cli.run(main)
