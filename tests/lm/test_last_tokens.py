"""Rows of whole texts are those of the model on each text alone, cut from the left."""

import equinox as eqx
import numpy as np
import pytest

from sae_gap.lm.language_model import Windows
from sae_gap.lm.last_tokens import last_tokens
from tests import tiny


@eqx.filter_jit
def alone(model, window):
    return model.run_blocks(model.embed(window), window, 0, 2)[0, -1]


@pytest.mark.parametrize(("architecture", "start"), [("llama", []), ("gemma3", [1])])
def test_the_last_token_of_each_text_alone(tmp_path, architecture, start):
    lm = tiny.tiny_lm(tmp_path, architecture=architecture)
    texts = ["the cat", "a", "in the hat of the cat in the hat"]
    found = last_tokens(lm, texts, 1, 8)
    for row, tokens in zip(found, lm.tokenise(texts), strict=True):
        tokens = np.array([[*start, *tokens[len(start) :][len(start) - 8 :]]], np.int32)
        window = Windows(tokens, 0 * tokens, np.arange(tokens.size, dtype=np.int32)[None])
        np.testing.assert_allclose(row, alone(lm.model, window), atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_text_and_a_window_have_tokens_of_their_own(tmp_path, architecture):
    lm = tiny.tiny_lm(tmp_path, architecture=architecture)
    with pytest.raises(ValueError, match="text 1 has no token"):
        last_tokens(lm, ["a", ""], 1)
    with pytest.raises(ValueError, match="context must be"):
        last_tokens(lm, ["a"], 1, lm.start)
    with pytest.raises(ValueError, match="context must be"):
        lm.tokenise(["a"], lm.start)
