"""The Jacobian lens of a language model: what its activations dispose it to say.

The model and the text are those of `record`. The lens goes to <results_dir>/lens/<model>-<text>/,
which `sae_gap.lm.lens.open_lens` reads. A run that was stopped goes on with the same command, and
one with more --windows adds them.

  python -m sae_gap lens --windows=32
  python -m sae_gap lens --model=FILE.gguf --text=FOLDER --windows=100 --outliers=keep
"""

import dataclasses

from absl import logging

from benchmarks import cli
from benchmarks.options import option
from benchmarks.real.inputs import OnText, Outliers
from sae_gap.lm.lens import Lens, fit_lens

NAME = "lens"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LensOptions(OnText, Outliers):
    """The options of `lens`."""

    windows: int = option(16, "Documents of which to average the start.", least=1)
    context: int = option(128, "Tokens of a window.", least=2)
    first: int = option(16, "Tokens at the start of a window that are not averaged.", least=0)


def main(options: LensOptions) -> Lens:
    lm, texts, folder = options.begin(NAME)
    chosen = (options.windows, options.context, options.first, options.outliers, options.seed)
    found = fit_lens(lm, texts, folder, *chosen)
    logging.info(
        "%s has %d windows; standard error over length of J by block: %s",
        folder,
        found.windows,
        ", ".join(f"{block} {error:.3f}" for block, error in found.errors.items()) or "one window",
    )
    return found


if __name__ == "__main__":
    cli.run(main)
