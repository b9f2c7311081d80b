"""The model against NumPy in float64, written the long way from the tensors of its file, and what
files are refused.
"""

from functools import partial

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.random import default_rng
from numpy.testing import assert_allclose
from pytest import mark, raises

from sae_gap.lm import Windows, read_model
from tests import tiny
from tests.saes.examples import refused
from tests.tiny import LM

TOKENS = default_rng(1).integers(0, 256, 11)


def norm(row, gain):
    return gain * row / np.sqrt(np.mean(row**2, axis=-1, keepdims=True) + 1e-5)


def turned(heads, theta, divisors, halves):
    """The pairs of each head as complex numbers, turned by the angle of their position; in halves,
    each lies half a head apart.
    """
    size = heads.shape[-1]
    i = np.arange(size // 2)
    positions = np.arange(len(heads))[:, None, None]
    one, two = (i, i + size // 2) if halves else (2 * i, 2 * i + 1)
    turn = np.exp(1j * positions * theta ** (-2 * i / size) / divisors)
    found = heads.copy()
    turn = turn * (heads[..., one] + 1j * heads[..., two])
    found[..., one], found[..., two] = turn.real, turn.imag
    return found


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def states(tensors, tokens):
    """The residual stream after each number of blocks, and the logits."""
    weights = {
        name[: -len(".weight")]: array.astype(float) for name, array in tensors.items()
    }
    gemma = "blk.0.attn_q_norm" in weights
    size = len(weights["blk.0.attn_q"]) // LM["heads"]
    divisors = weights.get("rope_freqs", np.ones(size // 2))
    hidden = weights["token_embd"][tokens] * (8 if gemma else 1)
    found = [hidden]
    distance = np.arange(len(tokens))[:, None] - np.arange(len(tokens))

    def own(name):
        return weights[f"blk.{block}.{name}"]

    def passed(name, row):
        return norm(row, own(name)) if gemma else row

    def heads(name, count, normed):
        found = (normed @ own(f"attn_{name}").T).reshape(len(normed), count, size)
        if name != "v":
            found = passed(f"attn_{name}_norm", found)
            found = turned(found, 10_000.0 if near else 100.0, divisors, gemma)
        return np.repeat(found, LM["heads"] // count, axis=1)

    for block in range(LM["blocks"]):
        near = gemma and block in (0, 2)
        normed = norm(hidden, own("attn_norm"))
        query = heads("q", LM["heads"], normed)
        key, value = (heads(name, LM["kv_heads"], normed) for name in "kv")
        scores = np.exp(np.einsum("qhi,khi->hqk", query, key) / np.sqrt(size))
        scores = scores * ((distance >= 0) & (distance < (4 if near else 99)))
        scores = scores / scores.sum(axis=2, keepdims=True)
        added = np.einsum("hqk,khi->qhi", scores, value).reshape(len(tokens), -1)
        hidden = hidden + passed("post_attention_norm", added @ own("attn_output").T)
        inner = norm(hidden, own("ffn_norm"))
        gate = (gelu if gemma else silu)(inner @ own("ffn_gate").T) * (
            inner @ own("ffn_up").T
        )
        hidden = hidden + passed("post_ffw_norm", gate @ own("ffn_down").T)
        found.append(hidden)
    head = weights.get("output", weights["token_embd"])
    return found, norm(hidden, weights["output_norm"]) @ head.T


Q8 = gguf.GGMLQuantizationType.Q8_0
Q4 = gguf.GGMLQuantizationType.Q4_1
KINDS = {
    "as SmolLM2 is": {"quantised": {"token_embd": Q8, "attn_q": Q4, "ffn_down": Q4}},
    "a head of its own and divided angles": {"tied": False, "frequencies": True},
    "Gemma 3": {"architecture": "gemma3"},
}


@mark.parametrize("kind", KINDS)
def test_states_and_log_probabilities_are_those_of_the_equations(tmp_path, kind):
    tensors = tiny.write_lm(tmp_path / "tiny.gguf", **KINDS[kind])
    model, fields = read_model(tmp_path / "tiny.gguf")
    assert (model.num_blocks, model.context) == (LM["blocks"], LM["context"])
    assert fields["general.architecture"] == KINDS[kind].get("architecture", "llama")
    expected, logits = states(tensors, TOKENS)
    tokens = jnp.asarray(TOKENS[None])
    batch = Windows(tokens, 0 * tokens, jnp.arange(len(TOKENS))[None])
    hidden = model.embed(batch)
    for block in range(LM["blocks"]):
        hidden = model.run_blocks(hidden, batch, block, block + 1)
        assert_allclose(hidden[0], expected[block + 1], atol=1e-4)
    wanted = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert_allclose(model.log_probabilities(hidden[0]), wanted, atol=1e-4)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-2_000])


def of_other_heads(path):
    """Three heads of keys, which four of queries cannot share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.LM, "kv_heads", 3)
        tiny.write_lm(path)


FAULTS = {
    "architecture 'gpt2', of which only llama and gemma3 can": partial(
        tiny.write_lm, architecture="gpt2"
    ),
    "positions scaled by 'yarn'": partial(
        tiny.write_lm, **{"llama.rope.scaling.type": "yarn"}
    ),
    "cannot be read as GGUF": cut_short,
    "cannot be read as a plain llama": of_other_heads,
}


@mark.parametrize("words", FAULTS)
def test_what_cannot_be_run_is_said_in_a_sentence(tmp_path, words):
    path = tmp_path / "tiny.gguf"
    tiny.write_lm(path)
    FAULTS[words](path)
    refused(lambda: read_model(path), words)


def test_a_quantisation_that_gguf_cannot_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf, "dequantize", lambda *_: 1 / 0)
    with raises(
        ValueError, match="is in F32, which gguf cannot read; quantise it as Q8_0"
    ):
        tiny.tiny_lm(tmp_path)
