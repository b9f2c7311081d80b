r"""What does a reconstruction cost the model, in nats: in values, support and dictionary?

Puts reconstructions of a layer's activations back into the model that was recorded, on held-out
documents, and takes the loss of the next token and the divergence KL(model ‖ patched). Each
dictionary is scored with the codes of the certified lasso, with least squares on their support,
with orthogonal matching pursuit, and with a screened pursuit that leaves atoms out; an SAE also
with its own codes, with least squares on their support, and with the pursuit among the latents that
it proposes. The differences tell what the values, the support and the dictionary cost.
`--codes=...,weighted` adds a pursuit that weighs an error by what it costs in nats, as gradients of
the model tell on as many tokens of documents that SAEs learn from. Outlier tokens keep their
activation. Writes rows, summary.csv, splits.csv and figures under <results_dir>/downstream/. A run
that was stopped goes on with the same command.

  python -m sae_gap downstream --recording=FOLDER --layer=10 --sae=FIRST,SECOND
  python -m sae_gap downstream --recording=FOLDER --layer=10 --sae=FOLDER \
    --codes=own,own_refit,screened
  python -m sae_gap downstream --recording=FOLDER --layer=10 --dictionary=D.npy \
    --controls=random,samples --l0=16,32
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from benchmarks import cli
from benchmarks.options import option
from benchmarks.real.inputs import PutBack, learners_of
from sae_gap import figures
from sae_gap.analysis import tables
from sae_gap.analysis.comparison import over_documents
from sae_gap.analysis.parts import BEST, SUMS, best_at, placed, sentence, splits, table_of
from sae_gap.analysis.tables import Table, table
from sae_gap.core.normalise import Whitening
from sae_gap.encoders.lasso import DENSEST
from sae_gap.lm.on_network import OnNetwork
from sae_gap.measure.methods import OF_ENCODERS, REFIT, check_codes, finite, methods_of, study_of
from sae_gap.metrics import nats
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage import results
from sae_gap.storage.results import Row
from sae_gap.study.runner import run
from sae_gap.study.study import Method

NAME = "downstream"
# Codes of a dictionary at a requested L0, and of an encoder at its own.
LEVELLED = ("omp", "lasso", "lasso_refit", "screened", "weighted")
OWN = ("own", "own_refit")
# Largest L0 of a full pursuit: its time grows with the square, and would exceed all else.
MOST_PURSUED = 64
# Columns of the tables.
SCORES = "dictionary codes level l0 fvu kl delta_ce kl_score ce_score ce_score_mean own_certificate"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DownstreamOptions(PutBack):
    """The options of `downstream`."""

    controls: tuple[str, ...] = option(
        (), "Control dictionaries: samples, random, or any learner by its name.  [none]"
    )
    l0: tuple[int, ...] = option(
        (16, 32, 64, 128), "Mean L0s at which dictionaries are compared.", least=1
    )
    codes: tuple[str, ...] = option(
        (*OWN, *LEVELLED[:-1], "proposed"),
        "Codes to put back, encoders by their names too; a loss is split where own, own_refit and "
        "one of lasso_refit, omp, screened and weighted are among them.",
    )

    def __post_init__(self):
        super().__post_init__()
        check_codes(self.codes)


def measure(options: DownstreamOptions) -> list[Row]:
    """Runs the model, or reads what is stored; writes the tables as files, and the figure.

    Raises:
      ValueError: something does not fit; the message says how to mend it.
    """
    folder = options.folder(NAME)
    source, saes = options.begin(options.l0, options.controls)
    rows = put_back(options, source, saes, results.Store(folder))
    lines = splits(rows, SUMS)
    for name, content in {"summary": rows, "splits": lines}.items():
        if content:
            tables.write_table(folder, f"{name}.csv", content)
    figures.save(figures.fvu_curve(rows), folder, "curve")
    figures.save(figures.loss_parts(lines), folder, "parts")
    return rows


def put_back(
    options: DownstreamOptions,
    source: OnNetwork,
    saes: Sequence[SAE],
    store: results.Store,
) -> list[Row]:
    """The rows of three successive studies on one store: own codes set the L0 at which each encoder
    is split, and codes at the requested L0s find the best dictionary.
    """
    middle = options.l0[len(options.l0) // 2]
    learners = learners_of(saes, options.controls, middle, source.input_dim)
    unlike = any(
        isinstance(sae.normalisation, Whitening) or sae.normalisation.per_sample for sae in saes
    )
    codes = [name for name in options.codes if not (unlike and name.startswith("weighted"))]
    own = [name for name in codes if name.removesuffix(REFIT) == "own"]

    def at(name: str, names: Iterable[str], l0: float) -> Iterator[Method]:
        """Methods on a dictionary at an L0."""
        long = l0 > MOST_PURSUED
        kept = [each for each in names if not (long and each.startswith("omp"))]
        learner, about = learners[name]
        return methods_of(learner, kept, l0, **about)

    def rows_of(methods: Iterable[Method]) -> list[Row]:
        listed = [*methods]
        if not listed:
            return []
        return finite(run(study_of(NAME, (source,), listed, nats.METRIC), store))

    levelled = [name for name in codes if name not in own and not name.startswith(OF_ENCODERS)]
    rows = rows_of(method for name in learners for method in at(name, own, middle))
    placing = {
        row["dictionary"]: placed(row["l0"], options.l0) for row in rows if row["codes"] == "own"
    }
    rows = [row | placing.get(row["dictionary"], {}) for row in rows]
    rows += rows_of(
        method for name in learners for l0 in options.l0 for method in at(name, levelled, l0)
    )
    # Do not split denser codes, which are not sparse.
    sparse = [
        row
        for row in rows
        if row["codes"] == "own" and not row["dead"] and row["level"] <= DENSEST * source.input_dim
    ]
    proposing = [name for name in codes if name.startswith(OF_ENCODERS)]
    splitting = [name for name in levelled if name in (*BEST, "lasso")]
    wanted: list[Method] = []
    for row in sparse:
        near = best_at(rows, row["near"]) or row
        wanted += at(row["dictionary"], proposing, row["level"])
        if row["level"] not in options.l0:
            for name in dict.fromkeys((row["dictionary"], near["dictionary"])):
                wanted += at(name, splitting, row["level"])
    # Encoders of equal L0 share the measurements of the best dictionary.
    return rows + rows_of({(each.learner, each.encoder): each for each in wanted}.values())


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


def main(options: DownstreamOptions) -> None:
    rows = measure(options)
    said = [f"{sentence(line)}." for line in splits(rows, ["kl"])]
    print(*tables_of(rows), *said, sep="\n\n")


if __name__ == "__main__":
    cli.run(main)
