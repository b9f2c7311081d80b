"""The tokenizer of a GGUF file: SmolLM's byte pairs or Gemma's pairs of SentencePiece."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_gap.storage import library, reading

# Kinds of SentencePiece's tokens: those that joined pairs make, marks such as the start of a text,
# and those that are found whole in a text.
_NORMAL = 1
_CONTROL = 3
_WHOLE = 4
# SentencePiece's sign for a space.
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def tokenizer_of(path: Path, fields: Mapping[str, Any]) -> Any:
    """Builds the `tokenizers.Tokenizer` of a file from its fields.

    Raises:
      ValueError: it is of another kind than SmolLM's and Gemma's, or damaged, or `tokenizers` is
        not installed.
    """
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
    library("tokenizers")
    with reading(path, "a tokenizer"):
        return _TOKENIZERS[kind](own)


def _numbers(fields: Mapping[str, Any]) -> dict[str, int]:
    """The number of each token."""
    return {token: number for number, token in enumerate(fields["tokens"])}


def _smollm(fields: Mapping[str, Any]) -> Any:
    """Builds a tokenizer of byte pairs, within words and single digits."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    merges = [tuple(merge.split(" ")) for merge in fields["merges"]]
    tokenizer = Tokenizer(models.BPE(_numbers(fields), merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(fields: Mapping[str, Any]) -> Any:
    """Builds a tokenizer of SentencePiece's pairs: it joins the two neighbours whose joint piece
    has the highest score. A letter without a piece becomes its bytes.
    """
    from tokenizers import (
        AddedToken,
        Tokenizer,
        decoders,
        models,
        normalizers,
        processors,
    )

    numbers = _numbers(fields)
    merges = _merges(fields, numbers)
    tokenizer = Tokenizer(models.BPE(numbers, merges, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    kinds = fields["token_type"]
    tokenizer.add_tokens(
        [
            AddedToken(token, special=kinds[number] == _CONTROL)
            for token, number in numbers.items()
            if kinds[number] in (_CONTROL, _WHOLE)
        ]
    )
    spaces = decoders.Replace(_SPACE, " ")
    tokenizer.decoder = decoders.Sequence(
        [spaces, decoders.ByteFallback(), decoders.Fuse()]
    )
    if fields.get("add_bos_token", True):
        number = fields["bos_token_id"]
        start = fields["tokens"][number]
        tokenizer.post_processor = processors.TemplateProcessing(
            f"{start} $A", special_tokens=[(start, number)]
        )
    return tokenizer


def _merges(
    fields: Mapping[str, Any], numbers: Mapping[str, int]
) -> list[tuple[str, str]]:
    """The pairs of pieces that make a piece, those of the highest score first."""
    pieces = {
        token: fields["scores"][number]
        for token, number in numbers.items()
        if fields["token_type"][number] == _NORMAL
    }
    merges = []
    for token in sorted(pieces, key=lambda token: -pieces[token]):
        for place in range(1, len(token)):
            left = token[:place]
            right = token[place:]
            if left in pieces and right in pieces:
                merges.append((left, right))
    return merges


# The name of each kind of tokenizer in a file.
_TOKENIZERS = {"gpt2/smollm": _smollm, "llama/default": _sentencepiece}
