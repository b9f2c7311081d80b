"""Evidence that an SAE is broken or was loaded wrongly, and its FVU by the definition of each
library. A cause is named only where it is sure.

Reads an SAE as SAELens, dictionary_learning, sparsify, Gemma Scope and this suite write them, and
activations of its layer. Prints one screen and writes nothing. Exits with 0 where nothing was
found, with 1 where something looks wrong, and with 2 where the input cannot be used.

  python -m sae_gap check FOLDER --activations=x.pt
  python -m sae_gap check TRANSCODER --activations=x.pt --targets=y.pt
"""

import sys

import sae_gap
from benchmarks import cli
from benchmarks.options import frozen, option
from benchmarks.real.inputs import OnPairs


@frozen
class CheckOptions(OnPairs):
    """What to check."""

    sae: str | None = option(None, "Folder or file of weights of the SAE.", alone=True)
    rows: int = option(
        5_000, "Activations to look at, at most, evenly spread.", least=10
    )


def main(options: CheckOptions) -> None:
    if not options.sae:
        raise ValueError("there is nothing to check; give FOLDER and --activations.")
    activations = options.read_activations()
    found = sae_gap.check(
        options.sae, activations, targets=options.targets, rows=options.rows
    )
    print(found)
    sys.exit(int(bool(found.wrong)))


if __name__ == "__main__":
    cli.run(main)
