"""The costs of `measure` alone, under their former name and in their former folder.

Codes held-out activations on each dictionary in many ways, most of them at one mean L0, and puts
the reconstructions back into the model that was recorded, as `downstream` does:

  own, own_refit    the SAE's codes, and least squares on their supports
  screened_pursuit  `ScreenedPursuit`, named by its screens and its candidates for each atom
  batch_pursuit     `BatchPursuit` likewise: twice as many atoms, pruned by one threshold
  omp, omp_pruned   orthogonal matching pursuit among all atoms; of twice as many, pruned likewise
  fista             iterations of FISTA, then least squares on codes above one threshold
  lasso, ...        the certified lasso, least squares on its supports, and pruned from twice the L0
  mp, ...           any other codes of `downstream`, and any encoder of `sae_gap.encoders` without
                    parameters: with k, and with the λ at which the lasso has k; its own L0 may
                    differ

A row has the loss in nats and FVU, and what the codes cost: `products` are multiply-adds relative
to one product with the dictionary, which is what an encoder costs, with the Gram matrix of all
atoms at hand for screened pursuits, and without it for the full one; `processor` is the time of one
thread of a CPU relative to the SAE's own encoder, the median of five runs; `seconds` are for 1,000
samples on all cores. `objective_gap` is by how much their lasso objective is above the certified
optimum of the same L0, relative to it, and `shared` the share of the full pursuit's support that
they have.
Thresholds are found on rows that SAEs learn from. Writes rows, summary.csv and a figure of each
dictionary.

  python -m sae_gap measure --recording=FOLDER --layer=10 --sae=FIRST,SECOND --costs=all
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from benchmarks import cli
from benchmarks.options import option
from benchmarks.real.inputs import PutBack
from benchmarks.real.measure import LEVELS, NAMED, PRICED, moved
from sae_gap import figures
from sae_gap.analysis import Table, tables
from sae_gap.analysis.tables import table
from sae_gap.lm import OnNetwork
from sae_gap.measure import KINDS, check_codes, priced
from sae_gap.saes import SAE
from sae_gap.storage import Folder, Row, results

NAME = "encoder_cost"
COLUMNS = (
    "dictionary codes products processor seconds l0 fvu kl delta_ce objective_gap shared "
    "own_certificate"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CostOptions(PutBack):
    """The options of `encoder_cost`."""

    l0: int = option(PRICED, "Mean L0 of all codes but those of encoders.", least=1)
    codes: tuple[str, ...] = option((*KINDS, *NAMED), "Families of codes, and encoders.")
    tokens: int = option(2_048, "Held-out tokens to run, rounded up to whole documents.", least=1)

    def __post_init__(self):
        super().__post_init__()
        check_codes([name for name in self.codes if name not in KINDS])


def measure(
    folder: Folder, source: OnNetwork, saes: Sequence[SAE], k: int, codes: Sequence[str]
) -> list[Row]:
    """The rows of `priced` for each SAE; writes the table as a file, and the figures."""
    rows, named = [], [name for name in codes if name not in KINDS]
    for sae in saes:
        mine = priced(source, sae, results.Store(folder), k, codes, named)
        figures.save(figures.loss_by_cost(mine), folder, sae.name.replace("/", "_"))
        rows += mine
    tables.write_table(folder, "summary.csv", rows)
    return rows


def tables_of(rows: Sequence[Row]) -> list[Table]:
    """A table for each dictionary, sorted by the cost of codes."""
    return [
        table(
            f"Codes on {name} at a mean L0 of {lines[0]['level']}",
            COLUMNS,
            sorted(lines, key=lambda row: (row["products"] or np.inf, row["kl"])),
        )
        for (name,), lines in results.grouped(rows, ("dictionary",)).items()
    ]


def main(options: CostOptions) -> None:
    folder = options.folder(NAME)
    source, saes = options.begin((options.l0,))
    moved(NAME, options, codes=(), costs=options.codes, l0=LEVELS, match_l0=float(options.l0))
    rows = measure(folder, source, saes, options.l0, options.codes)
    print(*tables_of(rows), sep="\n\n")


if __name__ == "__main__":
    cli.run(main)
