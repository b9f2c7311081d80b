"""The model against NumPy in float64, written the long way from the tensors of its file, and what
files are refused.
"""

import gguf
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.lm import Windows, gguf_files
from tests import tiny
from tests.tiny import LM

TOKENS = np.random.default_rng(1).integers(0, 256, 11)


def windows(*rows):
    tokens = jnp.asarray(rows)
    return Windows(
        tokens, jnp.zeros_like(tokens), jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    )


def norm(row, gain):
    return gain * row / np.sqrt(np.mean(row**2) + 1e-5)


def turned(head, position, theta, divisors, halves):
    """The pairs of a head as complex numbers, each turned by its angle; in halves, each lies half a
    head apart.
    """
    found, size = head.copy(), len(head)
    for i in range(size // 2):
        one, two = (i, i + size // 2) if halves else (2 * i, 2 * i + 1)
        turn = np.exp(1j * position * theta ** (-2 * i / size) / divisors[i]) * (
            head[one] + 1j * head[two]
        )
        found[one], found[two] = turn.real, turn.imag
    return found


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def states(tensors, tokens, shifts=()):
    """The residual stream after each number of blocks, and the logits, one position and one head at
    a time; `shifts` are added after some blocks.
    """
    weights = {
        name.removesuffix(".weight"): array.astype(np.float64) for name, array in tensors.items()
    }
    gemma = "blk.0.attn_q_norm" in weights
    size = len(weights["blk.0.attn_q"]) // LM["heads"]
    divisors = weights.get("rope_freqs", np.ones(size // 2))
    hidden = [weights["token_embd"][token] * (8 if gemma else 1) for token in tokens]
    found = [np.array(hidden)]
    for block in range(LM["blocks"]):
        own = {
            name.removeprefix(f"blk.{block}."): array
            for name, array in weights.items()
            if f"blk.{block}." in name
        }
        near = gemma and block in (0, 2)
        normed = [norm(row, own["attn_norm"]) for row in hidden]

        def passed(name, row, own=own):
            return norm(row, own[name]) if gemma else row

        def moved(name, head, place, own=own, near=near, normed=normed):
            theta = 10_000.0 if near else 100.0
            row = passed(f"attn_{name}_norm", (own[f"attn_{name}"] @ normed[place])[head])
            return turned(row, place, theta, divisors, gemma)

        after = []
        for position in range(len(tokens)):
            heads = []
            for head in range(LM["heads"]):
                mine = slice(head * size, (head + 1) * size)
                shared = head // (LM["heads"] // LM["kv_heads"])
                theirs = slice(shared * size, (shared + 1) * size)
                seen = range(max(0, position - 3) if near else 0, position + 1)
                query, keys = moved("q", mine, position), [moved("k", theirs, s) for s in seen]
                scores = np.exp([query @ key / np.sqrt(size) for key in keys])
                values = [(own["attn_v"] @ normed[s])[theirs] for s in seen]
                heads.append(
                    sum(
                        score * value
                        for score, value in zip(scores / scores.sum(), values, strict=True)
                    )
                )
            added = own["attn_output"] @ np.concatenate(heads)
            row = hidden[position] + passed("post_attention_norm", added)
            inner, gate = norm(row, own["ffn_norm"]), own["ffn_gate"] @ norm(row, own["ffn_norm"])
            gate = (gelu if gemma else silu)(gate) * (own["ffn_up"] @ inner)
            after.append(row + passed("post_ffw_norm", own["ffn_down"] @ gate))
        hidden = [*(np.array(after) + dict(shifts).get(block, 0))]
        found.append(np.array(hidden))
    head = weights.get("output", weights["token_embd"])
    return found, np.array([head @ norm(row, weights["output_norm"]) for row in hidden])


KINDS = {
    "plain": {},
    "as SmolLM2 is": {
        "quantised": {
            "token_embd": gguf.GGMLQuantizationType.Q8_0,
            "attn_q": gguf.GGMLQuantizationType.Q4_1,
        }
        | {"ffn_down": gguf.GGMLQuantizationType.Q4_1}
    },
    "a head of its own and divided angles": {"tied": False, "frequencies": True},
    "Gemma 3": {"architecture": "gemma3"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_states_and_log_probabilities_are_those_of_the_equations(tmp_path, kind):
    tensors = tiny.write_lm(tmp_path / "tiny.gguf", **KINDS[kind])
    model, fields = gguf_files.read_model(tmp_path / "tiny.gguf")
    assert (model.num_blocks, model.dim, model.shape.context) == (
        LM["blocks"],
        LM["dim"],
        LM["context"],
    )
    assert fields["general.architecture"] == KINDS[kind].get("architecture", "llama")
    expected, logits = states(tensors, TOKENS)
    batch = windows(TOKENS)
    hidden = model.embed(batch)
    # One block after the other is the same as all at once.
    for block in range(LM["blocks"]):
        hidden = model.run_blocks(hidden, batch, block, block + 1)
        np.testing.assert_allclose(hidden[0], expected[block + 1], atol=1e-4)
    together = model.run_blocks(model.embed(batch), batch, 0, LM["blocks"])
    np.testing.assert_allclose(together, hidden, atol=1e-5)
    wanted = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(model.log_probabilities(hidden[0]), wanted, atol=1e-4)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-2_000])


def of_a_kind_that_gguf_cannot_read(path):
    """Q8_0 by another number: the tensors stay where they are, and their kind is one that has no
    way to be read.
    """
    tiny.write_lm(path, quantised={"ffn_up": gguf.GGMLQuantizationType.Q8_0})
    reader = gguf.GGUFReader(path, "r+")
    for tensor in reader.tensors:
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0:
            tensor.field.parts[4][0] = gguf.GGMLQuantizationType.Q8_1
    reader.data.flush()


def of_other_heads(path):
    """Three heads of keys, which four of queries cannot share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.LM, "kv_heads", 3)
        tiny.write_lm(path)


def of_fewer_blocks(path):
    """The tensors of the last block are left over."""
    with pytest.MonkeyPatch.context() as patch:
        fewer = lambda self, count: self.add_uint32("llama.block_count", count - 1)  # noqa: E731
        patch.setattr(gguf.GGUFWriter, "add_block_count", fewer)
        tiny.write_lm(path)


FAULTS = {
    "a tensor more": (of_fewer_blocks, r"that a plain llama has not, such as blk"),
    "another architecture": (
        lambda path: tiny.write_lm(path, architecture="gpt2"),
        "architecture 'gpt2', of which only llama and gemma3 can be run; give another",
    ),
    "scaled positions": (
        lambda path: tiny.write_lm(path, **{"llama.rope.scaling.type": "yarn"}),
        "positions scaled by 'yarn'",
    ),
    "cut short": (cut_short, "cannot be read as GGUF"),
    "experts": (lambda path: tiny.write_lm(path, **{"llama.expert_count": "4"}), "with experts"),
    "its norms": (
        lambda path: tiny.write_lm(path, architecture="gemma3", window=0),
        "windows of 0",
    ),
    "its quantisation": (of_a_kind_that_gguf_cannot_read, "in Q8_1, which gguf cannot read"),
    "its heads": (
        of_other_heads,
        r"has sizes that are not those of a llama \(.*\); download it again",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_cannot_be_run_is_said_in_a_sentence(tmp_path, case):
    path = tmp_path / "tiny.gguf"
    tiny.write_lm(path)
    spoil, message = FAULTS[case]
    spoil(path)
    with pytest.raises(ValueError, match=message) as error:
        gguf_files.read_model(path)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
