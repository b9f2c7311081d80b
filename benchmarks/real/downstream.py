"""The nats of `measure` alone, under their former name and in their former folder.

Puts reconstructions of a layer's activations back into the model that was recorded, on held-out
documents, and takes the loss of the next token and the divergence KL(model ‖ patched). Each
dictionary is scored with the codes of the certified lasso, with least squares on their support,
with orthogonal matching pursuit, and with a screened pursuit that leaves atoms out; an SAE also
with its own codes, with least squares on their support, and with the pursuit among the latents that
it proposes. The differences tell what the values, the support and the dictionary cost.
`--codes=...,weighted` adds a pursuit that weighs an error by what it costs in nats, as gradients of
the model tell on as many tokens of documents that SAEs learn from. Outlier tokens keep their
activation. Writes rows, summary.csv, splits.csv and figures.

  python -m sae_gap measure --recording=FOLDER --layer=10 --sae=FIRST,SECOND
"""

import dataclasses
from collections.abc import Sequence

from benchmarks import cli
from benchmarks.options import option
from benchmarks.real.inputs import PutBack
from benchmarks.real.measure import CODES, LEVELS, moved
from sae_gap import figures
from sae_gap.analysis import SUMS, Table, over_documents, sentence, splits, table_of, tables
from sae_gap.analysis.tables import table
from sae_gap.lm import OnNetwork
from sae_gap.measure import check_codes, put_back
from sae_gap.saes import SAE
from sae_gap.storage import Folder, Row, results

NAME = "downstream"
# Columns of the tables.
SCORES = "dictionary codes level l0 fvu kl delta_ce kl_score ce_score ce_score_mean own_certificate"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownstreamOptions(PutBack):
    """The options of `downstream`."""

    controls: tuple[str, ...] = option(
        (), "Control dictionaries: samples, random, or any learner by its name.  [none]"
    )
    l0: tuple[int, ...] = option(LEVELS, "Mean L0s at which dictionaries are compared.", least=1)
    codes: tuple[str, ...] = option(
        CODES,
        "Codes to put back, encoders by their names too; a loss is split where own, own_refit and "
        "one of lasso_refit, omp, screened and weighted are among them.",
    )

    def __post_init__(self):
        super().__post_init__()
        check_codes(self.codes)


def measure(
    folder: Folder,
    source: OnNetwork,
    saes: Sequence[SAE],
    l0: Sequence[int],
    codes: Sequence[str],
    controls: Sequence[str],
) -> list[Row]:
    """The rows of `put_back`; writes the tables as files, and the figure."""
    rows = put_back(source, saes, results.Store(folder), l0, codes, controls)
    lines = splits(rows, SUMS)
    for name, content in {"summary": rows, "splits": lines}.items():
        if content:
            tables.write_table(folder, f"{name}.csv", content)
    figures.save(figures.fvu_curve(rows), folder, "curve")
    figures.save(figures.loss_parts(lines), folder, "parts")
    return rows


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """The parts of each SAE's loss, and the scores of all codes."""
    first = rows[0]
    scored = sorted(rows, key=lambda row: (row["dead"], row["level"], row["kl"]))
    dead = ", ".join(dict.fromkeys(row["dictionary"] for row in scored if row["dead"]))
    losses = f"The loss of each SAE ± half its 95 % interval {over_documents(first)}"
    losses += f"; left out, since their encoders are dead: {dead}" if dead else ""
    references = f"zeros {first['ce_zero']:.3f}, the mean {first['ce_mean']:.3f}"
    clean = sum(first["ce_clean"]) / sum(first["tokens"])
    shown = [
        table_of(splits(rows, SUMS), losses),
        table(f"Nats above a clean loss of {clean:.3f} ({references})", SCORES, scored),
    ]
    return [each for each in shown if each.lines]


def sentences_of(rows: Sequence[Row]) -> list[str]:
    """The parts of each SAE's nats, a sentence each."""
    return [f"{sentence(line)}." for line in splits(rows, ["kl"])]


def main(options: DownstreamOptions) -> None:
    folder = options.folder(NAME)
    source, saes = options.begin(options.l0, options.controls)
    further = tuple(name for name in options.codes if name not in CODES)
    moved(NAME, options, codes=further, controls=options.controls or ("none",))
    rows = measure(folder, source, saes, options.l0, options.codes, options.controls)
    print(*tables_of(rows), *sentences_of(rows), sep="\n\n")


if __name__ == "__main__":
    cli.run(main)
