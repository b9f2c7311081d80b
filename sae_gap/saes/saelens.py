"""Reads SAEs of SAELens, a folder with `cfg.json` and `sae_weights.safetensors`, of version 6 or
earlier, and writes those of version 6. No JAX is loaded.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

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
    NOTED,
    TRANSCODERS,
    UNESTIMATED,
    Parts,
    Sizes,
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
    "activation_fn_str": "activation_fn",
}
_BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
_NAMES = (
    *(name for name in ARCHITECTURES if name not in FOREIGN),
    *_BATCH_TOPK,
    *TRANSCODERS,
)
_SCALED = "expected_average_only_in"
_WITHOUT_STATISTICS = {
    str(kind.saelens): kind for kind in (Normalisation, LayerNorm, ConstantNorm)
}


class _Kind(NamedTuple):
    """What a configuration describes.

    Attributes:
      architecture: SAELens's name for it.
      encoder: its row in `ARCHITECTURES`.
      transcodes: whether it is a transcoder.
      skips: whether that has a skip.
      centred: whether the encoder subtracts the decoder's bias from its input.
    """

    architecture: str
    encoder: str
    transcodes: bool
    skips: bool
    centred: bool


def saelens(config: Config, tensors: Tensors) -> Parts:
    """Reads an SAE that SAELens wrote, exported or as a checkpoint of its training, whose scaler
    may lie beside the configuration.

    BatchTopK and Matryoshka checkpoints infer with their `topk_threshold`, as SAELens exports them.

    Raises:
      ValueError: a file cannot be read, or holds an SAE of an unknown kind.
    """
    config = _current(config)
    metadata = config.part("metadata").entries
    kind = _kind(config, metadata)
    num_inputs = config.size("d_in")
    input_dim = config.size("d_out") if kind.transcodes else num_inputs
    sizes = Sizes(num_inputs, config.size("d_sae"), input_dim)
    heads = config.choice("reshape_activations", "none", ("none", "hook_z")) == "hook_z"
    notes = {"normalize_activations": config.text("normalize_activations", "none")}
    entries = Config(config.path, config.entries | metadata)
    notes |= entries.texts(*NOTED, "sae_lens_version")
    notes["apply_b_dec_to_input"] = str(kind.centred)
    rescaled = False
    if "topk" in kind.architecture:
        rescaled = config.flag("rescale_acts_by_decoder_norm", False)
        notes["rescale_acts_by_decoder_norm"] = str(rescaled)
    known = _threshold(kind, config, tensors, sizes.num_latents)
    if kind.architecture in _BATCH_TOPK and known["threshold"] == 0:
        notes["caution"] = UNESTIMATED
    options = read_options(kind.encoder, config, sizes)
    held = take(
        kind.encoder, tensors, sizes, linear=("W_skip",), known=known, skip=kind.skips
    )
    if "W_enc" not in held and not kind.centred:
        # Matching pursuit adds its bias only if it subtracted it.
        held["b_dec"] = np.zeros(sizes.input_dim, np.float32)
    if "scaling_factor" in tensors:
        factors = _factors(config, tensors, sizes.num_latents)
        held["W_dec"] = held["W_dec"] * factors[:, None]
    normalisation = _normalisation(config, sizes.input_dim, notes)
    if kind.transcodes and type(normalisation) is not Normalisation:
        raise ValueError(
            f"{config.path} normalises what a transcoder reads by {normalisation.name}; set "
            "normalize_activations to none, and give its inputs normalised."
        )
    return Parts(
        kind.encoder,
        options,
        held,
        "SAELens",
        kind.architecture,
        notes,
        kind.centred,
        rescaled,
        normalisation,
        heads,
        metadata,
        kind.transcodes,
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
    arrays = {}
    for name, value in tensors.items():
        arrays[name] = np.array(value, np.float32, order="C")
        if not np.isfinite(arrays[name]).all():
            raise ValueError(
                f"{name} has NaN or infinite entries; train the model again before it is saved."
            )
    versions = {"sae_lens_version": _VERSION, "sae_gap_version": version("sae_gap")}
    config = {**entries, "metadata": versions | dict(metadata) | versions}
    text = json.dumps(config, indent=1, allow_nan=False)
    return {WEIGHTS: save(arrays), CONFIG: f"{text}\n".encode()}


def _current(config: Config) -> Config:
    """A configuration in the form of version 6."""
    entries = config.part("metadata").entries | config.entries
    major = str(entries.get("sae_lens_version")).split(".")[0]
    if major.isdecimal() and int(major) >= 6:
        return config
    entries = {
        _RENAMED.get(name, name): value for name, value in config.entries.items()
    }
    old = Config(config.path, entries)
    if old.choice("activation_fn", "relu", ("relu", "topk")) == "topk":
        entries["architecture"] = "topk"
        entries["k"] = old.part("activation_fn_kwargs").size("k")
    scaled = entries.get("normalize_activations")
    if isinstance(scaled, bool):
        entries["normalize_activations"] = _SCALED if scaled else "none"
    if entries.get("reshape_activations") is None:
        by_heads = "hook_z" in old.text("hook_name", "")
        entries["reshape_activations"] = "hook_z" if by_heads else "none"
    return Config(config.path, entries)


def _kind(config: Config, metadata: Mapping[str, Any]) -> _Kind:
    """What a configuration describes; raises a ValueError if its entries contradict each other."""
    path = config.path
    architecture = config.choice("architecture", "standard", _NAMES)
    transcodes = architecture in TRANSCODERS
    explains = "d_out" in config or metadata.get("hook_name_out") is not None
    if explains and not transcodes:
        raise ValueError(
            f"{path} describes a transcoder, but its architecture is {architecture}; set it to one "
            f"of {', '.join(TRANSCODERS)}."
        )
    encoder, skips = TRANSCODERS.get(architecture, (architecture, False))
    if encoder == "standard" and "k" in config:
        raise ValueError(
            f"{path} has a k, but its architecture is {architecture}, a ReLU without one; "
            "set architecture to topk, or remove k."
        )
    if architecture in _BATCH_TOPK:
        encoder = "jumprelu"
    centred = config.flag("apply_b_dec_to_input", not transcodes)
    if transcodes and centred:
        raise ValueError(
            f"{path} subtracts a transcoder's b_dec from another activation than it belongs to; "
            "set apply_b_dec_to_input to false."
        )
    return _Kind(architecture, encoder, transcodes, skips, centred)


def _threshold(
    kind: _Kind, config: Config, tensors: Tensors, num_latents: int
) -> dict[str, Any]:
    """The threshold that is not stored as `ARCHITECTURES` has it, by its name; else nothing."""
    if kind.architecture in _BATCH_TOPK:
        return {"threshold": tensors.scalar("topk_threshold")}
    if kind.architecture == "jumprelu" and "log_threshold" in tensors:
        return {"threshold": np.exp(tensors.take("log_threshold", num_latents))}
    if kind.architecture == PURSUIT and config.flag("pruned", False):
        return {"threshold": tensors.scalar("threshold")}
    return {}


def _factors(config: Config, tensors: Tensors, num_latents: int) -> np.ndarray:
    """The factors by which an older SAE multiplies codes before it decodes them."""
    factors = tensors.take("scaling_factor", num_latents)
    if config.flag("finetuning_scaling_factor", False):
        return factors
    if not np.allclose(factors, 1):
        raise ValueError(
            f"{tensors.path} has a scaling_factor that {config.path} does not use; set "
            "finetuning_scaling_factor to true, or remove the tensor."
        )
    return np.ones_like(factors)


def _normalisation(
    config: Config, input_dim: int, notes: dict[str, str]
) -> Normalisation:
    """The normalisation of activations. Where its statistics are missing it is the identity, and a
    note says so.
    """
    names = (*_WITHOUT_STATISTICS, _SCALED, "covariance_whitening")
    name = config.choice("normalize_activations", "none", names)
    if name in _WITHOUT_STATISTICS:
        return _WITHOUT_STATISTICS[name]()
    if name == _SCALED:
        path = config.path.with_name(SCALER)
        scaler = Config(path, read_json(path) if path.exists() else {})
        if "scaling_factor" in scaler:
            return Scale(scaler.number("scaling_factor", above=0))
        notes["caution"] = (
            f"it expects activations scaled to a mean norm of {input_dim**0.5:.4g}, and has no "
            "factor for it"
        )
        return Normalisation()
    path = config.path.with_name(WHITENING)
    if not path.exists():
        notes["caution"] = (
            "it expects whitened activations, and has no statistics for it"
        )
        return Normalisation()
    tensors = read_safetensors(path)
    statistics = (
        tensors.take("mean", input_dim),
        tensors.take("matrix", input_dim, input_dim),
        tensors.take("inverse_matrix", input_dim, input_dim),
    )
    return Whitening(*(array.astype(np.float32) for array in statistics))
