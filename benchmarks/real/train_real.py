"""SAEs and dictionaries learned from activations of your own, and what their held-out rows are reconstructed with.

Trains the suite's SAEs and `online_dl`, and `online_dl_incoherent` and `online_dl_families` where asked, on activations that
`sae_gap.open_activations` reads, on the part that `Activations.split` gives for training, as `measure_sae` splits
them too, so that what it measures with is held out here. Each is stored in <results_dir>/train_real/. On held-out rows it
then asks, at one mean L0, for the share of variance unexplained (FVU, squared error over the variance about the mean of those
rows) of

  own          the SAE's own codes, and the least squares on their supports
  lasso        the certified lasso on the same dictionary, at the λ whose codes are as sparse as was asked
  refit        the least squares on the lasso's supports

Fitted models are kept under --models_dir, so that a run that was stopped goes on.

  python -m sae_gap train_real --activations=results/real_activations/minilm_layer3.npz
"""

import dataclasses
import io
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from absl import flags, logging
from jaxtyping import Array, Float

from benchmarks import cli
from sae_gap.core import identity
from sae_gap.core.types import Model, Task
from sae_gap.data.activations import Activations, fetched
from sae_gap.data.recording import Recording
from sae_gap.encoders.encoder import unit_atoms
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.on_support import least_squares
from sae_gap.figures import tables
from sae_gap.learners import by_name
from sae_gap.learners.learner import Learner
from sae_gap.learners.online.families import Families
from sae_gap.learners.online.online_dictionary import RATES, WEAK, OnlineDictionary
from sae_gap.measure import check_varies, describe_atoms, fvu
from sae_gap.runtime import devices, distributed
from sae_gap.saes.own import save_sae
from sae_gap.solvers import match_l0
from sae_gap.storage import results
from sae_gap.storage.folder import Folder
from sae_gap.study.fitting import Fitted
from sae_gap.study.models import Models

NAME = "train_real"
# As much as `Activations.split` holds out unless told otherwise.
HELD_OUT = 0.1
# Of online_dl on activations, which leave more residual than the paper's world and use their atoms less evenly: larger, hence
# colder, minibatches in fewer rounds, a threshold that leaves about as many codes as are compared, slots for twice as many, and
# rates and renewal as for a pool: rows are read more than once.
ROUNDS, BATCH_PER_LATENT, MARGIN = 100, 1.43, 4.0
# Share of atoms that may be copies of others before that is said.
MANY = 0.01
# Rows whose variance is summed at once.
CHUNK = 4_096
METHODS = ("topk", "batchtopk", "jumprelu", "relu", "online_dl")
# Only where they are asked for: what families go on from, and families, which take several times as long as the others.
INCOHERENT, FAMILIES = "online_dl_incoherent", "online_dl_families"
EVERY = (*METHODS, INCOHERENT, FAMILIES)
# What tells the lines of the summary apart.
CELL = ("method", "num_latents", "sparsity")

FLAGS = flags.FlagValues()
_ACTIVATIONS = flags.DEFINE_string("activations", None, "File or folder of activations.", flag_values=FLAGS)
_KEY = flags.DEFINE_string("key", None, "Name of the array, where there are several.", flag_values=FLAGS)
_NUM_LATENTS = flags.DEFINE_integer("num_latents", 3072, "Width of the dictionaries.", lower_bound=1, flag_values=FLAGS)
_SPARSITY = flags.DEFINE_integer("sparsity", 32, "Mean L0 to train and to compare at.", lower_bound=1, flag_values=FLAGS)
_METHODS = flags.DEFINE_list("methods", list(METHODS), "What to train, of " + ", ".join(EVERY) + ".", flag_values=FLAGS)
_EPOCHS = flags.DEFINE_integer("epochs", 8, "Epochs of an SAE.", lower_bound=1, flag_values=FLAGS)
_BATCH = flags.DEFINE_integer("batch_size", 256, "Rows to a step of an SAE.", lower_bound=1, flag_values=FLAGS)
_PENALTY = flags.DEFINE_float(
    "penalty_scale",
    1.0,
    "Factor on the penalties of relu and jumprelu, lower for a larger mean L0: the longer they train, the sparser they become.",
    lower_bound=0,
    flag_values=FLAGS,
)
_VISITS = flags.DEFINE_float(
    "visits",
    150.0,
    "Rows that online_dl sees for each latent; its families code more after it.",
    lower_bound=1,
    flag_values=FLAGS,
)
_SCORED = flags.DEFINE_integer("max_scored", 1000, "Held-out rows to score, evenly spaced.", lower_bound=2, flag_values=FLAGS)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the learners.", flag_values=FLAGS)
_RESULTS_DIR = flags.DEFINE_string(
    "results_dir", "results", "Where the folder of this benchmark goes; gs:// and s3:// are buckets.", flag_values=FLAGS
)
_MODELS_DIR = flags.DEFINE_string(
    "models_dir", None, "Where fitted models are kept; by default models, beside this benchmark's folder.", flag_values=FLAGS
)
cli.define_distributed(FLAGS)


class Read(NamedTuple):
    """What a process is to work on: where results go, all activations with those held out, and the learners by their names."""

    directory: Folder
    models_dir: Folder
    source: Recording
    task: Task
    held: Activations
    learners: dict[str, Learner]


def learner_of(
    name: str,
    *,
    num_latents: int,
    sparsity: int,
    input_dim: int,
    variance: float,
    epochs: int,
    batch_size: int,
    visits: float,
    penalty_scale: float = 1.0,
) -> Learner:
    """How a method learns from activations of this many dimensions and this total variance about their mean.

    The tuned penalties and thresholds of the SAEs hold where codes are as large as the paper's, uniform on (0, 1). So many such
    codes of unit atoms make a variance of sparsity / 3; thresholds and l1 penalties grow with the root of what is more, and
    penalties on the number of codes with all of it; `penalty_scale` is a factor on either.
    """
    if name in ("online_dl", INCOHERENT, FAMILIES):
        slots = 4 * -(-sparsity // 2)
        online = OnlineDictionary(
            num_steps=ROUNDS,
            visits=visits,
            batch_size=round(BATCH_PER_LATENT * num_latents),
            rates=RATES,
            margin=MARGIN,
            weak=WEAK,
            num_slots=slots,
            centred=True,
            incoherent=name != "online_dl",
        )
        return Families(margin=MARGIN, num_slots=slots, base=online) if name == FAMILIES else online
    scale = (3 * variance / sparsity) ** 0.5
    learner = by_name.tuned_sae(name, sparsity=sparsity, input_dim=input_dim, num_steps=epochs, batch_size=batch_size)
    encoder, penalty = learner.encoder, penalty_scale * learner.penalty * scale
    if isinstance(encoder, JumpReLU):
        encoder = dataclasses.replace(encoder, threshold=encoder.threshold * scale, bandwidth=encoder.bandwidth * scale)
        penalty *= scale
    return dataclasses.replace(learner, encoder=encoder, penalty=penalty)


def score(model: Model, rows: Float[np.ndarray, "n input_dim"], sparsity: int) -> dict[str, float]:
    """The FVU of a model's own codes, if it has an encoder, and of the lasso's, before and after least squares."""
    signals = devices.place(jnp.asarray(rows), devices.own_mesh())
    found: dict[str, float] = {}

    def unexplained(model: Model, codes: Float[Array, "n num_latents"]) -> float:
        return fvu(rows, codes @ model.decoder.T + model.bias)

    def refitted(model: Model, codes: Float[Array, "n num_latents"]) -> float:
        return unexplained(model, least_squares(signals - model.bias, model.decoder, codes != 0))

    if model.encode is not None:
        codes = model.encode(model, signals)
        found |= {"l0_own": float(jnp.mean(jnp.sum(codes != 0, axis=1))), "fvu_own": unexplained(model, codes)}
        found["fvu_own_refit"] = refitted(model, codes)
    unit = dataclasses.replace(model, dictionary=unit_atoms(model.decoder)[0])
    lam, solution = match_l0(signals - unit.bias, unit.decoder, sparsity)
    relative = solution.gap / jnp.maximum(solution.objective, jnp.finfo(solution.gap.dtype).tiny)
    found |= {"lam": float(lam), "l0_lasso": float(jnp.mean(jnp.sum(solution.codes != 0, axis=1)))}
    found |= {"fvu_lasso": unexplained(unit, solution.codes), "certificate": float(jnp.max(relative))}
    return found | {"fvu_lasso_refit": refitted(unit, solution.codes)}


def save(model: Model, folder: Folder) -> None:
    """Stores an SAE as SAELens does, and a dictionary alone as arrays of unit atoms and of the bias."""
    if model.encode is not None:
        with tempfile.TemporaryDirectory() as scratch:
            save_sae(model, pathlib.Path(scratch) / "sae")
            files = {path.name: path.read_bytes() for path in (pathlib.Path(scratch) / "sae").iterdir()}
    else:
        files = {"dictionary.npy": _npy(unit_atoms(model.decoder)[0]), "bias.npy": _npy(model.bias)}
    for name, content in files.items():
        folder.write(name, content)


def _npy(array: Array) -> bytes:
    content = io.BytesIO()
    np.save(content, np.asarray(array))
    return content.getvalue()


def variance_of(activations: Activations) -> float:
    """The total variance about the mean, in float64, of rows that are read in chunks."""
    total, squares = np.zeros(activations.input_dim), 0.0
    mean = activations.mean().astype(np.float64)
    for chunk in activations.chunks(CHUNK):
        away = chunk - mean
        total += away.sum(axis=0)
        squares += float(np.sum(away**2))
    return squares / activations.num_samples - float(np.sum((total / activations.num_samples) ** 2))


def read() -> Read:
    """Checks the flags and reads the rows of this process's devices.

    Raises:
      cli.UsageError: a flag has a value that cannot be, or the activations cannot be read.
    """
    if _ACTIVATIONS.value is None:
        raise cli.UsageError("--activations is needed: a file or a folder, such as make real writes.")
    unknown = [name for name in _METHODS.value if name not in EVERY]
    if unknown or not _METHODS.value:
        raise cli.UsageError(f"--methods must list some of {', '.join(EVERY)}, but {', '.join(unknown) or 'none'} is there.")
    if _SPARSITY.value >= _NUM_LATENTS.value:
        raise cli.UsageError(f"--sparsity must be below the {_NUM_LATENTS.value} latents, but it is {_SPARSITY.value}.")
    results_dir = cli.folder("results_dir", _RESULTS_DIR.value)
    directory = results_dir / NAME
    models_dir = results_dir / "models" if _MODELS_DIR.value is None else cli.folder("models_dir", _MODELS_DIR.value)
    try:
        path = fetched(_ACTIVATIONS.value)
        source = Recording(path, _NUM_LATENTS.value, _SPARSITY.value, _SEED.value, HELD_OUT, _KEY.value)
        train, held = source.activations().split(HELD_OUT)
        task = source.task()
        check_varies(held.take(scored(held)))
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    variance = variance_of(train)
    learners = {
        name: learner_of(
            name,
            num_latents=_NUM_LATENTS.value,
            sparsity=_SPARSITY.value,
            input_dim=task.input_dim,
            variance=variance,
            epochs=_EPOCHS.value,
            batch_size=_BATCH.value,
            visits=_VISITS.value,
            penalty_scale=_PENALTY.value,
        )
        for name in _METHODS.value
    }
    for name, learner in learners.items():
        lacking = learner.needs(task)
        if lacking is not None:
            raise cli.UsageError(f"--methods: {name} cannot be learned, since the data lack {lacking}; leave it out.")
    logging.info("%d rows to learn from, %d held out", train.num_samples, held.num_samples)
    return Read(directory, models_dir, source, task, held, learners)


def main() -> None:
    directory, models_dir, source, task, held, learners = read()
    try:
        directory.require_writable()
        store = results.Store(directory)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    models = Models(models_dir)
    for name, learner in learners.items():
        began = time.process_time()
        fitted = models.fit(learner, [source], [task], mesh=devices.mesh())[0]
        logging.info("%s: %.0f s of the processor; fitted in %.0f s", name, time.process_time() - began, fitted.end.seconds)
        fit = models.folder(learner, source)
        same = results.key({"options": identity.describe(learner)})
        row = {"study": NAME, "method": name, "fit": None if fit is None else fit.name, "learner": same} | source.asdict()
        # The lasso's weight is sought on all rows that are scored, which are few: the first process does it.
        if distributed.is_first():
            keep(store, directory / name, fitted.end, row, held)
    if distributed.is_first():
        tell(store, directory, source, held)


def scored(held: Activations) -> np.ndarray:
    """The numbers of the held-out rows that are scored.

    They reach the last row, which `measure.spread` does not: rows that are kept, and the figures of RESULTS.md, are of these.
    """
    return np.linspace(0, held.num_samples - 1, min(held.num_samples, _SCORED.value)).astype(int)


def keep(store: results.Store, folder: Folder, end: Fitted, row: results.Row, held: Activations) -> None:
    """Stores a model, and its row of scores unless that is there."""
    save(end.model, folder)
    numbers = scored(held)
    key, present = results.key(row | {"scored": len(numbers)}), store.keys()
    if key in present:
        return
    scores = score(end.model, held.take(numbers), _SPARSITY.value)
    copies = describe_atoms(end.model.decoder).duplicates
    row |= scores | {"fit_seconds": end.seconds, "num_scored": len(numbers), "duplicates": copies}
    if copies > MANY * _NUM_LATENTS.value:
        logging.warning(
            "%s has %d atoms that are copies of others; its dictionary is narrower than it looks.", row["method"], copies
        )
    if not 0.5 < scores.get("l0_own", _SPARSITY.value) / _SPARSITY.value < 2:
        logging.warning(
            "%s has a mean L0 of %.1f where %d was asked for; train it again with another --penalty_scale.",
            row["method"],
            scores["l0_own"],
            _SPARSITY.value,
        )
    store.append([row | results.provenance() | {"device": devices.describe(), "key": key, "job": key}])


def tell(store: results.Store, directory: Folder, source: Recording, held: Activations) -> None:
    """Writes the summary of the rows of these activations, and prints it."""
    data, count = source.asdict()["data"], len(scored(held))
    found = _newest([row for row in store.rows() if row["data"] == data and row["num_scored"] == count])
    metrics = ("l0_own", "fvu_own", "fvu_own_refit", "l0_lasso", "fvu_lasso", "fvu_lasso_refit", "fit_seconds")
    summary = tables.summarise(found, by=CELL, metrics=metrics)
    tables.write_table(directory, "summary.csv", summary)
    labels = ("L0 own", "FVU own", "refit", "L0 lasso", "FVU lasso", "lasso refit", "fit s")
    columns = {"method": "method", "num_latents": "latents"} | dict(zip(metrics, labels, strict=True))
    sys.stdout.write(tables.format_table(summary, columns) + "\n")


def _newest(rows: Sequence[results.Row]) -> list[results.Row]:
    """The rows of each cell by the options and the code of its last run, one a seed; each has found its own weight."""
    last = {tuple(row[name] for name in CELL): row.get("learner") for row in rows}
    found = {}
    for row in rows:
        cell = tuple(row[name] for name in CELL)
        if row.get("learner") == last[cell]:
            found[(*cell, row["seed"])] = {name: value for name, value in row.items() if name != "lam"}
    return list(found.values())


if __name__ == "__main__":
    cli.run(main, FLAGS)
