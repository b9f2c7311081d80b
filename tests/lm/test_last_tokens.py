"""Rows of whole texts are those of the model on each text alone, cut from the left."""

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.lm.last_tokens import last_tokens
from sae_gap.lm.llama import Windows, embed, run_blocks
from tests import tiny


def test_the_last_token_of_each_text_alone(tmp_path):
    lm, texts = tiny.tiny_lm(tmp_path), ["the cat", "a", "in the hat of the cat in the hat"]
    found = last_tokens(lm, texts, 1, 8)
    for row, tokens in zip(found, lm.tokenise(texts), strict=True):
        tokens = jnp.asarray(tokens[-8:])[None]
        window = Windows(tokens, jnp.zeros_like(tokens), jnp.arange(tokens.shape[1])[None])
        np.testing.assert_allclose(
            row, run_blocks(lm.model, embed(lm.model, window), window, 0, 2)[0, -1], atol=1e-4
        )
    with pytest.raises(ValueError, match="text 1 has no token"):
        last_tokens(lm, ["a", ""], 1)
