"""Which learner recovers the true dictionary, from how many samples and in how many seconds?

Trains dictionary learners, SAEs and learners of other libraries on the same samples, and infers with the certified lasso on
whatever each has learned, SAEs included: what is told is the dictionary's own worth, and no encoder's. SAEs have their tuned
options; matching pursuit's codes here are non-negative like all others. Writes rows, summary.csv and figures under
<results_dir>/dictionary_challenge/ and prints the table.

  python -m benchmarks.dictionary_challenge --num_latents=1000 --methods=online_dl,spams,fista_oracle
  python -m benchmarks.dictionary_challenge --num_latents=1000,2000 --num_samples=20000,100000 --stream --noise_db=20
"""

import dataclasses
import math
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, cast

from absl import flags, logging

from benchmarks import cli, peers
from sae_gap import results, tables
from sae_gap.encoders.lasso import Lasso
from sae_gap.learners.base import Learner
from sae_gap.learners.dl_fista import DLFista
from sae_gap.learners.online import OnlineDictionary
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.sae import TUNED, SparseAutoencoder, tuned
from sae_gap.metrics import METRICS
from sae_gap.metrics.base import Inferred
from sae_gap.study import Method, Study, run
from sae_gap.types import Setting

NAME = "dictionary_challenge"
# The published SAEs are renormalised every 50 epochs of 40 batches; epochs here may be few and long.
RENORMALISE_EVERY = 2_000
DEFAULT = ("online_dl", "dl_fista", "sae_relu", "sae_topk", "sae_batchtopk", "fista_oracle")


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes of a run: the settings, and the lengths of training. None leaves a peer the steps of its own."""

    num_latents: tuple[int, ...] = (100,)
    sparsity: tuple[int, ...] = (10,)
    num_samples: tuple[int, ...] = (5_000,)
    noise_db: tuple[float | None, ...] = (None,)
    seeds: tuple[int, ...] = (0, 1, 2)
    rounds: int = 1_000
    visits: int = 400
    sae_steps: int = 50_000
    peer_steps: int | None = None


PRESETS = {
    "smoke": Preset((20,), (3,), (200,), seeds=(0, 1), rounds=5, visits=4, sae_steps=100, peer_steps=10),
    "quick": Preset(),
    "paper": Preset((50, 100, 500, 1_000, 5_000, 10_000)),
}

FLAGS = flags.FlagValues()
_NUM_LATENTS = flags.DEFINE_list(
    "num_latents", None, "Numbers of latents; also the width of every dictionary.  [100]", flag_values=FLAGS
)
_SPARSITY = flags.DEFINE_list("sparsity", None, "Numbers of active latents a sample.  [10]", flag_values=FLAGS)
_NUM_SAMPLES = flags.DEFINE_list(
    "num_samples",
    None,
    "Numbers of ID samples, half of them for training; all of them with --stream.  [5000]",
    flag_values=FLAGS,
)
_NOISE_DB = flags.DEFINE_list(
    "noise_db", None, "Signal-to-noise ratios in decibels; none for no noise.  [none]", flag_values=FLAGS
)
_STREAM = flags.DEFINE_boolean(
    "stream", False, "Whether all samples are for training, fresh ones, with at most 2500 more to score on.", flag_values=FLAGS
)
_SEEDS = flags.DEFINE_list("seeds", None, "Seeds.  [0,1,2]", flag_values=FLAGS)
_METHODS = flags.DEFINE_list(
    "methods", None, "Methods to run, by name as in the table, or all; by default a quick choice.", flag_values=FLAGS
)
_SAE_STEPS = flags.DEFINE_integer(
    "sae_steps", None, "Gradient steps of an SAE, rounded up to whole epochs.  [50000]", lower_bound=1, flag_values=FLAGS
)
_PEER_STEPS = flags.DEFINE_integer(
    "peer_steps", None, "Minibatches of spams and sklearn; by default each one's own.", lower_bound=1, flag_values=FLAGS
)
_LAM = flags.DEFINE_float("lam", 0.1, "Weight of the l1 norm.", flag_values=FLAGS)
_PRESET = flags.DEFINE_string(
    "preset", "quick", f"Sizes of a run, one of {', '.join(PRESETS)}; other flags take precedence.", flag_values=FLAGS
)
_RESULTS_DIR = flags.DEFINE_string("results_dir", "results", "Where the folder of this study goes.", flag_values=FLAGS)
_SHARD = flags.DEFINE_string("shard", "0/1", "i/N: run the i-th of N parts of the study, counted from 0.", flag_values=FLAGS)


def learners(source: Setting, *, lam: float = 0.1, preset: Preset = PRESETS["quick"]) -> dict[str, Learner]:
    """What learns, by method; one more line here is one more learner in the study.

    Args:
      source: the setting, whose sparsity the SAEs are told and whose number of samples sets their epochs.
      lam: weight of the l1 norm.
      preset: the lengths of training.
    """
    steps = {} if preset.peer_steps is None else {"num_steps": preset.peer_steps}
    return {
        "online_dl": OnlineDictionary(visits=preset.visits),
        "dl_fista": DLFista(lam, num_steps=preset.rounds),
        "spams": peers.SpamsTrainDL(lam, **steps),
        "sklearn": peers.SklearnMiniBatch(lam, **steps),
        **{f"sae_{name}": _sae(name, source, preset.sae_steps) for name in TUNED},
        "fista_oracle": Oracle(),
    }


def _sae(name: str, source: Setting, steps: int) -> SparseAutoencoder:
    steps_per_epoch = -(-source.num_train // SparseAutoencoder.batch_size)
    options = {
        "num_steps": -(-steps // steps_per_epoch),
        "renormalise_every": max(1, round(RENORMALISE_EVERY / steps_per_epoch)),
    }
    return tuned(name, sparsity=source.sparsity, input_dim=cast(int, source.input_dim), **options)


METHODS = tuple(learners(Setting()))


def _family(name: str, learner: Learner) -> str:
    if name == "fista_oracle":
        return "oracle"
    if name.startswith("sae_"):
        return "sae"
    return "peer" if isinstance(learner, peers.Peer) else "dictionary_learning"


def samples_seen(inferred: Inferred) -> dict[str, float]:
    """The number of different samples that there were to learn from."""
    return {"samples_seen": len(inferred.task.train.signals)}


def study(
    sources: Sequence[Setting], *, names: Sequence[str] = METHODS, lam: float = 0.1, preset: Preset = PRESETS["quick"]
) -> Study:
    """The study over any settings, with the methods of the given names, each with the codes of the certified lasso."""

    def chosen(source):
        every = learners(source, lam=lam, preset=preset)
        return [Method(name, _family(name, every[name]), every[name], Lasso(lam)) for name in METHODS if name in names]

    return Study(NAME, tuple(sources), chosen, lam=lam, metrics=(*METRICS, samples_seen))


COLUMNS = {
    "cosine": "cosine",
    "close": "cos > .9",
    "mcc_id": "MCC ID",
    "mcc_ood": "MCC OOD",
    "mcc_paper_id": "MCC paper ID",
    "mcc_paper_ood": "MCC paper OOD",
    "support_f1_id": "F1 ID",
    "support_f1_ood": "F1 OOD",
    "seen": "samples seen",
    "fit_seconds": "fit s",
}
CELL = ("num_latents", "sparsity", "num_samples", "noise_db")


def report(rows: Sequence[results.Row], folder: pathlib.Path) -> str:
    """Writes summary.csv and the figures, removes those of an earlier run, and returns the table to print."""
    from sae_gap import figures  # Importing matplotlib takes as long as everything else in --help.

    # A run without noise and without streams has the columns of the headline.
    told_apart = [name for name in ("noise_db", "stream") if any(row.get(name) not in (None, False) for row in rows)]
    summary = tables.summarise(rows, by=(*tables.BY, *told_apart), methods=METHODS)
    tables.write_summary(folder / "summary.csv", summary)
    for stale in (*folder.glob("*.png"), *folder.glob("*.pdf")):
        stale.unlink(missing_ok=True)
    for names, draw in ((CELL, figures.recovery_by_seconds), (("sparsity", "noise_db"), figures.recovery_by_samples)):
        groups: dict[tuple[Any, ...], list[results.Row]] = {}
        for row in rows:
            groups.setdefault(tuple(row[name] for name in names), []).append(row)
        for cell, group in groups.items():
            figure = draw(group)
            if figure is not None:
                suffix = "" if len(groups) == 1 else "".join(f"_{value:g}" for value in cell if value is not None)
                figures.save(figure, folder / f"{draw.__name__}{suffix}")
    varied = [name for name in CELL if len({row[name] for row in rows}) > 1]
    headings = {"method": "method"} | {name: name.replace("num_", "").replace("_", " ") for name in varied}
    lines = [line | {"seen": _whole(line.get("samples_seen_mean"))} for line in summary]
    return tables.format_table(lines, headings | COLUMNS)


def _whole(value: float | None) -> int | None:
    return None if value is None else round(value)


def main() -> None:
    chosen, shard = _read_flags()
    try:
        store = results.Store(pathlib.Path(_RESULTS_DIR.value) / NAME, shard)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    rows = run(chosen, store, shard)
    logging.info("%d rows in %s", len(rows), store.directory)
    if rows:
        sys.stdout.write(report(rows, store.directory) + "\n")


def _read_flags() -> tuple[Study, tuple[int, int]]:
    if _PRESET.value not in PRESETS:
        raise cli.UsageError(f"--preset {_PRESET.value!r} is unknown; choose one of {', '.join(PRESETS)}.")
    names = list(METHODS) if _METHODS.value == ["all"] else _METHODS.value
    if names is None:
        names = [name for name in DEFAULT if name in METHODS]
    unknown = [name for name in names if name not in METHODS]
    if unknown or not names:
        raise cli.UsageError(f"--methods has {', '.join(map(repr, unknown)) or 'no name'}; choose from {', '.join(METHODS)}.")
    if not 0 < _LAM.value < 1e30:
        raise cli.UsageError(f"--lam must be a number above 0 and below 1e30, but it is {_LAM.value}.")
    preset = PRESETS[_PRESET.value]
    given: dict[str, Any] = {}
    for flag in (_NUM_LATENTS, _SPARSITY, _NUM_SAMPLES, _SEEDS):
        if flag.value is not None:
            given[flag.name] = cli.parse_integers(flag.name, flag.value)
    if _NOISE_DB.value is not None:
        given["noise_db"] = _parse_noise(_NOISE_DB.value)
    given |= {flag.name: flag.value for flag in (_SAE_STEPS, _PEER_STEPS) if flag.value is not None}
    preset = dataclasses.replace(preset, **given)
    try:
        sources = [
            Setting(num_latents, sparsity, num_samples, seed, noise_db=noise_db, stream=_STREAM.value)
            for num_latents in preset.num_latents
            for sparsity in preset.sparsity
            for num_samples in preset.num_samples
            for noise_db in preset.noise_db
            for seed in preset.seeds
        ]
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    _require_peers(names)
    return study(sources, names=names, lam=_LAM.value, preset=preset), cli.parse_shard(_SHARD.value)


def _parse_noise(values: Sequence[str]) -> tuple[float | None, ...]:
    try:
        ratios = tuple(None if value == "none" else float(value) for value in values)
    except ValueError:
        raise cli.UsageError(
            f"--noise_db must list decibels or none, such as none,20, but it is {','.join(values)!r}."
        ) from None
    if not ratios or len(set(ratios)) < len(ratios) or not all(ratio is None or math.isfinite(ratio) for ratio in ratios):
        raise cli.UsageError(f"--noise_db must list different finite decibels or none, but it is {','.join(values)!r}.")
    return ratios


def _require_peers(names: Sequence[str]) -> None:
    for name, learner in learners(Setting()).items():
        if name in names and isinstance(learner, peers.Peer):
            try:
                learner.library()
            except ImportError:
                package = learner.module.partition(".")[0]
                raise cli.UsageError(
                    f"{name} needs {package}, which is not there; pip install 'sae_gap[peers]' or leave it out of --methods."
                ) from None


if __name__ == "__main__":
    cli.run(main, FLAGS)
