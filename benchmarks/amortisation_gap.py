"""The headline benchmark: is it the encoder or the dictionary?

Trains every method on the paper's setting, or on a file of activations, and measures how much of each SAE's distance to the
oracle its dictionary holds and how much its encoder, with a certificate for every optimum it compares with. Writes rows,
summary.csv and figures under <results_dir>/amortisation_gap/ and prints the table.

  python -m benchmarks.amortisation_gap --preset=quick
  python -m benchmarks.amortisation_gap --data=activations.npz --num_latents=512 --sparsity=16
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging

from benchmarks import cli, published
from sae_gap import results, tables
from sae_gap.encoders.base import AmortisedEncoder
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.linear import Linear
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.learners.dl_fista import DLFista
from sae_gap.learners.online import OnlineDictionary
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.probe import LinearProbe
from sae_gap.learners.sae import SparseAutoencoder
from sae_gap.metrics.gap import decompose
from sae_gap.study import PROTOCOLS, Method, Recording, Study, run
from sae_gap.types import Setting

NAME = "amortisation_gap"
# The SAEs by name, each an encoder given the sparsity: one more line here is one more SAE in the study.
SAES: dict[str, Callable[[int], AmortisedEncoder]] = {
    "relu": lambda sparsity: ReLU(),
    "topk": TopK,
    "jumprelu": lambda sparsity: JumpReLU(),
    "mp": MatchingPursuit,
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes of a run: the settings, and the lengths of training."""

    num_latents: tuple[int, ...] = (100,)
    sparsity: tuple[int, ...] = (10,)
    num_samples: tuple[int, ...] = (5_000,)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 500
    rounds: int = 1_000
    visits: int = 400


PRESETS = {
    "smoke": Preset(num_latents=(20,), sparsity=(3,), num_samples=(200,), seeds=(0, 1), epochs=5, rounds=5, visits=4),
    "quick": Preset(),
    "paper": Preset(num_latents=(50, 100, 500, 1_000, 5_000, 10_000)),
}

FLAGS = flags.FlagValues()
_NUM_LATENTS = flags.DEFINE_list(
    "num_latents", None, "Numbers of latents; also the width of every dictionary.  [100]", flag_values=FLAGS
)
_SPARSITY = flags.DEFINE_list("sparsity", None, "Numbers of active latents a sample.  [10]", flag_values=FLAGS)
_NUM_SAMPLES = flags.DEFINE_list(
    "num_samples", None, "Numbers of ID samples, half of them for training.  [5000]", flag_values=FLAGS
)
_INPUT_DIM = flags.DEFINE_integer(
    "input_dim", None, "Dimension of the signals; by default the compressed-sensing bound.", flag_values=FLAGS
)
_SEEDS = flags.DEFINE_list("seeds", None, "Seeds.  [0,1,2]", flag_values=FLAGS)
_METHODS = flags.DEFINE_list("methods", ["all"], "Methods to run, by name as in the table, or all.", flag_values=FLAGS)
_LAM = flags.DEFINE_float("lam", 0.1, "Weight of the l1 norm.", flag_values=FLAGS)
_PROTOCOL = flags.DEFINE_string(
    "protocol", "strict", "strict: learners see train only, FISTA is certified; paper: as published.", flag_values=FLAGS
)
_PRESET = flags.DEFINE_string(
    "preset", "quick", f"Sizes of a run, one of {', '.join(PRESETS)}; other flags take precedence.", flag_values=FLAGS
)
_DATA = flags.DEFINE_string(
    "data", None, "An .npz file of activations (Y_train, Y_val, Y_ood, optionally Z_* and A).", flag_values=FLAGS
)
_RESULTS_DIR = flags.DEFINE_string("results_dir", "results", "Where the folder of this study goes.", flag_values=FLAGS)
_SHARD = flags.DEFINE_string("shard", "0/1", "i/N: run the i-th of N parts of the study, counted from 0.", flag_values=FLAGS)


def methods(
    sparsity: int,
    *,
    lam: float = 0.1,
    protocol: str = "strict",
    epochs: int = 500,
    rounds: int = 1_000,
    visits: int = 400,
) -> list[Method]:
    """The methods of the study, each a learner crossed with an encoder.

    Args:
      sparsity: k of TopK and matching pursuit.
      lam: weight of the l1 norm.
      protocol: "strict" infers certified codes on unit atoms and fits on train; "paper" runs 100 FISTA iterations on the
        atoms as they are and fits DL-FISTA on the split it is scored on.
      epochs: of SAE training.
      rounds: of DL-FISTA, at most.
      visits: of `OnlineDictionary`.
    """
    published = protocol == "paper"

    def lasso(start=None):
        return Lasso(lam, start, tol=None, max_iterations=100, unit_atoms=False) if published else Lasso(lam, start)

    encoders = {name: make(sparsity) for name, make in SAES.items()}
    learners = {name: SparseAutoencoder(encoder=encoder, num_steps=epochs) for name, encoder in encoders.items()}
    dl_fista = DLFista(lam=lam, num_steps=rounds, split="id" if published else "train")
    return [
        Method("linear_probe", "probe", LinearProbe(), Linear()),
        *(Method(f"sae_{name}", "sae", learners[name], encoders[name]) for name in SAES),
        *(Method(f"frozen_{name}", "frozen", learners[name], lasso()) for name in SAES),
        *(Method(f"refined_{name}", "refined", learners[name], lasso(encoders[name])) for name in SAES),
        Method("dl_fista", "dictionary_learning", dl_fista, lasso()),
        Method("online_dl", "dictionary_learning", OnlineDictionary(visits=visits), lasso()),
        Method("fista_oracle", "oracle", Oracle(), lasso()),
    ]


METHODS = tuple(method.name for method in methods(sparsity=1))


def study(
    sources: Sequence[Setting | Recording],
    *,
    names: Sequence[str] = METHODS,
    lam: float = 0.1,
    protocol: str = "strict",
    preset: Preset = PRESETS["quick"],
) -> Study:
    """The study over any sources, with the methods of the given names."""

    def chosen(source):
        lengths = {name: getattr(preset, name) for name in ("epochs", "rounds", "visits")}
        every = methods(source.sparsity, lam=lam, protocol=protocol, **lengths)
        return [method for method in every if method.name in names]

    return Study(NAME, tuple(sources), chosen, lam=lam, protocol=protocol)


TABLES = {
    "Recovery": {
        "method": "method",
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
    },
    "Inference on ID": {
        "method": "method",
        "l0_id": "L0",
        "mse_id": "MSE",
        "objective_id": "objective",
        "gap_id": "gap",
        "relative_gap_id": "relative gap",
        "certificate_id": "certificate",
        "fit_seconds": "fit s",
        "encode_seconds": "encode s",
    },
}


def decompositions(rows: Sequence[results.Row], metric: str = "mcc_ood") -> list[results.Row]:
    """The distance of each SAE to the oracle on each seed, split into the dictionary's part and the encoder's."""
    scores = {(row["num_latents"], row["sparsity"], row["num_samples"], row["seed"], row["method"]): row for row in rows}
    found = []
    for (*cell, method), row in scores.items():
        name = method.removeprefix("sae_")
        beside = (scores.get((*cell, other), {}) for other in ("fista_oracle", f"frozen_{name}"))
        oracle, frozen, encoder = (scored.get(metric) for scored in (*beside, row))
        if method == name or oracle is None or frozen is None or encoder is None:
            continue
        parts = decompose(oracle, frozen, encoder)
        found.append(
            {column: row[column] for column in (*tables.BY, "seed")}
            | {"encoder": encoder, "frozen": frozen, "oracle": oracle}
            | {"dictionary_part": parts.dictionary, "amortisation_part": parts.amortisation}
        )
    return found


def report(rows: Sequence[results.Row], folder: pathlib.Path, *, comparable: bool) -> str:
    """Writes summary.csv and the figures, removes those of an earlier run, and returns the table to print.

    Args:
      rows: the rows of the study.
      folder: where to write.
      comparable: whether the rows may be held against the published numbers.
    """
    from sae_gap import figures  # Importing matplotlib takes as long as everything else in --help.

    summary = tables.summarise(rows, methods=METHODS)
    tables.write_summary(folder / "summary.csv", summary)
    for stale in (*folder.glob("*.png"), *folder.glob("*.pdf"), folder / "published.csv"):
        stale.unlink(missing_ok=True)
    cells = sorted({tuple(row[name] for name in ("num_latents", "sparsity", "num_samples")) for row in rows})
    for cell in cells:
        of_cell = [row for row in rows if tuple(row[name] for name in ("num_latents", "sparsity", "num_samples")) == cell]
        suffix = "" if len(cells) == 1 else "_" + "_".join(str(size) for size in cell)
        drawn = {
            "decomposition": figures.decomposition(of_cell),
            "matched_cosines": figures.matched_cosines(of_cell),
            "recovery": figures.recovery(of_cell),
        }
        for name, figure in drawn.items():
            if figure is not None:
                figures.save(figure, folder / f"{name}{suffix}")
    printed = [f"{title}\n{tables.format_table(summary, columns)}" for title, columns in TABLES.items()]
    parts = tables.summarise(decompositions(rows), methods=METHODS)
    if parts:
        columns = ("method", "encoder", "frozen", "oracle", "amortisation_part", "dictionary_part")
        title = "Decomposition of MCC OOD: oracle - encoder = amortisation part + dictionary part"
        printed.append(f"{title}\n{tables.format_table(parts, columns)}")
    if comparable:
        comparison = published.compare(summary)
        if comparison:
            tables.write_table(folder / "published.csv", comparison)
            printed.append(published.describe(comparison))
    return "\n\n".join(printed)


def main() -> None:
    preset, sources, names, shard = _read_flags()
    try:
        store = results.Store(pathlib.Path(_RESULTS_DIR.value) / NAME, shard)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    _describe_recording(sources[0])
    chosen = study(sources, names=names, lam=_LAM.value, protocol=_PROTOCOL.value, preset=preset)
    rows = run(chosen, store, shard)
    logging.info("%d rows in %s", len(rows), store.directory)
    if not rows and shard == (0, 1):
        raise cli.UsageError(
            f"none of {', '.join(names)} can run on these data; choose other methods or add the truth that they need."
        )
    if rows:
        sys.stdout.write(report(rows, store.directory, comparable=_is_comparable(preset)) + "\n")


def _is_comparable(preset: Preset) -> bool:
    """Whether a run is one that the paper published: its protocol, weight, seeds and lengths of training, on its own model."""
    quick = PRESETS["quick"]
    as_published = (preset.seeds, preset.epochs, preset.rounds) == (quick.seeds, quick.epochs, quick.rounds)
    return (
        _PROTOCOL.value == "paper" and _LAM.value == 0.1 and _DATA.value is None and _INPUT_DIM.value is None and as_published
    )


def _read_flags() -> tuple[Preset, Sequence[Setting | Recording], list[str], tuple[int, int]]:
    if _PRESET.value not in PRESETS:
        raise cli.UsageError(f"--preset {_PRESET.value!r} is unknown; choose one of {', '.join(PRESETS)}.")
    if _PROTOCOL.value not in PROTOCOLS:
        raise cli.UsageError(f"--protocol {_PROTOCOL.value!r} is unknown; choose one of {', '.join(PROTOCOLS)}.")
    names = list(METHODS) if _METHODS.value == ["all"] else _METHODS.value
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise cli.UsageError(f"--methods has {', '.join(map(repr, unknown)) or 'no name'}; choose from {', '.join(METHODS)}.")
    if not 0 <= _LAM.value < 1e30:
        raise cli.UsageError(f"--lam must be a number of at least 0 and below 1e30, but it is {_LAM.value}.")
    preset = PRESETS[_PRESET.value]
    for flag in (_NUM_LATENTS, _SPARSITY, _NUM_SAMPLES, _SEEDS):
        if flag.value is not None:
            chosen: dict[str, Any] = {flag.name: cli.parse_integers(flag.name, flag.value)}
            preset = dataclasses.replace(preset, **chosen)
    try:
        sources: Sequence[Setting | Recording]
        sources = _settings(preset) if _DATA.value is None else _recordings(preset, pathlib.Path(_DATA.value))
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    return preset, sources, names, cli.parse_shard(_SHARD.value)


def _settings(preset: Preset) -> list[Setting]:
    return [
        Setting(num_latents, sparsity, num_samples, seed, input_dim=_INPUT_DIM.value)
        for num_latents in preset.num_latents
        for sparsity in preset.sparsity
        for num_samples in preset.num_samples
        for seed in preset.seeds
    ]


def _recordings(preset: Preset, path: pathlib.Path) -> list[Recording]:
    for flag in (_NUM_SAMPLES, _INPUT_DIM):
        if flag.value is not None:
            raise ValueError(f"--{flag.name} is the file's to say; leave it out with --data.")
    codes = Recording(path, 1).task().train.codes
    if _SPARSITY.value is None and codes is not None:
        preset = dataclasses.replace(preset, sparsity=(max(1, round(float((codes != 0).sum(axis=1).mean()))),))
    widths: Sequence[int | None] = preset.num_latents if _NUM_LATENTS.value is not None else (None,)
    sources = [
        Recording(path, num_latents, sparsity, seed)
        for num_latents in widths
        for sparsity in preset.sparsity
        for seed in preset.seeds
    ]
    for source in sources:
        task = source.task()
        if source.sparsity >= task.num_latents:
            raise ValueError(
                f"sparsity must be below num_latents, but it is {source.sparsity} with {task.num_latents} latents."
            )
    return sources


def _describe_recording(source: Setting | Recording) -> None:
    if isinstance(source, Recording):
        logging.info("%s: sparsity %d", source.path, source.sparsity)
        task = source.task()
        truths = {
            f"Z_{name}": getattr(task, split).codes for name, split in (("train", "train"), ("val", "id"), ("ood", "ood"))
        }
        missing = [name for name, truth in (truths | {"A": task.dictionary}).items() if truth is None]
        if missing:
            logging.warning("%s has no %s: what needs them is left out.", source.path, ", ".join(missing))


if __name__ == "__main__":
    cli.run(main, FLAGS)
