r"""Who recovers features that are rare, that fire together, or that fire only below others?

Trains the SAEs, with tuned options and their own codes, and `online_dl` and `online_dl_families`,
with certified codes, on a world after SynthSAEBench: features of very different frequencies,
correlated, some in trees whose parents a child needs and whose siblings exclude each other. Scores
are the benchmark's, the matched cosine of atoms and latents as detectors of features, and beside
them the cosine by level of the tree and by frequency, detection above a cut that knows nothing of
the truth, and absorption. Writes rows, summary.csv, a figure and a page under <results_dir>/worlds/
and prints the tables.

  python -m sae_gap worlds --num_latents=2048 --num_samples=100000 \
    --methods=online_dl,sae_matryoshka,fista_oracle
  python -m sae_gap worlds --preset=full \
    --methods=online_dl_families,online_dl_families_pruned,fista_oracle
  python -m sae_gap worlds --world_file=synth-sae-bench-16k-v2 --width=4096
  python -m sae_gap worlds --world=absorption --num_samples=20000
"""

import dataclasses
from typing import Any

from benchmarks.harness import Bench, Preset, drawings, learners, methods, presets
from sae_gap import catalogue
from sae_gap.data import World
from sae_gap.encoders import JumpReLU
from sae_gap.learners import Oracle, Random
from sae_gap.metrics import detection, dictionary, reconstruction
from sae_gap.storage import CELL
from sae_gap.study import Method

# Root mean square of an active code in the paper's model, whose codes are uniform on (0, 1), where
# SAEs were tuned.
_TUNED_AT = 3**-0.5


def _sae(name, source, p):
    """A tuned SAE, in the units of the world's codes: penalties and thresholds go with them, rates
    of Adam do not.
    """
    learner = learners.tuned_sae(name, source, p)
    if not isinstance(source, World):
        return learner
    scale = source.magnitude / _TUNED_AT
    encoder = learner.encoder
    if isinstance(encoder, JumpReLU):
        # Of the squared error, a count of latents saves the square of a code.
        return dataclasses.replace(
            learner,
            encoder=dataclasses.replace(
                encoder,
                threshold=scale * encoder.threshold,
                bandwidth=scale * encoder.bandwidth,
            ),
            penalty=scale**2 * learner.penalty,
        )
    return dataclasses.replace(learner, penalty=scale * learner.penalty)


def _methods(source: Any, p: Any) -> list[Method]:
    saes = {name: _sae(name, source, p) for name in catalogue.saes()}
    others = {
        "online_dl": learners.online(p),
        "random": Random(),
        "fista_oracle": Oracle(leading=True),
    }
    return [
        *(
            methods.on(kind, *sae, p)
            for kind in ("sae", "frozen")
            for sae in saes.items()
        ),
        *(methods.coded(name, learner, p) for name, learner in others.items()),
        *methods.pruned(source, p),
    ]


_WORLD = {"world": "synthsae", "lam": 1.0}
# Two levels of children rather than three, as many latents as features; what two cores do in an
# hour.
_STANDARD = _WORLD | {
    "num_latents": (2_048,),
    "num_samples": (100_000,),
    "seeds": (0,),
    "visits": 100,
    "sae_steps": 20_000,
}
# A million samples are 60 visits, and 300 minibatches of the default size, too few: so smaller
# ones, whose critical rate is lower, and lower rates. A sample has 34 features on, and 96 slots
# hold them. The margin of families is the one that was measured at this size; without noise their
# floor is the threshold.
_FULL = _STANDARD | {
    "num_latents": (16_384,),
    "num_samples": (1_000_000,),
    "visits": 60,
    "sae_steps": 200_000,
    "online": {"rates": (0.3, 0.03, 0.005), "batch_size": 1_024, "num_slots": 96},
    "families": {"visits": 2, "num_slots": 96, "margin": 2.5},
}


class OfWorld(Preset):
    """A preset of a world."""

    without = ("data", "sparsity", "stream")


BENCH = Bench(
    __name__,
    "Worlds with frequencies, correlation and hierarchy",
    _methods,
    presets(
        OfWorld,
        smoke=_WORLD | {"num_latents": (64,), "num_samples": (1_000,)},
        quick=_STANDARD
        | {
            "num_latents": (512,),
            "num_samples": (20_000,),
            "seeds": Preset.seeds,
            "sae_steps": 5_000,
        },
        standard=_STANDARD,
        paper=_STANDARD,
        full=_FULL,
    ),
    figures=drawings.plain("recovery_by_level", (*CELL, "noise_db")),
    tables={
        "Dictionaries": "atom_mcc close uniqueness atom_mcc_roots atom_mcc_children "
        "atom_mcc_grandchildren atom_mcc_great_grandchildren atom_mcc_free atom_mcc_frequent "
        "atom_mcc_common atom_mcc_uncommon atom_mcc_rare fit_seconds",
        "Detection": "f1_id precision_id recall_id cut_f1_id cut_precision_id cut_recall_id "
        "cut_f1_ood absorption_id r2_id shrinkage_id fired_id dead_id",
    },
    options={
        "metrics": (
            dictionary.METRIC,
            reconstruction.EXPLAINED,
            dictionary.ATOMS,
            detection.METRIC,
            detection.ABSORPTION,
        ),
        "optimum": False,
    },
    slow=(
        "online_dl_families_pruned",
        *(f"frozen_{name}" for name in catalogue.saes()),
        "sae_mp",
        "sae_gated",
        "sae_lista_matryoshka",
    ),
)
