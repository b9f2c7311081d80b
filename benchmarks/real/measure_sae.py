"""The variance of `measure` alone, under its former name and in its former folder.

It measures your own SAE on your own activations, as `sae-gap measure` does without a recording.

  python -m sae_gap measure --sae=FOLDER --activations=activations.npy
"""

from absl import logging

from benchmarks import cli
from benchmarks.real import measure

NAME = "measure_sae"


def main(options: measure.VarianceOptions) -> None:
    logging.warning("%s is now `sae-gap measure`.", NAME)
    print(measure.variance(options, NAME), end="")


if __name__ == "__main__":
    cli.run(main)
