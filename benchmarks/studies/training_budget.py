r"""When does an SAE stop being limited by its dictionary?

Splits the distance of each SAE to the oracle along its fit, at the snapshots that are stored, and
shows the encoder's share of it against the share of atoms that the dictionary has found. The best
codes are those of `attribution`.

Beside these it draws SAEs of a language model: `train_real --steps` trains one for each budget of
steps, and `measure` puts them back into the model together with one wide dictionary, the same for
all. The dictionary's part of an SAE's nats is what a screened pursuit gains on that one; the rest
is what it leaves there. Lines are means over seeds, with intervals over documents.

  python -m sae_gap training_budget
  python -m sae_gap train_real --activations=FOLDER/block10 --methods=topk --width=2048 \
    --steps=22,88,351,1404,2808
  python -m sae_gap measure --recording=FOLDER --layer=10 --sae=... --dictionary=WIDE --l0=32
  python -m sae_gap training_budget --preset=paper --measured=results/measure
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from benchmarks.harness import Bench, Drawing, Tuned, frozen, methods, option, presets
from benchmarks.studies import attribution
from sae_gap.analysis import Lines, best_row
from sae_gap.analysis.parts import Compared, line_of, placed, splits
from sae_gap.figures import labels
from sae_gap.metrics import dictionary, recovery
from sae_gap.storage import Folder, Row, Store, grouped
from sae_gap.study import Method

# The names of SAEs that `train_real --steps` stores.
_NAMES = re.compile(r"(?:[\w.]+-)?(?P<kind>\w+)-(?P<atoms>\d+)-(?P<steps>\d+)-\d+")


@frozen
class Budget(Tuned):
    """A preset with what is drawn beside its rows."""

    measured: str | None = option(
        None,
        "The folder in which measure put SAEs of train_real --steps back into their model.",
    )


def _measured(p: Budget) -> Iterator[Row]:
    """The parts of the nats of stored SAEs, a line for each number of atoms and of steps."""
    if p.measured is None:
        return
    trained = []
    wide = []
    for row in Store(Folder(p.measured) / "nats").rows():
        found = _NAMES.fullmatch(row["dictionary"])
        # Other documents, or another layer, are another measurement.
        row["place"] = f"{row['layer']} {row['texts']}"
        if found is None:
            wide.append(row)
        else:
            row["kind"] = found["kind"]
            row |= {name: int(found[name]) for name in ("atoms", "steps")}
            trained.append(row)
    trained.sort(key=lambda row: row["steps"])
    groups = grouped(trained, ("place", "kind", "atoms", "steps"))
    for (place, kind, atoms, steps), group in groups.items():
        seeds = []
        for (name,), rows in grouped(group, ("dictionary",)).items():
            codes = _codes(rows, wide, place)
            if codes is None:
                logging.warning(
                    "left out %s: it is dead, or codes beside its own are missing", name
                )
            else:
                seeds.append(codes)
        if seeds:
            own, kept, best, least = zip(*seeds, strict=True)
            panel = f"{labels.label(kind)}, {atoms:,} atoms, block {group[0]['layer']}"
            parts = line_of(Compared(own, kept, best, reference=least), "kl")
            yield parts | {"dictionary": panel, "panel": panel, "steps": steps}


def _codes(
    rows: Sequence[Row], wide: Sequence[Row], place: str
) -> tuple[Row, ...] | None:
    """An SAE's own codes, the best values on their supports, its best codes, and those of the best
    wide dictionary, all at its own L0; None if it is dead or some are missing.
    """
    own = best_row(rows, ["own"], "kl")
    others = [
        row for row in wide if row["place"] == place and row["codes"] == "screened"
    ]
    if own is None or own["dead"] or not others:
        return None
    level = placed(own["l0"], [row["level"] for row in others])["level"]
    found: list[Any] = [own, best_row(rows, ["own_refit"], "kl")]
    for group in (rows, others):
        there = [row for row in group if row.get("level") == level]
        found.append(best_row(there, ["screened"], "kl"))
    return None if None in found else (*found,)


def _methods(source: Any, p: Any) -> list[Method]:
    return [
        methods.along(method, method.learner.snapshots)
        for method in attribution.BENCH.methods(source, p)
    ]


def _lines(rows: Lines) -> list[Row]:
    drawn = [
        line | {"panel": f"{line['num_latents']} latents, k = {line['sparsity']}"}
        for line in splits(rows, ["mcc_ood"])
    ]
    return drawn + [row for row in rows if "panel" in row]


BENCH = Bench(
    __name__,
    "Training budget",
    _methods,
    presets(
        Budget,
        smoke={"tuned": ("batchtopk",)},
        quick=attribution.TUNED,
        paper=attribution.TUNED | {"num_latents": (100, 500), "sparsity": (10, 2, 50)},
    ),
    {"training_budget": Drawing("training_budget", rows=_lines)},
    {},
    varies=("step",),
    options={"metrics": (recovery.METRIC, dictionary.METRIC), "optimum": False},
    parts=True,
    measured=_measured,
)
