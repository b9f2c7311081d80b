"""SAEs that libraries publish: SAELens, a folder with `cfg.json` and `sae_weights.safetensors`, of
version 6 or earlier, dictionary_learning, sparsify, Gemma Scope, circuit-tracer and acausal
crosscoders. `find.read` notes the types of their tensors, and refuses those that no reader took.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from sae_gap.core import (
    PURSUIT,
    ConstantNorm,
    LayerNorm,
    Normalisation,
    Scale,
    Whitening,
)
from sae_gap.saes.parts import (
    ARCHITECTURES,
    FOREIGN,
    LAYERS,
    NOTED,
    TRANSCODERS,
    UNESTIMATED,
    Parts,
    read_options,
    take,
)
from sae_gap.storage import Config, Tensors, read_json, read_safetensors, version

# The files that the library writes.
WEIGHTS = "sae_weights.safetensors"
CONFIG = "cfg.json"
SCALER = "activation_scaler.json"
WHITENING = "activation_whitening.safetensors"
# The first version of SAELens whose configuration has this form.
_VERSION = "6.0.0"
# Today's names of entries of older configurations.
_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
_WITHOUT_STATISTICS = {
    str(kind.saelens): kind for kind in (Normalisation, LayerNorm, ConstantNorm)
}
_LINEAR = {
    "W_enc": "encoder.weight",
    "b_enc": "encoder.bias",
    "W_dec": "decoder.weight",
}
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
# circuit-tracer's names: of the transcoder of a layer, and of a threshold.
LAYER = re.compile(r"layer_(\d+)\.safetensors")
_THRESHOLD = "activation_function.threshold"
_HOOKS = {"hook_name": "feature_input_hook", "hook_name_out": "feature_output_hook"}
# Files of transcoders whose codes add to many layers.
CROSS_LAYER = re.compile(r"(W_enc_|W_dec_|params_layer_)\d+\.safetensors")


def saelens(config: Config, tensors: Tensors) -> Parts:
    """Reads an SAE that SAELens wrote, exported or as a checkpoint of its training, whose scaler
    may lie beside the configuration.

    BatchTopK and Matryoshka checkpoints infer with their `topk_threshold`, as SAELens exports them.

    Raises:
      ValueError: a file cannot be read, or holds an SAE of an unknown kind.
    """
    config = _current(config)
    metadata = config.part("metadata")
    architecture = config.choice(
        "architecture",
        "standard",
        (
            *(name for name in ARCHITECTURES if name not in FOREIGN),
            *_BATCH_TOPK,
            *TRANSCODERS,
        ),
    )
    transcodes = architecture in TRANSCODERS
    if not transcodes and ("d_out" in config or "hook_name_out" in metadata):
        raise ValueError(
            f"{config.path} describes a transcoder, but its architecture is {architecture}; set it "
            f"to one of {', '.join(TRANSCODERS)}."
        )
    encoder, skip = TRANSCODERS.get(architecture, (architecture, False))
    if encoder == "standard" and config.entries.get("k") is not None:
        raise ValueError(
            f"{config.path} has a k, but its architecture is {architecture}, a ReLU without one; "
            "set architecture to topk, or remove k."
        )
    read = config.size("d_in")
    num_latents = config.size("d_sae")
    input_dim = config.size("d_out") if transcodes else read
    heads = config.choice("reshape_activations", "none", ("none", "hook_z")) == "hook_z"
    centred = config.flag("apply_b_dec_to_input", not transcodes)
    if transcodes and centred:
        raise ValueError(
            f"{config.path} subtracts a transcoder's b_dec from another activation than it belongs "
            "to; set apply_b_dec_to_input to false."
        )
    told = Config(config.path, config.entries | metadata.entries)
    notes = {"normalize_activations": config.text("normalize_activations", "none")}
    notes |= told.texts(*NOTED, "sae_lens_version")
    notes["apply_b_dec_to_input"] = str(centred)

    rescaled = False
    if "topk" in architecture:
        rescaled = config.flag("rescale_acts_by_decoder_norm", False)
        notes["rescale_acts_by_decoder_norm"] = str(rescaled)
    known: dict[str, Any] = {}
    if architecture in _BATCH_TOPK:
        encoder = "jumprelu"
        known["threshold"] = tensors.scalar("topk_threshold")
        if known["threshold"] == 0:
            notes["caution"] = UNESTIMATED
    elif architecture == "jumprelu" and "log_threshold" in tensors:
        known["threshold"] = np.exp(tensors.take("log_threshold", num_latents))
    elif architecture == PURSUIT and config.flag("pruned", False):
        known["threshold"] = tensors.scalar("threshold")
    options = read_options(encoder, config, num_latents, input_dim)
    held = take(
        encoder,
        tensors,
        (read, num_latents, input_dim),
        linear=("W_skip",),
        known=known,
        skip=skip,
    )
    if "W_enc" not in held and not centred:
        # Matching pursuit adds its bias only if it subtracted it.
        held["b_dec"] = np.zeros(input_dim, np.float32)
    if "scaling_factor" in tensors:
        # Of the codes of an older SAE, before it decodes them.
        factors = tensors.take("scaling_factor", num_latents)
        if config.flag("finetuning_scaling_factor", False):
            held["W_dec"] = held["W_dec"] * factors[:, None]
        elif not np.allclose(factors, 1):
            raise ValueError(
                f"{tensors.path} has a scaling_factor that {config.path} does not use; set "
                "finetuning_scaling_factor to true, or remove the tensor."
            )
    normalisation = _normalisation(config, input_dim, notes)
    if transcodes and type(normalisation) is not Normalisation:
        raise ValueError(
            f"{config.path} normalises what a transcoder reads by {normalisation.name}; set "
            "normalize_activations to none, and give its inputs normalised."
        )
    return Parts(
        encoder,
        options,
        held,
        "SAELens",
        architecture,
        notes,
        centred=centred,
        codes_of_unit_atoms=rescaled,
        normalisation=normalisation,
        heads=heads,
        metadata=metadata.entries,
        transcodes=transcodes,
    )


def written(
    entries: Mapping[str, Any], tensors: Mapping[str, Any], metadata: Mapping[str, Any]
) -> dict[str, bytes]:
    """The files of an SAE by their names; the configuration comes last, since without it readers
    find nothing.

    Args:
      entries: entries of the configuration.
      tensors: tensors by SAELens's names.
      metadata: further entries of the configuration; none of them replaces a version.

    Raises:
      ValueError: a weight is not finite.
    """
    arrays = {
        name: np.array(value, np.float32, order="C") for name, value in tensors.items()
    }
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(
                f"{name} has NaN or infinite entries; train the model again before it is saved."
            )
    versions = {"sae_lens_version": _VERSION, "sae_gap_version": version("sae_gap")}
    config = {**entries, "metadata": versions | dict(metadata) | versions}
    text = json.dumps(config, indent=1, allow_nan=False)
    return {WEIGHTS: save(arrays), CONFIG: f"{text}\n".encode()}


def _current(config):
    """A configuration in the form of version 6."""
    told = config.part("metadata").entries | config.entries
    major = str(told.get("sae_lens_version")).split(".")[0]
    if major.isdecimal() and int(major) >= 6:
        return config
    entries = {
        _RENAMED.get(name, name): value for name, value in config.entries.items()
    }
    old = Config(config.path, entries)
    if old.choice("activation_fn", "relu", ("relu", "topk")) == "topk":
        entries |= {
            "architecture": "topk",
            "k": old.part("activation_fn_kwargs").size("k"),
        }
    if isinstance(entries.get("normalize_activations"), bool):
        entries["normalize_activations"] = (
            "expected_average_only_in" if entries["normalize_activations"] else "none"
        )
    if entries.get("reshape_activations") is None:
        entries["reshape_activations"] = (
            "hook_z" if "hook_z" in old.text("hook_name", "") else "none"
        )
    return Config(config.path, entries)


def _normalisation(config, input_dim, notes):
    name = config.choice(
        "normalize_activations",
        "none",
        (*_WITHOUT_STATISTICS, "expected_average_only_in", "covariance_whitening"),
    )
    if name in _WITHOUT_STATISTICS:
        return _WITHOUT_STATISTICS[name]()
    scaler = config.path.with_name(SCALER)
    whitening = config.path.with_name(WHITENING)
    if name == "expected_average_only_in":
        config = Config(scaler, read_json(scaler) if scaler.exists() else {})
        if "scaling_factor" in config:
            return Scale(config.number("scaling_factor", above=0))
        notes["caution"] = (
            f"it expects activations scaled to a mean norm of {input_dim**0.5:.4g}, and has no "
            "factor for it"
        )
    elif whitening.exists():
        tensors = read_safetensors(whitening)
        square = (input_dim, input_dim)
        shapes = {"mean": (input_dim,), "matrix": square, "inverse_matrix": square}
        return Whitening(
            *(
                tensors.take(part, *shape).astype(np.float32)
                for part, shape in shapes.items()
            )
        )
    else:
        notes["caution"] = (
            "it expects whitened activations, and has no statistics for it"
        )
    return Normalisation()


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
    notes = config.texts("lm_name", "layer", "submodule_name", "norm_factor")
    shape = tensors.shape(names.get("W_enc", "W_enc"))
    input_dim, num_latents = shape[::-1] if names else shape
    options: dict[str, Any] = {}
    known: dict[str, float] = {}
    if "TopK" in kind:
        source = (
            Config(tensors.path, {"k": tensors.scalar("k")})
            if "k" in tensors
            else config
        )
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
            encoder = "batch_largest"
            options["k"] = k
            notes["caution"] = (
                "it has no threshold, so it keeps the largest codes of all samples at hand, k for "
                "each on average"
            )
    held = take(
        encoder,
        tensors,
        (input_dim, num_latents, input_dim),
        names=names,
        linear=("W_enc", "W_dec") * bool(names),
        known=known,
    )
    return Parts(
        encoder,
        options,
        held,
        "dictionary_learning",
        kind,
        notes,
        centred=centred,
        codes_of_unit_atoms=kind == "AutoEncoder",
    )


def sparsify(config: Config, tensors: Tensors) -> Parts:
    """The SAE or the transcoder of one hookpoint.

    Raises:
      ValueError: the files do not fit.
    """
    transcodes = config.flag("transcode", False)
    input_dim = config.size("d_in")
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
    skip = config.flag("skip_connection", False) or "W_skip" in tensors
    if skip and not transcodes:
        raise ValueError(
            f"{config.path} describes an SAE with a skip (W_skip); set transcode or drop it."
        )
    held = take(
        encoder,
        tensors,
        (input_dim, num_latents, input_dim),
        names={"W_enc": "encoder.weight", "b_enc": "encoder.bias"},
        linear=("W_enc", "W_skip"),
        skip=skip,
    )
    notes = {"hookpoint": config.path.parent.resolve().name, "k": str(k)}
    return Parts(
        encoder,
        {"k": k},
        held,
        "sparsify",
        encoder,
        notes,
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
    if part := next(filter(_OTHERS.search, folders), ""):
        raise ValueError(
            f"{tensors.path} lies in {part}, whose weights are of several layers; give an SAE or a "
            "transcoder of one."
        )
    second = "w_enc" in tensors
    config.choice("architecture", "jump_relu", ("jump_relu",))
    called = config.choice("type", "sae", ("sae", "transcoder")) == "transcoder"
    source, aim = (config.text(f"hf_hook_point_{side}", "") for side in ("in", "out"))
    skip = config.flag("affine_connection", False) or _SKIP in tensors
    lies_there = any(map(_TRANSCODERS.search, folders))
    transcodes = skip or lies_there or called or bool(aim and source != aim)
    names = {"W_enc": "w_enc", "W_dec": "w_dec", "W_skip": _SKIP} if second else {}
    read, num_latents = tensors.shape(names.get("W_enc", "W_enc"))
    input_dim = tensors.shape(names.get("W_dec", "W_dec"))[1]
    held = take(
        "jumprelu", tensors, (read, num_latents, input_dim), names=names, skip=skip
    )
    notes = {
        "release": "2" if second else "1",
        "hook_name": source,
        "hook_name_out": aim if transcodes else "",
        "model_name": config.text("model_name", ""),
    }
    notes = {name: value for name, value in notes.items() if value}
    return Parts(
        "jumprelu", {}, held, "Gemma Scope", "jumprelu", notes, transcodes=transcodes
    )


def circuit_tracer(tensors, layer):
    """A transcoder of circuit-tracer, whose matrices but W_dec are those of torch.nn.Linear."""
    (num_latents, read) = tensors.shape("W_enc")
    path = tensors.path.with_name("config.yaml")
    input_dim = tensors.shape("W_dec")[1]
    text = path.read_text("utf-8", "replace") if path.is_file() else ""
    told: dict[str, Any] = dict(
        re.findall(r"^(\w+): *[\"']?(.*?)[\"']? *(?: #.*)?$", text, re.MULTILINE)
    )
    activation = Config(path, told).choice(
        "activation", "relu", ("relu", "jumprelu", "topk")
    )
    encoder = "standard"
    if _THRESHOLD in tensors:
        encoder = "jumprelu"
    elif "k" in tensors or activation == "topk":
        encoder = "topk"
        k = told.get("k", "")
        told["k"] = (
            tensors.scalar("k") if "k" in tensors else int(k) if k.isdecimal() else k
        )
    held = take(
        encoder,
        tensors,
        (read, num_latents, input_dim),
        names={"threshold": _THRESHOLD},
        linear=("W_enc", "W_skip"),
        skip="W_skip" in tensors,
    )
    if encoder == "jumprelu" and held["threshold"].min() < 0:
        raise ValueError(
            f"{tensors.path} has thresholds below zero, above which circuit-tracer keeps negative "
            "codes; set them to zero for a JumpReLU."
        )
    notes = Config(path, told).texts("model_name")
    for ours, theirs in _HOOKS.items():
        if theirs in told:
            notes[ours] = f"blocks.{layer}.{told[theirs]}"
    options = read_options(encoder, Config(path, told), num_latents, input_dim)
    return Parts(
        encoder, options, held, "circuit-tracer", encoder, notes, transcodes=True
    )


def crosscoder(tensors, sizes):
    """A crosscoder without a cause, which reads activations of several layers, or models, and
    explains all of them: an SAE of them side by side, (n, layers · dim).
    """
    layers, dim, num_latents = sizes
    held = {
        "W_enc": tensors.take("W_enc", layers, dim, num_latents).reshape(
            -1, num_latents
        ),
        "W_dec": tensors.take("W_dec", num_latents, layers, dim).reshape(
            num_latents, -1
        ),
        "b_dec": tensors.take("b_dec", layers, dim).reshape(-1),
    }
    encoder = "jumprelu" if "threshold" in tensors else "standard"
    held = take(encoder, tensors, (layers * dim, num_latents, layers * dim), known=held)
    notes = {LAYERS: str(layers)}
    return Parts(encoder, {}, held, "crosscoder", "crosscoder", notes, heads=True)
