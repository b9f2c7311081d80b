"""SAEs that other libraries than SAELens publish: dictionary_learning, sparsify, Gemma Scope,
circuit-tracer and acausal crosscoders. `find.read` notes the types of their tensors, and refuses
those that no reader took.
"""

import re
from typing import Any

from sae_gap.saes import own
from sae_gap.saes.parts import LAYERS, UNESTIMATED, Parts, read_options, take
from sae_gap.storage import Config, Tensors

_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
_GATED = {"b_dec": "decoder_bias", "b_gate": "gate_bias", "b_mag": "mag_bias"}
# By the class of dictionary_learning: the architecture; its names by ours where they differ, whose
# weights are then those of linear layers; and whether its encoder subtracts the decoder's bias.
_CLASSES = {
    "AutoEncoder": ("standard", _LINEAR | {"b_dec": "bias"}, True),
    "AutoEncoderNew": ("standard", _LINEAR | {"b_dec": "decoder.bias"}, False),
    "AutoEncoderTopK": ("topk", _LINEAR, True),
    "BatchTopKSAE": ("jumprelu", _LINEAR, True),
    "MatryoshkaBatchTopKSAE": ("jumprelu", {}, True),
    "JumpReluAutoEncoder": ("jumprelu", {}, False),
    "GatedAutoEncoder": ("gated", _LINEAR | _GATED, True),
}
# Gemma Scope's folders of transcoders of its two releases, and of what reads or explains several
# layers.
_TRANSCODERS = re.compile(r"gemma-scope.*transcoder|^transcoder(_all)?$")
_OTHERS = re.compile(r"^(crosscoder|clt)(_all)?$")
_SKIP = "affine_skip_connection"
# circuit-tracer's names: of the transcoder of a layer, of a threshold, and of the configuration of
# all layers.
LAYER = re.compile(r"layer_(\d+)\.safetensors")
_THRESHOLD, _CONFIG = "activation_function.threshold", "config.yaml"
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
    kind = config.choice("dict_class", "", _CLASSES)
    encoder, names, centred = _CLASSES[kind]
    notes = {
        name: str(config.entries[name])
        for name in ("lm_name", "layer", "submodule_name", "norm_factor")
        if name in config
    }
    shape = tensors.shape(names.get("W_enc", "W_enc"))
    input_dim, num_latents = shape[::-1] if names else shape
    options, known = dict[str, Any](), dict[str, float]()
    if "TopK" in kind:
        source = Config(tensors.path, {"k": tensors.scalar("k")}) if "k" in tensors else config
        k = source.size("k", most=num_latents)
        notes["k"] = str(k)
        tensors.ignore("group_sizes")
        if kind == "AutoEncoderTopK":
            # The library uses it in another, non-default mode of inference.
            tensors.ignore("threshold")
            options["k"] = k
        elif "threshold" in tensors:
            known["threshold"] = threshold = tensors.scalar("threshold")
            notes["threshold"] = f"{threshold:.4g}"
            if threshold < 0:
                notes["caution"] = UNESTIMATED
        else:
            encoder, options["k"] = "batch_largest", k
            notes["caution"] = (
                "it has no threshold, so it keeps the largest codes of all samples at hand, k for "
                "each on average"
            )
    sizes, turned = (input_dim, num_latents, input_dim), ("W_enc", "W_dec") * bool(names)
    held = take(encoder, tensors, sizes, names=names, linear=turned, known=known)
    whole = encoder, options, held, "dictionary_learning", kind, notes
    return Parts(*whole, centred=centred, codes_of_unit_atoms=kind == "AutoEncoder")


def sparsify(config: Config, tensors: Tensors) -> Parts:
    """The SAE or the transcoder of one hookpoint.

    Raises:
      ValueError: the files do not fit.
    """
    transcodes, input_dim = config.flag("transcode", False), config.size("d_in")
    # A width of 0 means a multiple of the dimensions.
    num_latents = config.size("num_latents", 0, least=0) or input_dim * config.size(
        "expansion_factor", 32
    )
    k = config.size("k", 32, most=num_latents)
    encoder = config.choice("activation", "topk", ("topk", "groupmax"))
    # An older option: rank by magnitude.
    signed = config.flag("signed", False)
    if encoder == "groupmax" and (signed or num_latents % k):
        raise ValueError(
            f"{config.path} has {num_latents} latents, which make no {k} groups of unsigned codes; "
            "correct k or signed."
        )
    encoder = "abstopk" if signed else encoder
    names = {"W_enc": "encoder.weight", "b_enc": "encoder.bias"}
    skip = config.flag("skip_connection", False) or "W_skip" in tensors
    if skip and not transcodes:
        raise ValueError(
            f"{config.path} describes an SAE with a skip (W_skip); set transcode or drop it."
        )
    sizes, turned = (input_dim, num_latents, input_dim), ("W_enc", "W_skip")
    held = take(encoder, tensors, sizes, names=names, linear=turned, skip=skip)
    notes = {"hookpoint": config.path.parent.resolve().name, "k": str(k)}
    whole = encoder, {"k": k}, held, "sparsify", encoder, notes
    return Parts(*whole, centred=True, transcodes=transcodes)


def gemma_scope(config: Config, tensors: Tensors) -> Parts:
    """A JumpReLU SAE or transcoder of either release, which takes activations without
    normalisation. A skip is `x W`.

    The second release has a configuration; in the first only the folders' names tell an SAE from a
    transcoder.

    Raises:
      ValueError: the files do not fit, or are of several layers.
    """
    folders = tensors.path.absolute().parts[:-1]
    if part := next(filter(_OTHERS.search, folders), ""):
        raise ValueError(
            f"{tensors.path} lies in {part}, whose weights are of several layers; give an SAE or a "
            "transcoder of one."
        )
    second = "w_enc" in tensors
    encoder = "jumprelu"
    config.choice("architecture", "jump_relu", ("jump_relu",))
    kind = config.choice("type", "sae", ("sae", "transcoder"))
    source, aim = (config.text(f"hf_hook_point_{side}", "") for side in ("in", "out"))
    skip = config.flag("affine_connection", False) or _SKIP in tensors
    told = any(map(_TRANSCODERS.search, folders))
    transcodes = skip or told or kind == "transcoder" or bool(aim and source != aim)
    names = {"W_enc": "w_enc", "W_dec": "w_dec", "W_skip": _SKIP} if second else {}
    read, num_latents = tensors.shape(names.get("W_enc", "W_enc"))
    sizes = read, num_latents, tensors.shape(names.get("W_dec", "W_dec"))[1]
    held = take(encoder, tensors, sizes, names=names, skip=skip)
    notes = {
        "release": "2" if second else "1",
        "hook_name": source,
        "hook_name_out": aim if transcodes else "",
        "model_name": config.text("model_name", ""),
    }
    notes = {name: value for name, value in notes.items() if value}
    return Parts(encoder, {}, held, "Gemma Scope", encoder, notes, transcodes=transcodes)


def one_file(config: Config, tensors: Tensors) -> Parts:
    """What lies in one file without a configuration, by the tensors in it: a transcoder of
    circuit-tracer, an acausal crosscoder, and else a bare decoder.

    Raises:
      ValueError: the file holds anything else.
    """
    path, sizes = tensors.path, tensors.sizes("W_enc") if "W_enc" in tensors else ()
    layer = LAYER.fullmatch(path.name)
    if CROSS_LAYER.fullmatch(path.name):
        raise ValueError(
            f"{path} is of a cross-layer transcoder, whose codes add to many layers; give a "
            "transcoder of one layer."
        )
    if "W_enc" not in tensors:
        return own.decoder(config, tensors)
    if len(sizes) == 3 and all(sizes):
        return _crosscoder(tensors, sizes)
    if layer is None:
        raise ValueError(
            f"{path} has a W_enc and no configuration, so that nothing tells its library; keep the "
            "names of its files, or give the arrays to SAE.from_arrays."
        )
    return _circuit_tracer(tensors, layer[1])


def _circuit_tracer(tensors, layer):
    """A transcoder of circuit-tracer, whose matrices but W_dec are those of torch.nn.Linear."""
    (num_latents, read), path = tensors.shape("W_enc"), tensors.path.with_name(_CONFIG)
    input_dim = tensors.shape("W_dec")[1]
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    told: dict[str, Any] = dict(
        re.findall(r"^(\w+): *[\"']?(.*?)[\"']? *(?: #.*)?$", text, re.MULTILINE)
    )
    activation = Config(path, told).choice("activation", "relu", ("relu", "jumprelu", "topk"))
    encoder = "standard"
    if _THRESHOLD in tensors:
        encoder = "jumprelu"
    elif "k" in tensors or activation == "topk":
        encoder, k = "topk", told.get("k", "")
        told["k"] = tensors.scalar("k") if "k" in tensors else int(k) if k.isdecimal() else k
    sizes, turned = (read, num_latents, input_dim), ("W_enc", "W_skip")
    names, skip = {"threshold": _THRESHOLD}, "W_skip" in tensors
    held = take(encoder, tensors, sizes, names=names, linear=turned, skip=skip)
    if encoder == "jumprelu" and held["threshold"].min() < 0:
        raise ValueError(
            f"{tensors.path} has thresholds below zero, above which circuit-tracer keeps negative "
            "codes; set them to zero for a JumpReLU."
        )
    notes = {"model_name": told["model_name"]} if "model_name" in told else {}
    for ours, theirs in _HOOKS.items():
        if theirs in told:
            notes[ours] = f"blocks.{layer}.{told[theirs]}"
    options = read_options(encoder, Config(path, told), num_latents, input_dim)
    return Parts(encoder, options, held, "circuit-tracer", encoder, notes, transcodes=True)


def _crosscoder(tensors, sizes):
    """A crosscoder without a cause, which reads activations of several layers, or models, and
    explains all of them: an SAE of them side by side, (n, layers · dim).
    """
    layers, dim, num_latents = sizes
    held = {
        "W_enc": tensors.take("W_enc", layers, dim, num_latents).reshape(-1, num_latents),
        "W_dec": tensors.take("W_dec", num_latents, layers, dim).reshape(num_latents, -1),
        "b_dec": tensors.take("b_dec", layers, dim).reshape(-1),
    }
    encoder = "jumprelu" if "threshold" in tensors else "standard"
    held = take(encoder, tensors, (layers * dim, num_latents, layers * dim), known=held)
    kind, notes = "crosscoder", {LAYERS: str(layers)}
    return Parts(encoder, {}, held, kind, kind, notes, heads=True)
