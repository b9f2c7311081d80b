"""Reads SAEs that libraries other than SAELens publish: dictionary_learning, sparsify, Gemma Scope,
circuit-tracer and acausal crosscoders. `readers.read` notes the types of their tensors, and refuses
those that no reader took. No JAX is loaded.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sae_gap.saes.parts import LAYERS, UNESTIMATED, Parts, Sizes, read_options, take
from sae_gap.storage import Config, Tensors


class _Class(NamedTuple):
    """A class of dictionary_learning.

    Attributes:
      encoder: its row in `ARCHITECTURES`.
      names: its names of tensors by ours where they differ; its weights are then those of linear
        layers.
      centred: whether its encoder subtracts the decoder's bias.
    """

    encoder: str
    names: Mapping[str, str]
    centred: bool


_LINEAR = {
    "W_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    "W_dec": "decoder.weight",
}
_GATED = {"b_dec": "decoder_bias", "b_gate": "gate_bias", "b_mag": "mag_bias"}
_CLASSES = {
    "AutoEncoder": _Class("standard", _LINEAR | {"b_dec": "bias"}, True),
    "AutoEncoderNew": _Class("standard", _LINEAR | {"b_dec": "decoder.bias"}, False),
    "AutoEncoderTopK": _Class("topk", _LINEAR, True),
    "BatchTopKSAE": _Class("jumprelu", _LINEAR, True),
    "MatryoshkaBatchTopKSAE": _Class("jumprelu", {}, True),
    "JumpReluAutoEncoder": _Class("jumprelu", {}, False),
    "GatedAutoEncoder": _Class("gated", _LINEAR | _GATED, True),
}
# Gemma Scope's folders of transcoders of its two releases, and of what reads or explains several
# layers.
_TRANSCODERS = re.compile(r"gemma-scope.*transcoder|^transcoder(_all)?$")
_OTHERS = re.compile(r"^(crosscoder|clt)(_all)?$")
_SKIP = "affine_skip_connection"
# circuit-tracer's names: of the transcoder of a layer, and of a threshold.
LAYER = re.compile(r"layer_(\d+)\.safetensors")
_THRESHOLD = "activation_function.threshold"
_HOOKS = {"hook_name": "feature_input_hook", "hook_name_out": "feature_output_hook"}
# Files of transcoders whose codes add to many layers.
CROSS_LAYER = re.compile(r"(W_enc_|W_dec_|params_layer_)\d+\.safetensors")


def dictionary_learning(config: Config, tensors: Tensors) -> Parts:
    """The SAE in a file that dictionary_learning saved, final or during training.

    The atoms of an `AutoEncoder` get unit length, as in that library; those of the others stay
    unchanged.

    Raises:
      ValueError: the files do not fit, or hold an SAE of an unknown kind.
    """
    config = config.part("trainer")
    architecture = config.choice("dict_class", "", _CLASSES)
    encoder, names, centred = _CLASSES[architecture]
    input_dim, num_latents = tensors.shape(names.get("W_enc", "W_enc"))
    if names:
        input_dim, num_latents = num_latents, input_dim
    notes = config.texts("lm_name", "layer", "submodule_name", "norm_factor")
    options = {}
    known = {}
    if "TopK" in architecture:
        if "k" in tensors:
            config = Config(tensors.path, {"k": tensors.scalar("k")})
        k = config.size("k", most=num_latents)
        notes["k"] = str(k)
        tensors.ignore("group_sizes")
        if architecture == "AutoEncoderTopK":
            # The library uses it in another, non-default mode of inference.
            tensors.ignore("threshold")
        elif "threshold" in tensors:
            known["threshold"] = _noted_threshold(tensors, notes)
        else:
            encoder = "batch_largest"
            notes["caution"] = (
                "it has no threshold, so it keeps the largest codes of all samples at hand, k for "
                "each on average"
            )
        if not known:
            options["k"] = k
    held = take(
        encoder,
        tensors,
        Sizes(input_dim, num_latents, input_dim),
        names=names,
        linear=("W_enc", "W_dec") if names else (),
        known=known,
    )
    return Parts(
        encoder,
        options,
        held,
        "dictionary_learning",
        architecture,
        notes,
        centred=centred,
        codes_of_unit_atoms=architecture == "AutoEncoder",
    )


def _noted_threshold(tensors: Tensors, notes: dict[str, str]) -> float:
    """The threshold of all latents, which notes tell."""
    threshold = tensors.scalar("threshold")
    notes["threshold"] = f"{threshold:.4g}"
    if threshold < 0:
        notes["caution"] = UNESTIMATED
    return threshold


def sparsify(config: Config, tensors: Tensors) -> Parts:
    """The SAE or the transcoder of one hookpoint.

    Raises:
      ValueError: the files do not fit.
    """
    path = config.path
    transcodes = config.flag("transcode", False)
    input_dim = config.size("d_in")
    # A width of 0 means a multiple of the dimensions.
    num_latents = config.size("num_latents", 0, least=0)
    if not num_latents:
        num_latents = input_dim * config.size("expansion_factor", 32)
    k = config.size("k", 32, most=num_latents)
    encoder = config.choice("activation", "topk", ("topk", "groupmax"))
    # An older option: rank by magnitude.
    signed = config.flag("signed", False)
    if encoder == "groupmax" and (signed or num_latents % k):
        raise ValueError(
            f"{path} has {num_latents} latents, which make no {k} groups of unsigned codes; "
            "correct k or signed."
        )
    if signed:
        encoder = "abstopk"
    skip = config.flag("skip_connection", False) or "W_skip" in tensors
    if skip and not transcodes:
        raise ValueError(
            f"{path} describes an SAE with a skip (W_skip); set transcode or drop it."
        )
    held = take(
        encoder,
        tensors,
        Sizes(input_dim, num_latents, input_dim),
        names={"W_enc": "encoder.weight", "b_enc": "encoder.bias"},
        linear=("W_enc", "W_skip"),
        skip=skip,
    )
    return Parts(
        encoder,
        {"k": k},
        held,
        "sparsify",
        encoder,
        {"hookpoint": path.parent.resolve().name, "k": str(k)},
        centred=True,
        transcodes=transcodes,
    )


def gemma_scope(config: Config, tensors: Tensors) -> Parts:
    """A JumpReLU SAE or transcoder of either release, which takes activations without
    normalisation. A skip is `x W`.

    The second release has a configuration; in the first only the folders' names tell an SAE from a
    transcoder.

    Raises:
      ValueError: the files do not fit, or are of several layers.
    """
    folders = tensors.path.absolute().parts[:-1]
    for folder in folders:
        if _OTHERS.search(folder):
            raise ValueError(
                f"{tensors.path} lies in {folder}, whose weights are of several layers; give an "
                "SAE or a transcoder of one."
            )
    config.choice("architecture", "jump_relu", ("jump_relu",))
    kind = config.choice("type", "sae", ("sae", "transcoder"))
    source = config.text("hf_hook_point_in", "")
    aim = config.text("hf_hook_point_out", "")
    skip = config.flag("affine_connection", False) or _SKIP in tensors
    transcodes = skip or kind == "transcoder" or aim not in ("", source)
    if any(map(_TRANSCODERS.search, folders)):
        transcodes = True
    notes = {"release": "1"}
    names = {}
    if "w_enc" in tensors:
        notes["release"] = "2"
        names = {"W_enc": "w_enc", "W_dec": "w_dec", "W_skip": _SKIP}
    num_inputs, num_latents = tensors.shape(names.get("W_enc", "W_enc"))
    input_dim = tensors.shape(names.get("W_dec", "W_dec"))[1]
    sizes = Sizes(num_inputs, num_latents, input_dim)
    if source:
        notes["hook_name"] = source
    if aim and transcodes:
        notes["hook_name_out"] = aim
    notes |= config.texts("model_name")
    return Parts(
        "jumprelu",
        {},
        take("jumprelu", tensors, sizes, names=names, skip=skip),
        "Gemma Scope",
        "jumprelu",
        notes,
        transcodes=transcodes,
    )


def circuit_tracer(tensors: Tensors, layer: str) -> Parts:
    """A transcoder of circuit-tracer, whose matrices but W_dec are those of torch.nn.Linear."""
    num_latents, num_inputs = tensors.shape("W_enc")
    sizes = Sizes(num_inputs, num_latents, tensors.shape("W_dec")[1])
    config = _plain_yaml(tensors.path.with_name("config.yaml"))
    activation = config.choice("activation", "relu", ("relu", "jumprelu", "topk"))
    encoder = "standard"
    if _THRESHOLD in tensors:
        encoder = "jumprelu"
    elif "k" in tensors or activation == "topk":
        encoder = "topk"
        k = config.entries.get("k", "")
        if "k" in tensors:
            config.entries["k"] = tensors.scalar("k")
        elif k.isdecimal():
            config.entries["k"] = int(k)
    held = take(
        encoder,
        tensors,
        sizes,
        names={"threshold": _THRESHOLD},
        linear=("W_enc", "W_skip"),
        skip="W_skip" in tensors,
    )
    if encoder == "jumprelu" and held["threshold"].min() < 0:
        raise ValueError(
            f"{tensors.path} has thresholds below zero, above which circuit-tracer keeps negative "
            "codes; set them to zero for a JumpReLU."
        )
    notes = config.texts("model_name")
    for ours, theirs in _HOOKS.items():
        if theirs in config.entries:
            notes[ours] = f"blocks.{layer}.{config.entries[theirs]}"
    return Parts(
        encoder,
        read_options(encoder, config, sizes),
        held,
        "circuit-tracer",
        encoder,
        notes,
        transcodes=True,
    )


def _plain_yaml(path: Path) -> Config:
    """The entries of a YAML file that are texts on a line of their own; none if it is missing."""
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    line = r"^(\w+): *[\"']?(.*?)[\"']? *(?: #.*)?$"
    entries: Any = re.findall(line, text, re.MULTILINE)
    return Config(path, dict(entries))


def crosscoder(tensors: Tensors, layers: int, dim: int, num_latents: int) -> Parts:
    """A crosscoder without a cause, which reads activations of several layers, or models, and
    explains all of them: an SAE of them side by side, (n, layers · dim).
    """
    width = layers * dim
    known = {
        "W_enc": tensors.take("W_enc", layers, dim, num_latents).reshape(width, -1),
        "W_dec": tensors.take("W_dec", num_latents, layers, dim).reshape(-1, width),
        "b_dec": tensors.take("b_dec", layers, dim).reshape(width),
    }
    encoder = "jumprelu" if "threshold" in tensors else "standard"
    return Parts(
        encoder,
        {},
        take(encoder, tensors, Sizes(width, num_latents, width), known=known),
        "crosscoder",
        "crosscoder",
        {LAYERS: str(layers)},
        heads=True,
    )
