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

from absl import logging

from benchmarks import cli
from benchmarks.options import frozen, option
from benchmarks.real import measure
from benchmarks.real.inputs import PutBack
from benchmarks.real.measure import CODES, LEVELS
from sae_gap.measure import check_codes
from sae_gap.storage import Row

NAME = "downstream"


@frozen
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


def measured(options: DownstreamOptions) -> list[Row]:
    """The rows in nats."""
    source, saes = options.begin(options.l0, options.controls)
    folder, asked = options.folder(NAME), (options.l0, options.codes, options.controls)
    return measure.nats(folder, source, saes, *asked)


def main(options: DownstreamOptions) -> None:
    logging.warning("%s is now `sae-gap measure --recording=...`.", NAME)
    print(*measure.report(measured(options)), sep="\n\n")


if __name__ == "__main__":
    cli.run(main)
