"""Reads language models, Llama and Gemma 3, from GGUF files as llama.cpp writes them.

Such a file stores the rotary pairs of a Llama's queries and keys side by side, as
`sae_gap.lm.llama` turns them. The pairs of a Gemma lie half a head apart; this module puts them
side by side.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.core import AnyPath, check_path
from sae_gap.data import RefusedError
from sae_gap.lm import Block, LanguageModel, Llama, Shape, Windows
from sae_gap.storage import brief, library, reading

# The name in the file of each parameter of a block.
NAMES = {
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
NORMS = {
    "query_norm": "attn_q_norm",
    "key_norm": "attn_k_norm",
    "attention_output_norm": "post_attention_norm",
    "mlp_output_norm": "post_ffw_norm",
}
KINDS = {"llama": NAMES, "gemma3": NAMES | NORMS}
_KEYS = {
    "num_blocks": "block_count",
    "num_heads": "attention.head_count",
    "num_kv_heads": "attention.head_count_kv",
    "epsilon": "attention.layer_norm_rms_epsilon",
    "context": "context_length",
}


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
    path, gguf = check_path("path", path), library("gguf")
    with reading(path, "GGUF"):
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    kind = fields.get("general.architecture")
    if kind not in KINDS:
        raise ValueError(
            f"{path} holds a model of the architecture {kind!r}, of which only "
            f"{' and '.join(KINDS)} can be run; give another."
        )
    own = {name.removeprefix(f"{kind}."): value for name, value in fields.items()}
    scaling = own.get("rope.scaling.type", "none")
    if scaling != "none" or "expert_count" in own:
        what = "experts" if "expert_count" in own else f"positions scaled by {scaling!r}"
        raise ValueError(
            f"{path} holds a {kind} with {what}, which is not implemented; give one without."
        )
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def read(name: str) -> np.ndarray:
        tensor = tensors.pop(name)
        try:
            values = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
        except Exception as error:
            fault = (
                f"{path} has {name} in {tensor.tensor_type.name}, which gguf cannot read "
                f"({brief(error)})"
            )
            raise RefusedError(f"{fault}; quantise it as Q8_0.") from error
        if not np.isfinite(values).all():
            raise RefusedError(
                f"{path} has values in {name} that are not finite; download it again."
            )
        return values

    try:
        model = _assemble(read, kind, own, **{name: own[key] for name, key in _KEYS.items()})
        jax.eval_shape(_run, model)
    except RefusedError:
        raise
    except KeyError as error:
        raise ValueError(f"{path} lacks {error}, which a {kind} has; download it again.") from error
    except (ArithmeticError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} has sizes that are not those of a {kind} ({brief(error)}); download it again."
        ) from error
    if tensors:
        raise ValueError(
            f"{path} has tensors that a plain {kind} has not, such as {min(tensors)}; give another "
            "model."
        )
    return model, fields


def _assemble(read, kind, fields, *, num_blocks, num_heads, num_kv_heads, epsilon, context):
    def stacked(name):
        # In a file, each row gives one output.
        return jnp.asarray(
            np.stack([read(f"blk.{block}.{name}.weight").T for block in range(num_blocks)])
        )

    if not 0 < epsilon < np.inf:
        raise ValueError(f"an epsilon of {epsilon}")
    embedding = jnp.asarray(read("token_embd.weight"))
    parts = {part: stacked(name) for part, name in KINDS[kind].items()}
    size = parts["query"].shape[2] // num_heads
    reach = np.full(num_blocks, np.iinfo(np.int32).max)
    base = np.full((num_blocks, 1), fields.get("rope.freq_base", 10_000.0))
    shape = Shape(num_heads, num_kv_heads, epsilon, context)
    if kind == "gemma3":
        period = fields.get("attention.sliding_window_pattern", 6)
        local = np.arange(num_blocks) % period < period - 1
        reach[local] = fields["attention.sliding_window"]
        base[local] = fields.get("rope.freq_base_swa", 10_000.0)
        for name in ("query", "key", "query_norm", "key_norm"):
            parts[name] = _side_by_side(parts[name], size)
        shape = dataclasses.replace(shape, scale=embedding.shape[1] ** 0.5, activation=jax.nn.gelu)
    if min(*reach, *base, context) <= 0:
        raise ValueError(
            f"a context of {context}, windows of {min(reach)}, rotations of {base.min()}"
        )
    turned = fields.get("rope.dimension_count", size)
    frequencies = base ** (-np.arange(0, turned, 2) / turned)
    frequencies = frequencies / _optional(read, "rope_freqs.weight", 1.0)
    return Llama(
        embedding=embedding,
        blocks=Block(
            **parts,
            frequencies=jnp.asarray(frequencies, jnp.float32),
            reach=jnp.asarray(reach, jnp.int32),
        ),
        norm=jnp.asarray(read("output_norm.weight")),
        head=_optional(read, "output.weight"),
        shape=shape,
    )


def _side_by_side(values, size):
    """Puts the coordinates i and i + size / 2 of each head, which are a pair, side by side."""
    halves = values.reshape(*values.shape[:-1], -1, 2, size // 2)
    return jnp.swapaxes(halves, -1, -2).reshape(values.shape)


def _run(model):
    """Runs the model on one token, which raises if shapes do not fit each other."""
    token = Windows(*np.zeros((3, 1, 1), np.int32))
    end = model.run_blocks(model.embed(token), token, 0, model.num_blocks)
    return model.log_probabilities(end)


def _optional(read, name, default=None):
    try:
        return jnp.asarray(read(name))
    except KeyError:
        return default
