"""Reads the parameters of a Llama or a Gemma 3 from a GGUF file as llama.cpp writes them.

Such a file stores the rotary pairs of a Llama's queries and keys side by side, as
`sae_gap.lm.Llama` turns them. The pairs of a Gemma lie half a head apart; this module puts them
side by side.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.core import AnyPath, check_path
from sae_gap.lm import Block, LanguageModel, Llama, Shape, Windows
from sae_gap.storage import library, reading

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
    scaling = own.get("rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(
            f"{path} holds a {kind} with positions scaled by {scaling!r}, which is not "
            "implemented; give one without."
        )
    tensors = _Weights({tensor.name: tensor for tensor in reader.tensors})
    with reading(path, f"a plain {kind}"):
        model = _assemble(tensors, kind, own)
        jax.eval_shape(_run, model)
    if tensors.left:
        raise ValueError(
            f"{path} has tensors that a plain {kind} has not, such as {min(tensors.left)}; give "
            "another model."
        )
    return model, fields


class _Weights:
    """The tensors of a file, each of which is read once.

    Attributes:
      left: those that have not been read, by name.
    """

    def __init__(self, tensors: dict[str, Any]):
        self.left = tensors

    def __contains__(self, name: str) -> bool:
        return f"{name}.weight" in self.left

    def read(self, name: str) -> Any:
        """Returns a tensor in float32."""
        import gguf

        tensor = self.left.pop(f"{name}.weight")
        kind = tensor.tensor_type
        try:
            return np.asarray(gguf.dequantize(tensor.data, kind), np.float32)
        except Exception as error:
            raise ValueError(
                f"{tensor.name} is in {kind.name}, which gguf cannot read; quantise it as Q8_0"
            ) from error

    def of_blocks(self, name: str, num_blocks: int) -> np.ndarray:
        """Returns a tensor of all blocks, stacked; in a file, each row gives one output."""
        return np.stack(
            [self.read(f"blk.{block}.{name}").T for block in range(num_blocks)]
        )


def _assemble(weights: _Weights, kind: str, fields: Mapping[str, Any]) -> Llama:
    num_blocks = fields["block_count"]
    num_heads = fields["attention.head_count"]
    embedding = weights.read("token_embd")
    parts: dict[str, Any] = {
        part: weights.of_blocks(name, num_blocks) for part, name in _KINDS[kind].items()
    }
    size = parts["query"].shape[2] // num_heads
    reach = np.full(num_blocks, np.iinfo(np.int32).max, np.int32)
    base = np.full((num_blocks, 1), fields.get("rope.freq_base", 10_000.0))
    scale = 1.0
    activation = jax.nn.silu
    if kind == "gemma3":
        scale = embedding.shape[1] ** 0.5
        activation = jax.nn.gelu
        period = fields.get("attention.sliding_window_pattern", 6)
        local = np.arange(num_blocks) % period < period - 1
        reach[local] = fields["attention.sliding_window"]
        base[local] = fields.get("rope.freq_base_swa", 10_000.0)
        for name in ("query", "key", "query_norm", "key_norm"):
            parts[name] = _side_by_side(parts[name], size)
    turned = fields.get("rope.dimension_count", size)
    frequencies = base ** (-np.arange(0, turned, 2) / turned)
    if "rope_freqs" in weights:
        frequencies = frequencies / weights.read("rope_freqs")
    parts["frequencies"] = frequencies.astype(np.float32)
    parts["reach"] = reach
    shape = Shape(
        num_heads=num_heads,
        num_kv_heads=fields["attention.head_count_kv"],
        epsilon=fields["attention.layer_norm_rms_epsilon"],
        context=fields["context_length"],
        scale=scale,
        activation=activation,
    )
    model = Llama(
        embedding=embedding,
        blocks=Block(**parts),
        norm=weights.read("output_norm"),
        head=weights.read("output") if "output" in weights else None,
        shape=shape,
    )
    return jax.tree.map(jnp.asarray, model)


def _side_by_side(values: np.ndarray, size: int) -> np.ndarray:
    """Puts the coordinates i and i + size / 2 of each head, which are a pair, side by side."""
    halves = values.reshape(*values.shape[:-1], -1, 2, size // 2)
    return halves.swapaxes(-1, -2).reshape(values.shape)


def _run(model: LanguageModel) -> jax.Array:
    """Runs the model on one token, which raises if shapes do not fit each other."""
    token = Windows(*np.zeros((3, 1, 1), np.int32))
    end = model.run_blocks(model.embed(token), token, 0, model.num_blocks)
    return model.log_probabilities(end)
