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
to one product with the dictionary, which is what an encoder costs, without the Gram matrix of all
atoms that each call of a screened pursuit computes; `processor` is the time of one thread of a CPU
relative to the SAE's own encoder, the median of five runs on 500 rows, with that Gram matrix;
`seconds` are for 1,000 samples on all cores. `objective_gap` is by how much their lasso objective
is above the certified optimum of the same L0, relative to it, and `shared` the share of the full
pursuit's support that they have.
Thresholds are found on rows that SAEs learn from. Writes rows, summary.csv and a figure of each
dictionary.

  python -m sae_gap measure --recording=FOLDER --layer=10 --sae=FIRST,SECOND --costs=all
"""

from absl import logging

from benchmarks import cli
from benchmarks.options import frozen, option
from benchmarks.real import measure
from benchmarks.real.inputs import PutBack
from benchmarks.real.measure import NAMED, PRICED
from sae_gap.measure import KINDS, check_codes

NAME = "encoder_cost"


@frozen
class CostOptions(PutBack):
    """The options of `encoder_cost`."""

    l0: int = option(PRICED, "Mean L0 of all codes but those of encoders.", least=1)
    codes: tuple[str, ...] = option((*KINDS, *NAMED), "Families of codes, and encoders.")
    tokens: int = option(2_048, "Held-out tokens to run, rounded up to whole documents.", least=1)

    def __post_init__(self):
        super().__post_init__()
        check_codes([name for name in self.codes if name not in KINDS])


def main(options: CostOptions) -> None:
    folder, k = options.folder(NAME), options.l0
    source, saes = options.begin((k,))
    logging.warning("%s is now `sae-gap measure --costs=CODES --match_l0=L0`.", NAME)
    print(*measure.costs(folder, source, saes, k, options.codes), sep="\n\n")


if __name__ == "__main__":
    cli.run(main)
