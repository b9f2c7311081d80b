"""What lies in one file, with names of tensors for a configuration: transcoders of circuit-tracer
and acausal crosscoders, and else a bare decoder.
"""

import re
from typing import Any

from sae_gap.saes import decoders
from sae_gap.saes.architectures import read_options, take
from sae_gap.saes.parts import LAYERS, Parts
from sae_gap.storage import Config, Tensors

# circuit-tracer's names: of the transcoder of a layer, of a threshold, and of the configuration of
# all layers.
WEIGHTS = re.compile(r"layer_(\d+)\.safetensors")
_THRESHOLD, _CONFIG = "activation_function.threshold", "config.yaml"
_HOOKS = {"hook_name": "feature_input_hook", "hook_name_out": "feature_output_hook"}
# The name that the replication of crosscoders for model diffing gives its weights.
CROSSCODER = "cc_weights.pt"
# Files of transcoders whose codes add to many layers.
CROSS_LAYER = re.compile(r"(W_enc_|W_dec_|params_layer_)\d+\.safetensors")


def load(config: Config, tensors: Tensors) -> Parts:
    """Reads a file by the tensors in it.

    A crosscoder without a cause reads activations of several layers, or models, and explains all of
    them: it is an SAE of them side by side, (n, layers · dim).

    Raises:
      ValueError: the file holds anything else.
    """
    path = tensors.path
    if CROSS_LAYER.fullmatch(path.name):
        raise ValueError(
            f"{path} is of a cross-layer transcoder, whose codes add to many layers; give a "
            "transcoder of one layer."
        )
    if "W_enc" not in tensors:
        return decoders.load(config, tensors)
    sizes = tensors.sizes("W_enc")
    if len(sizes) == 3 and all(sizes):
        return _crosscoder(tensors)
    layer = WEIGHTS.fullmatch(path.name)
    if layer is None:
        raise ValueError(
            f"{path} has a W_enc and no configuration, so that nothing tells its library; keep the "
            "names of its files, or give the arrays to SAE.from_arrays."
        )
    return _transcoder(tensors, layer[1])


def _transcoder(tensors: Tensors, layer: str) -> Parts:
    """A transcoder of circuit-tracer, whose matrices but W_dec are those of torch.nn.Linear."""
    (num_latents, read), path = tensors.shape("W_enc"), tensors.path.with_name(_CONFIG)
    input_dim = tensors.shape("W_dec")[1]
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    told: dict[str, Any] = dict(
        re.findall(r"^(\w+): *[\"']?(.*?)[\"']? *(?: #.*)?$", text, re.MULTILINE)
    )
    encoder, activation = "standard", told.get("activation", "relu")
    if activation not in ("relu", "jumprelu", "topk"):
        raise ValueError(
            f"{path} has the activation {activation!r}, but relu, jumprelu and topk are read; "
            "correct it there."
        )
    if _THRESHOLD in tensors:
        encoder = "jumprelu"
    elif "k" in tensors or activation == "topk":
        encoder, k = "topk", told.get("k", "")
        told["k"] = tensors.scalar("k") if "k" in tensors else int(k) if k.isdecimal() else k
    held = take(
        encoder,
        tensors,
        (read, num_latents, input_dim),
        names={"threshold": _THRESHOLD},
        linear=("W_enc", "W_skip"),
        skip="W_skip" in tensors,
    )
    tensors.finish("circuit-tracer")
    if encoder == "jumprelu" and held["threshold"].min() < 0:
        raise ValueError(
            f"{tensors.path} has thresholds below zero, above which circuit-tracer keeps negative "
            "codes; set them to zero for a JumpReLU."
        )
    notes = {"dtype on disk": tensors.dtypes()}
    if "model_name" in told:
        notes["model_name"] = told["model_name"]
    for ours, theirs in _HOOKS.items():
        if theirs in told:
            notes[ours] = f"blocks.{layer}.{told[theirs]}"
    return Parts(
        encoder,
        read_options(encoder, Config(path, told), num_latents, input_dim),
        held,
        library="circuit-tracer",
        architecture=encoder,
        notes=notes,
        transcodes=True,
    )


def _crosscoder(tensors: Tensors) -> Parts:
    layers, dim, num_latents = tensors.sizes("W_enc")
    held = {
        "W_enc": tensors.take("W_enc", layers, dim, num_latents).reshape(-1, num_latents),
        "W_dec": tensors.take("W_dec", num_latents, layers, dim).reshape(num_latents, -1),
        "b_dec": tensors.take("b_dec", layers, dim).reshape(-1),
    }
    encoder = "jumprelu" if "threshold" in tensors else "standard"
    held = take(encoder, tensors, (layers * dim, num_latents, layers * dim), known=held)
    tensors.finish("crosscoder")
    notes = {"dtype on disk": tensors.dtypes(), LAYERS: str(layers)}
    about: Any = {"architecture": "crosscoder", "notes": notes, "heads": True}
    return Parts(encoder, {}, held, library="crosscoder", **about)
