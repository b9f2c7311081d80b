"""SAEs and dictionaries learned from activations of your own, and what reconstructs held-out rows.

Trains SAEs and `online_dl` on activations that `sae_gap.open_activations` reads, on the part that
`Activations.split` gives for training, as `measure_sae` splits them too, so that what it measures
with is held out here. `--methods` takes any SAE of the suite by its name, the same from the
dictionary of `online_dl` with `_from_online_dl` after its name, three dictionaries, and any learner
that needs nothing but rows. Each is stored in <results_dir>/train_real/ as SAELens does, or as
`load_sae` reads it where SAELens has no form for it; a dictionary as atoms and bias. On held-out
rows it then asks, at one mean L0, for the share of variance unexplained (FVU, squared error over
the variance about the mean of those rows) of

  own          the SAE's own codes, and the least squares on their supports
  lasso        the certified lasso on the same dictionary, at the λ whose codes are as sparse
  refit        the least squares on the lasso's supports

and of whatever encoders --codes names. The summary has means over the seeds that are stored.

Outlier tokens, of more than ten times the median norm, are left out of learning and of these
figures; --outliers=keep learns from them as from rows of the median norm. Either way columns
`with outlier tokens` hold the FVU where held-out ones count.

Fitted models are kept under --models_dir, so that a run that was stopped goes on.

  python -m sae_gap train_real --activations=results/record/SmolLM2-135M-Instruct.Q4_1-bbc/block10
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from absl import logging

from benchmarks import cli
from benchmarks.options import Distributed, Results, option
from benchmarks.real.inputs import npy
from sae_gap import catalogue
from sae_gap.core.types import Model
from sae_gap.data.activations import open_activations
from sae_gap.data.held_out import HeldOut
from sae_gap.dictionaries.structure import with_families
from sae_gap.encoders.encoder import unit_atoms
from sae_gap.figures import tables
from sae_gap.learners.learner import Learner
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.measure.methods import methods_of, study_of
from sae_gap.metrics import atom_statistics
from sae_gap.metrics.metric import Metric
from sae_gap.runtime import devices, distributed
from sae_gap.saes.decoders import ATOMS, BIAS
from sae_gap.saes.save import files_of
from sae_gap.storage import results
from sae_gap.storage.folder import Folder
from sae_gap.storage.results import Row
from sae_gap.study.job import Stored, jobs
from sae_gap.study.models import Models
from sae_gap.study.runner import run
from sae_gap.study.study import Study

NAME = "train_real"
METHODS = (
    *("topk", "topk_from_online_dl", "batchtopk", "jumprelu"),
    *("matryoshka", "relu", "online_dl"),
)
# Dictionaries that are learned otherwise than by their default options, given `online_dl`.
DICTIONARIES: dict[str, Callable[[OnlineDictionary], Learner]] = {
    "online_dl": lambda online: online,
    "online_dl_incoherent": lambda online: dataclasses.replace(online, incoherent=True),
    "online_dl_families": with_families,
}
# What an SAE is called that starts from the dictionary of `online_dl`.
FROM = "_from_online_dl"
SAES = tuple(name + start for start in ("", FROM) for name in catalogue.saes())
EVERY = tuple(dict.fromkeys((*SAES, *DICTIONARIES, *catalogue.learners())))
CODES = ("own", "own_refit", "lasso", "lasso_refit")
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
    codes: tuple[str, ...] = option((), "Further codes, encoders by their names too.")
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


def source_of(options: TrainOptions) -> HeldOut:
    """The rows to learn from, and those that `measure_sae` scores too.

    Raises:
      ValueError: there are none, or none that vary, or the sparsity does not suit them.
    """
    if options.activations is None:
        raise ValueError("--activations is needed: a file or a folder, such as make real writes.")
    activations = open_activations(options.activations, key=options.key)
    learn = options.outliers == "keep"
    if not learn and len(activations.outliers.rows):
        logging.warning("left out: %s", activations.outliers)
    source = HeldOut(
        activations,
        options.width,
        options.sparsity,
        options.samples,
        seed=options.seed,
        split_seed=0,
        together=True,
        learn_outliers=learn,
    )
    if options.sparsity >= min(options.width, source.input_dim):
        limits = f"the {options.width} atoms and the {source.input_dim} dimensions"
        raise ValueError(f"--sparsity must be below {limits}, but it is {options.sparsity}.")
    return source


def learner_of(name: str, options: TrainOptions, input_dim: int) -> Learner:
    """How a method learns from activations of this many dimensions."""
    width, sparsity = options.width, options.sparsity
    online = OnlineDictionary.for_activations(width, sparsity, input_dim, visits=options.visits)
    if name in DICTIONARIES:
        return DICTIONARIES[name](online)
    if name not in SAES:
        return catalogue.make_learner(name, sparsity=sparsity, input_dim=input_dim)
    return catalogue.sae_for_activations(
        name.removesuffix(FROM),
        sparsity=sparsity,
        input_dim=input_dim,
        base=online if name.endswith(FROM) else None,
        num_steps=options.epochs,
        batch_size=options.batch_size,
    )


def study_for(
    options: TrainOptions,
    sources: Sequence[HeldOut],
    names: Collection[str],
    seconds: Mapping[Learner, float],
) -> Study:
    """All codes on the dictionaries of methods of these names. A fit takes the seconds of its base
    too.
    """
    methods = [
        dataclasses.replace(method, row={**method.row, "dictionary": name})
        for name in names
        for method in methods_of(
            learner_of(name, options, sources[0].input_dim),
            dict.fromkeys((*CODES, *options.codes)),
            options.sparsity,
        )
    ]
    total = Metric("total_seconds", lambda found: {"total_seconds": seconds[found.learner]})
    return study_of(NAME, sources, methods, atom_statistics.METRIC, total, spread="rows")


def save(model: Model, folder: Folder) -> None:
    """Stores an SAE as `save_sae` does, and a dictionary as atoms and bias."""
    if model.encode is not None:
        files = files_of(model)
    else:
        arrays = {ATOMS: unit_atoms(model.decoder)[0], BIAS: model.bias}
        files = {name: npy(array) for name, array in arrays.items()}
    for name, content in files.items():
        folder.write(name, content)


def headings(options: TrainOptions) -> dict[str, str]:
    """Those of `METRICS`, of further codes, and of metrics that every study has."""
    further = {
        f"{name}_{codes}": f"{name.upper()} {codes}"
        for codes in options.codes
        for name in ("l0", "fvu")
    }
    return (
        METRICS
        | further
        | {
            f"{name}_{codes}": f"{name} {codes}"
            for metric in catalogue.default_metrics()
            for name in metric.columns
            for codes in (*CODES, *options.codes)
        }
    )


def by_method(rows: Sequence[Row], options: TrainOptions) -> list[Row]:
    """A line for each method and seed, whose columns are named after codes."""
    lines: dict[Any, Row] = {}
    for row in rows:
        name, codes, seed = row["dictionary"], row["codes"], row["seed"]
        cell = name, row.get("num_latents", options.width), options.sparsity
        line = lines.setdefault((name, seed), {"seed": seed, **dict(zip(CELL, cell, strict=True))})
        line |= {f"{column}_{codes}": value for column, value in row.items()}
        line[f"fvu_{codes}_outliers"] = row.get("fvu_outliers")
        line |= {"duplicates": row.get("duplicates"), "fit_seconds": row.get("total_seconds")}
    return [*lines.values()]


def train(options: TrainOptions) -> list[Row]:
    """Trains, stores and scores each method, and writes the summary.

    Returns:
      A line for each method that is stored with these options: means over its seeds.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    source = source_of(options)
    results_dir = cli.folder(options.results_dir)
    directory, models_dir = results_dir / NAME, results_dir / "models"
    models = Models(models_dir if options.models_dir is None else cli.folder(options.models_dir))
    task = source.task()
    seconds: dict[Learner, float] = {}
    wanted = study_for(options, [source], options.methods, seconds)
    learners = {str(method.row["dictionary"]): method.learner for method in wanted.methods(source)}
    for name, learner in learners.items():
        lacking = learner.needs(task)
        if lacking is not None:
            fault = f"{name} cannot be learned, since the data lack {lacking}"
            raise ValueError(f"--methods: {fault}; leave it out.")
    directory.require_writable()
    held = source.parts[1].num_samples
    logging.info("%d rows to learn from, %d held out", source.num_train, held)
    for name, learner in learners.items():
        # The base is fitted on the way, and read again for its seconds.
        end, *bases = (
            models.fit(part, [source], [task], mesh=devices.mesh(), show_progress=True)[0].end
            for part in (learner, learner.base)
            if part is not None
        )
        seconds[learner] = end.seconds + sum(base.seconds for base in bases)
        logging.info("%s fitted in %.0f s", name, seconds[learner])
        if distributed.is_first():
            save(end.model, directory / name)
        # Until it is there, others would fit again what the first one reads.
        distributed.wait(name)
    store = results.Store(directory)
    run(wanted, store, models=models)
    # Neither rows of an earlier form nor those of a learner that is no longer here.
    there = [row for row in store.rows() if row.get("dictionary") in EVERY]
    names = dict.fromkeys((*learners, *(row["dictionary"] for row in there)))
    seeds = sorted({row["seed"] for row in there})
    sources = [dataclasses.replace(source, seed=seed) for seed in seeds]
    every = study_for(options, sources, names, {})
    found = by_method(Stored(every, store).rows(jobs(every)), options)
    metrics = [
        name for name in headings(options) if any(line.get(name) is not None for line in found)
    ]
    summary = tables.summarise(found, by=CELL, methods=list(learners), metrics=metrics)
    if distributed.is_first():
        tables.write_table(directory, "summary.csv", summary)
    return summary


def main(options: TrainOptions) -> None:
    with cli.usage():
        lines = train(options)
    if distributed.is_first():
        columns = {"method": "method", "num_latents": "latents"} | headings(options)
        shown = [name for name in columns if name in lines[0] or f"{name}_mean" in lines[0]]
        print(tables.format_table(lines, {name: columns[name] for name in shown}))


if __name__ == "__main__":
    cli.run(main)
