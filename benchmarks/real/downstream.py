r"""What does a reconstruction cost the model, in nats: in values, support and dictionary?

Puts reconstructions of a layer's activations back into the model that was recorded, on held-out
documents, and takes the loss of the next token and the divergence KL(model ‖ patched). Each
dictionary is scored with the codes of the certified lasso, with least squares on their support,
with orthogonal matching pursuit, and with a screened pursuit that leaves atoms out; an SAE also
with its own codes, with least squares on their support, and with the pursuit among the latents that
it proposes. The differences tell what the values, the support and the dictionary cost.
`--codes=...,weighted` adds a pursuit that weighs an error by what it costs in nats, as gradients of
the model tell on as many tokens of documents that SAEs learn from. Outlier tokens keep their
activation. Writes rows, summary.csv, splits.csv and a figure under <results_dir>/downstream/. A run
that was stopped goes on with the same command.

  python -m sae_gap downstream --recording=FOLDER --layer=10 --sae=FIRST,SECOND
  python -m sae_gap downstream --recording=FOLDER --layer=10 --sae=FOLDER \
    --codes=own,own_refit,screened
  python -m sae_gap downstream --recording=FOLDER --layer=10 --dictionary=D.npy \
    --controls=random,samples --l0=16,32
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import cli
from benchmarks.options import option
from benchmarks.real.inputs import CONTROLS, PutBack
from benchmarks.real.page_tables import table
from benchmarks.report import pages
from benchmarks.report.published import read_lines
from sae_gap import figures
from sae_gap.data.held_out import HeldOut as Plan
from sae_gap.figures import tables
from sae_gap.measure import control_sae
from sae_gap.measure.controls import check_control
from sae_gap.measure.patching import (
    CODES,
    PARTS,
    STUDY,
    SUPPORT,
    Patching,
    over_documents,
    split_lines,
)
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage import results
from sae_gap.storage.results import Row

NAME = STUDY
SOURCE = "another model: SmolLM2-135M base, bf16, by EleutherAI"
# The columns of the tables.
SPLIT = (
    "dictionary loss l0 total values_part support_part selection_part screening_part "
    "dictionary_part rest best"
)
SCORES = "dictionary codes level l0 fvu kl delta_ce kl_score ce_score ce_score_mean certificate"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownstreamOptions(PutBack):
    """What to put back into a model, and where results go."""

    controls: tuple[str, ...] = option((), "Control dictionaries.  [none]", choices=CONTROLS)
    l0: tuple[int, ...] = option(
        (16, 32, 64, 128), "Mean L0s at which dictionaries are compared.", least=1
    )
    codes: tuple[str, ...] = option(
        tuple(codes for codes in CODES if codes != "weighted"),
        "Codes to put back; a loss is split where own, own_refit and one of lasso_refit, omp, "
        "screened and weighted are among them.",
        choices=CODES,
    )


def measure(options: DownstreamOptions) -> list[Row]:
    """Runs the model, or reads what is stored; writes the tables as files, and the figure.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    folder = cli.folder(options.results_dir) / NAME
    recorded, lm, plan, saes = options.begin(options.l0, options.controls)
    controls = _controls(options, plan, saes[0])
    folder.require_writable()
    downstream, identity = options.downstream(lm, recorded, options.documents(recorded, plan))
    metric = None
    if "weighted" in options.codes:
        texts = options.documents(recorded, plan, part=0)
        told = results.key({"rows": plan.fingerprint, "documents": texts, "of": identity})
        metric = told, lambda: options.downstream(lm, recorded, texts)[0].sensitivity()
    store = results.Store(folder)
    patching = Patching(downstream, identity, store, options.l0, options.codes, metric)
    rows = patching.run(saes, controls)
    scored = [row for row in rows if row["kind"] == "score"]
    for name, content in {"summary": scored, "splits": split_lines(rows)}.items():
        if content:
            tables.write_table(folder, f"{name}.csv", content)
    drawn = figures.fvu_curve(rows, published(), SOURCE) if scored else None
    if drawn is not None:
        figures.save(drawn, folder, "curve")
    return rows


def _controls(options: DownstreamOptions, plan: Plan, first: SAE) -> dict[str, Any]:
    """What decides each control, and what makes it."""
    train, l0 = plan.parts[0], options.l0[len(options.l0) // 2]
    settings: Row = {"width": first.num_latents, "signed": first.signed, "l0": l0}
    settings |= {"rows": plan.fingerprint, "keep_outliers": plan.keep_outliers, "seed": plan.seed}
    made: dict[str, Any] = {}
    for name in options.controls:
        if name != "none":
            check_control(name, train.num_samples, first.num_latents)
            make = functools.partial(control_sae, name, train, first, l0, plan.seed)
            made[name] = (settings | {"control": name}, functools.cache(make))
    return made


def published() -> list[Row]:
    """Another model's figures, a line for each dictionary and L0."""
    numbers = {"num_latents": int, "l0": float, "fvu": float, "kl": float}
    return [
        {"dictionary": line["dictionary"]} | {name: of(line[name]) for name, of in numbers.items()}
        for line in read_lines("published_downstream.csv")
    ]


def tables_of(rows: Sequence[Row]) -> list[pages.Table]:
    """What the loss of each SAE is made of, and the scores of all codes."""
    clean = next(row for row in rows if row["kind"] == "clean")
    splits = []
    for line in split_lines(rows):
        line = dict(line)
        for part in [*PARTS, *SUPPORT]:
            if line[f"{part}_part"] is None:
                continue
            low, high = line[f"{part}_low"], line[f"{part}_high"]
            interval = f" ({low:.3f} to {high:.3f})" if np.isfinite(low) else ""
            line[f"{part}_part"] = f"{line[f'{part}_part']:.3f}{interval}"
        # Of the best dictionary it is zero by definition.
        if line["best"] == line["dictionary"]:
            line["dictionary_part"] = None
        loss = {"kl": "KL", "ce": "ΔCE", "fvu": "FVU"}[line["loss"]]
        splits.append(line | {"loss": loss})
    scored = [row for row in rows if row["kind"] == "score"]
    scored.sort(key=lambda row: (row["level"], row["kl"]))
    dead = ", ".join(row["dictionary"] for row in scored if row["dead"])
    losses = f"The loss of each SAE, 95 % intervals {over_documents(clean)}"
    losses += f"; left out, since their encoders are dead: {dead}" if dead else ""
    references = f"zeros {clean['ce_zero']:.3f}, the mean {clean['ce_mean']:.3f}"
    shown = [
        table(losses, SPLIT, splits),
        table(f"Nats above a clean loss of {clean['ce']:.3f} ({references})", SCORES, scored),
    ]
    return [each for each in shown if each.lines]


def main(options: DownstreamOptions) -> None:
    with cli.usage():
        rows = measure(options)
    print(*tables_of(rows), sep="\n\n")


if __name__ == "__main__":
    cli.run(main)
