"""SAEs of SAELens: a folder with `cfg.json` and `sae_weights.safetensors`, of version 6 or
earlier.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import save

from sae_gap.core import PURSUIT, ConstantNorm, LayerNorm, Normalisation, Scale, Whitening
from sae_gap.saes.parts import (
    ARCHITECTURES,
    FOREIGN,
    NOTED,
    TRANSCODERS,
    UNESTIMATED,
    Parts,
    read_options,
    take,
)
from sae_gap.storage import Config, Tensors, read_json, read_safetensors, version

# The files that the library writes.
WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
# The first version of SAELens whose configuration has this form.
_VERSION = "6.0.0"
# Today's names of entries of older configurations.
_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
_KNOWN = (
    *(name for name in ARCHITECTURES if name not in FOREIGN),
    *_BATCH_TOPK,
    *TRANSCODERS,
)
_WITHOUT_STATISTICS = {str(kind.saelens): kind for kind in (Normalisation, LayerNorm, ConstantNorm)}
_NORMALISATIONS = (*_WITHOUT_STATISTICS, "expected_average_only_in", "covariance_whitening")


def load(config: Config, tensors: Tensors) -> Parts:
    """Reads an SAE that SAELens wrote, exported or as a checkpoint of its training, whose scaler
    may lie beside the configuration.

    BatchTopK and Matryoshka checkpoints infer with their `topk_threshold`, as SAELens exports them.

    Raises:
      ValueError: a file cannot be read, or holds an SAE of an unknown kind.
    """
    config, folder = _current(config), config.path.parent
    metadata = config.part("metadata")
    architecture = config.choice("architecture", "standard", _KNOWN)
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
    read, num_latents = config.size("d_in"), config.size("d_sae")
    input_dim = config.size("d_out") if transcodes else read
    heads = config.choice("reshape_activations", "none", ("none", "hook_z")) == "hook_z"
    centred = config.flag("apply_b_dec_to_input", not transcodes)
    if transcodes and centred:
        raise ValueError(
            f"{config.path} subtracts a transcoder's b_dec from another activation than it belongs "
            "to; set apply_b_dec_to_input to false."
        )
    told = config.entries | metadata.entries
    notes = {"normalize_activations": config.text("normalize_activations", "none")}
    notes |= {
        name: str(told[name]) for name in (*NOTED, "sae_lens_version") if told.get(name) is not None
    }
    notes["apply_b_dec_to_input"] = str(centred)

    rescaled = "topk" in architecture and config.flag("rescale_acts_by_decoder_norm", False)
    if "topk" in architecture:
        notes["rescale_acts_by_decoder_norm"] = str(rescaled)
    if architecture in _BATCH_TOPK:
        encoder = "jumprelu"
    options = read_options(encoder, config, num_latents, input_dim)
    known = dict[str, Any]()
    if architecture in _BATCH_TOPK:
        known["threshold"] = tensors.scalar("topk_threshold")
        if known["threshold"] == 0:
            notes["caution"] = UNESTIMATED
    elif architecture == "jumprelu" and "log_threshold" in tensors:
        known["threshold"] = np.exp(tensors.take("log_threshold", num_latents))
    elif architecture == PURSUIT and config.flag("pruned", False):
        known["threshold"] = tensors.scalar("threshold")
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
    normalisation = _normalisation(config, folder, input_dim, notes)
    if transcodes and type(normalisation) is not Normalisation:
        raise ValueError(
            f"{config.path} normalises what a transcoder reads by {normalisation.name}; set "
            "normalize_activations to none, and give its inputs normalised."
        )
    whole = encoder, options, held, "SAELens", architecture, notes
    return Parts(
        *whole,
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
    arrays = {name: np.array(value, np.float32, order="C") for name, value in tensors.items()}
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
    entries = {_RENAMED.get(name, name): value for name, value in config.entries.items()}
    old = Config(config.path, entries)
    if old.choice("activation_fn", "relu", ("relu", "topk")) == "topk":
        entries |= {"architecture": "topk", "k": old.part("activation_fn_kwargs").size("k")}
    if isinstance(entries.get("normalize_activations"), bool):
        entries["normalize_activations"] = (
            "expected_average_only_in" if entries["normalize_activations"] else "none"
        )
    if entries.get("reshape_activations") is None:
        entries["reshape_activations"] = (
            "hook_z" if "hook_z" in old.text("hook_name", "") else "none"
        )
    return Config(config.path, entries)


def _normalisation(config, folder, input_dim, notes):
    name = config.choice("normalize_activations", "none", _NORMALISATIONS)
    if name in _WITHOUT_STATISTICS:
        return _WITHOUT_STATISTICS[name]()
    scaler, whitening = folder / SCALER, folder / WHITENING
    if name == "expected_average_only_in":
        config = Config(scaler, read_json(scaler) if scaler.exists() else {})
        if "scaling_factor" in config:
            return Scale(config.number("scaling_factor", above=0))
        notes["caution"] = (
            f"it expects activations scaled to a mean norm of {input_dim**0.5:.4g}, and has no "
            "factor for it"
        )
    elif whitening.exists():
        tensors, square = read_safetensors(whitening), (input_dim, input_dim)
        shapes = {"mean": (input_dim,), "matrix": square, "inverse_matrix": square}
        taken = (tensors.take(part, *shape).astype(np.float32) for part, shape in shapes.items())
        return Whitening(*taken)
    else:
        notes["caution"] = "it expects whitened activations, and has no statistics for it"
    return Normalisation()
