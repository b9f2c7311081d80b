r"""Which learner recovers the true dictionary, from how many samples and in how many seconds?

Trains dictionary learners, SAEs and learners of other libraries on the same samples, and infers
with the certified lasso on whatever each has learned, SAEs included: what is told is the
dictionary's own worth, and no encoder's. SAEs have their tuned options; matching pursuit's codes
here are non-negative like all others. Writes rows, summary.csv, figures and a page under
<results_dir>/dictionary_challenge/ and prints the table.

  python -m sae_gap dictionary_challenge --num_latents=1000 --methods=online_dl,spams,fista_oracle
  python -m sae_gap dictionary_challenge --num_latents=1000,2000 --num_samples=20000,100000 \
    --stream --noise_db=20
"""

from typing import Any

from benchmarks.harness import (
    WIDTHS,
    Bench,
    Preset,
    drawings,
    frozen,
    learners,
    methods,
    option,
    presets,
)
from sae_gap import catalogue
from sae_gap.analysis import Lines
from sae_gap.learners import SklearnMiniBatch, SpamsTrainDL
from sae_gap.metrics import Inferred, Metric
from sae_gap.storage import CELL, Row
from sae_gap.study import Method


@frozen
class Challenge(Preset):
    """A preset with the length of the training of other libraries."""

    without = ("data",)
    peer_steps: int | None = option(
        None, "Minibatches of spams and sklearn; by default each one's own.", least=1
    )


def samples_seen(inferred: Inferred) -> dict[str, float]:
    """The number of different samples that there were to learn from."""
    return {"samples_seen": len(inferred.task.train.signals)}


def _per_latent(rows: Lines) -> list[Row]:
    """Rows of what is learned, with the samples for each latent."""
    return [
        row | {"per_latent": row["samples_seen"] / row["num_latents"]}
        for row in rows
        if row["dictionary"] != "oracle"
    ]


def _methods(source: Any, p: Any) -> list[Method]:
    length = {} if p.peer_steps is None else {"num_steps": p.peer_steps}
    rivals = [SpamsTrainDL(p.lam, **length), SklearnMiniBatch(p.lam, **length)]
    return [
        *methods.learned(source, p)[::-1],
        *methods.families(source, p),
        *(methods.coded(learner.name, learner, p) for learner in rivals),
        *(
            methods.coded(
                f"sae_{name}", learners.tuned_sae(name, source, p), p, family="sae"
            )
            for name in catalogue.saes()
        ),
        *methods.oracle(source, p),
    ]


BENCH = Bench(
    __name__,
    "Dictionary challenge",
    _methods,
    presets(Challenge, smoke={"peer_steps": 10}, paper={"num_latents": WIDTHS}),
    drawings.plain("recovery_by_seconds", (*CELL, "noise_db"))
    | drawings.along("per_latent", ("cosine",), _per_latent, ("sparsity", "noise_db")),
    {
        "Dictionaries": "cosine close mcc_id mcc_ood mcc_paper_id mcc_paper_ood support_f1_id "
        "support_f1_ood samples_seen fit_seconds"
    },
    options={
        "metrics": (*catalogue.default_metrics(), Metric("samples_seen", samples_seen)),
        "timed": True,
    },
    slow=(
        "online_dl_families",
        "spams",
        "sklearn",
        "sae_jumprelu",
        "sae_mp",
        "sae_matryoshka",
        "sae_lista_matryoshka",
        "sae_gated",
    ),
)
