"""With a good dictionary in hand, how small does the amortisation gap become, and at what cost?

Trains encoders of every family on the certified codes of one dictionary, and holds them against FISTA cut short and against the
certified lasso on that same dictionary: the gap and the recovery, in and out of distribution, beside the floating-point
operations a sample. Writes rows, summary.csv and a figure under <results_dir>/encoder_budget/<dictionary>/ and prints the
table.

  python -m benchmarks.encoder_budget --dictionary=oracle
  python -m benchmarks.encoder_budget --dictionary=dl_fista --num_latents=1000
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging

from benchmarks import cli
from sae_gap import results, tables
from sae_gap.encoders.base import AmortisedEncoder
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.lista import LISTA
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.learners.amortised import Amortised
from sae_gap.learners.base import Learner
from sae_gap.learners.dl_fista import DLFista
from sae_gap.learners.online import OnlineDictionary
from sae_gap.learners.oracle import Oracle
from sae_gap.study import Method, Study, run
from sae_gap.types import Setting

NAME = "encoder_budget"
DEPTHS = (1, 2, 4, 8, 16)
ITERATIONS = (1, 2, 5, 10, 20, 50, 100)


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes of a run: the setting, and the lengths of training."""

    num_latents: int = 100
    sparsity: int = 10
    num_samples: int = 5_000
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 200
    rounds: int = 1_000


PRESETS = {
    "smoke": Preset(num_latents=20, sparsity=3, num_samples=200, seeds=(0, 1), epochs=5, rounds=5),
    "quick": Preset(),
}
# Where the dictionary comes from, by name: a learner given λ and the rounds it may take.
DICTIONARIES: dict[str, Callable[[float, int], Learner]] = {
    "oracle": lambda lam, rounds: Oracle(),
    "dl_fista": lambda lam, rounds: DLFista(lam, num_steps=rounds),
    "online_dl": lambda lam, rounds: OnlineDictionary(visits=min(rounds, 400)),
}

FLAGS = flags.FlagValues()
_DICTIONARY = flags.DEFINE_string(
    "dictionary", "oracle", f"Where the dictionary comes from, one of {', '.join(DICTIONARIES)}.", flag_values=FLAGS
)
_NUM_LATENTS = flags.DEFINE_integer("num_latents", None, "Number of latents.  [100]", flag_values=FLAGS)
_SPARSITY = flags.DEFINE_integer("sparsity", None, "Number of active latents a sample.  [10]", flag_values=FLAGS)
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples", None, "Number of ID samples, half of them for training.  [5000]", flag_values=FLAGS
)
_SEEDS = flags.DEFINE_list("seeds", None, "Seeds.  [0,1,2]", flag_values=FLAGS)
_LAM = flags.DEFINE_float("lam", 0.1, "Weight of the l1 norm.", flag_values=FLAGS)
_PRESET = flags.DEFINE_string(
    "preset", "quick", f"Sizes of a run, one of {', '.join(PRESETS)}; other flags take precedence.", flag_values=FLAGS
)
_RESULTS_DIR = flags.DEFINE_string("results_dir", "results", "Where the folder of this study goes.", flag_values=FLAGS)


def encoders(sparsity: int, lam: float) -> dict[str, AmortisedEncoder]:
    """The encoders to train, by method."""
    lista = {f"lista_{depth}": LISTA(depth, lam) for depth in DEPTHS}
    # A window about as wide as the codes' spread: the published 1e-3 holds too few of them for the thresholds to learn by.
    return {"relu": ReLU(), "topk": TopK(sparsity), "jumprelu": JumpReLU(lam, lam), **lista}


def methods(
    sparsity: int, *, dictionary: str = "oracle", lam: float = 0.1, epochs: int = 200, rounds: int = 1_000
) -> list[Method]:
    """All that infers on the one dictionary.

    Args:
      sparsity: k of TopK.
      dictionary: where it comes from, one of `DICTIONARIES`.
      lam: weight of the l1 norm.
      epochs: of the encoders' training.
      rounds: of dictionary learning, at most.
    """
    trained = encoders(sparsity, lam)
    learner = Amortised(DICTIONARIES[dictionary](lam, rounds), tuple(trained.values()), lam, num_steps=epochs)
    fista = {f"fista_{count}": Lasso(lam, tol=None, max_iterations=count) for count in ITERATIONS}
    return [
        *(Method(name, name.split("_")[0], learner, member) for name, member in zip(trained, learner.members, strict=True)),
        *(Method(name, "fista", learner, encoder) for name, encoder in fista.items()),
        Method("lasso", "lasso", learner, Lasso(lam)),
    ]


METHODS = tuple(method.name for method in methods(sparsity=1))


def flops(method: str, input_dim: int, num_latents: int) -> int | None:
    """Floating-point operations of a method for one sample: those of its products with matrices, all else being small.

    A layer of LISTA and an iteration of FISTA are two products, less one for the first, which starts from zero. None for the
    certified lasso, whose solver takes what a sample needs.
    """
    if method == "lasso":
        return None
    family, _, count = method.partition("_")
    products = 2 * int(count) - 1 if family in ("lista", "fista") else 1
    return 2 * input_dim * num_latents * products


def study(preset: Preset, *, dictionary: str = "oracle", lam: float = 0.1) -> Study:
    """The study of one setting over its seeds."""
    sources = tuple(Setting(preset.num_latents, preset.sparsity, preset.num_samples, seed) for seed in preset.seeds)

    def chosen(source):
        return methods(source.sparsity, dictionary=dictionary, lam=lam, epochs=preset.epochs, rounds=preset.rounds)

    return Study(NAME, sources, chosen, lam=lam)


COLUMNS = {
    "method": "method",
    "flops": "FLOP/sample",
    "relative_gap_id": "relative gap ID",
    "relative_gap_ood": "relative gap OOD",
    "mcc_id": "MCC ID",
    "mcc_ood": "MCC OOD",
    "l0_id": "L0 ID",
    "certificate_id": "certificate",
}


def report(rows: Sequence[results.Row], folder: pathlib.Path) -> str:
    """Writes summary.csv and the figure, and returns the table to print."""
    from sae_gap import figures  # Importing matplotlib takes as long as everything else in --help.

    rows = [row | {"flops": flops(row["method"], row["input_dim"], row["num_latents"])} for row in rows]
    summary = tables.summarise(rows, by=(*tables.BY, "flops"), methods=METHODS)
    tables.write_summary(folder / "summary.csv", summary)
    figure = figures.budget(rows)
    if figure is not None:
        figures.save(figure, folder / "budget")
    return tables.format_table(summary, COLUMNS)


def main() -> None:
    preset = _read_flags()
    try:
        chosen = study(preset, dictionary=_DICTIONARY.value, lam=_LAM.value)
        store = results.Store(pathlib.Path(_RESULTS_DIR.value) / NAME / _DICTIONARY.value)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    rows = run(chosen, store)
    logging.info("%d rows in %s", len(rows), store.directory)
    sys.stdout.write(report(rows, store.directory) + "\n")


def _read_flags() -> Preset:
    if _PRESET.value not in PRESETS:
        raise cli.UsageError(f"--preset {_PRESET.value!r} is unknown; choose one of {', '.join(PRESETS)}.")
    if _DICTIONARY.value not in DICTIONARIES:
        raise cli.UsageError(f"--dictionary {_DICTIONARY.value!r} is unknown; choose one of {', '.join(DICTIONARIES)}.")
    if not 0 < _LAM.value < 1e30:
        raise cli.UsageError(f"--lam must be a number above 0 and below 1e30, but it is {_LAM.value}.")
    given: dict[str, Any] = {
        flag.name: flag.value for flag in (_NUM_LATENTS, _SPARSITY, _NUM_SAMPLES) if flag.value is not None
    }
    if _SEEDS.value is not None:
        given["seeds"] = cli.parse_integers("seeds", _SEEDS.value)
    return dataclasses.replace(PRESETS[_PRESET.value], **given)


if __name__ == "__main__":
    cli.run(main, FLAGS)
