"""SAEs of SAELens: a folder with `cfg.json` and `sae_weights.safetensors`, of version 6 and of
those before it.
"""

from pathlib import Path
from typing import Any

import numpy as np

from sae_gap.core.normalise import ConstantNorm, LayerNorm, Normalisation, Scale, Whitening
from sae_gap.core.pursuit import PURSUIT
from sae_gap.saes.parts import MOST, Parts
from sae_gap.storage.tensor_files import Config, Tensors, printable, read_json, read_safetensors

# The files that the library writes.
WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
# What older configurations call the entries of today.
_RENAMED = {
    "hook_point": "hook_name",
    "hook_point_head_index": "hook_head_index",
    "activation_fn_str": "activation_fn",
}
_BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
_ARCHITECTURES = (
    "standard",
    "gated",
    "topk",
    "abstopk",
    "jumprelu",
    "matching_pursuit",
    PURSUIT,
    *_BATCH_TOPK,
)
_WITHOUT_STATISTICS = {str(kind.saelens): kind for kind in (Normalisation, LayerNorm, ConstantNorm)}
_NORMALISATIONS = (*_WITHOUT_STATISTICS, "expected_average_only_in", "covariance_whitening")


def load(folder: Path) -> Parts:
    """The SAE in a folder that SAELens wrote, exported or as a checkpoint of its training.

    BatchTopK and Matryoshka checkpoints infer with their `topk_threshold`, as SAELens exports them.

    Args:
      folder: of the configuration and the weights, and of the scaler of a checkpoint that has one.

    Returns:
      The SAE.

    Raises:
      ValueError: a file cannot be read, or holds an SAE of an unknown kind; the message names the
        fault and the mend.
    """
    path = folder / CONFIG
    return assemble(Config(path, read_json(path)), read_safetensors(folder / WEIGHTS))


def assemble(config: Config, tensors: Tensors) -> Parts:
    """The SAE of a configuration and of weights.

    Raises:
      ValueError: as `load`.
    """
    config, folder = _current(config), config.path.parent
    metadata, architecture = config.part("metadata"), config.text("architecture", "standard")
    if "transcoder" in architecture or "d_out" in config or "hook_name_out" in metadata:
        fault = f"{config.path} describes a transcoder ({printable(architecture)})"
        raise ValueError(f"{fault}, which reconstructs another layer; give an SAE.")
    config.choice("architecture", "standard", _ARCHITECTURES)
    if architecture == "standard" and config.entries.get("k") is not None:
        fault = f"{config.path} has a k, but its architecture is standard, a ReLU without one"
        raise ValueError(f"{fault}; set architecture to topk, or remove k.")
    input_dim, num_latents = config.size("d_in"), config.size("d_sae")
    heads = config.choice("reshape_activations", "none", ("none", "hook_z")) == "hook_z"
    centred = config.flag("apply_b_dec_to_input", True)
    told = config.entries | metadata.entries
    notes = {
        "dtype on disk": tensors.dtypes(),
        "normalize_activations": config.text("normalize_activations", "none"),
    }
    notes |= {
        name: str(told[name])
        for name in ("model_name", "hook_name", "sae_lens_version")
        if told.get(name) is not None
    }
    notes["apply_b_dec_to_input"] = str(centred)

    bias = tensors.take("b_dec", input_dim)
    atoms = tensors.take("W_dec", num_latents, input_dim) * _finetuning(
        config, tensors, num_latents
    )
    pursuit = architecture in ("matching_pursuit", PURSUIT)
    rescaled = "topk" in architecture and config.flag("rescale_acts_by_decoder_norm", False)
    if "topk" in architecture:
        notes["rescale_acts_by_decoder_norm"] = str(rescaled)
    encoder, options, others = _encoder(
        architecture, config, tensors, input_dim, num_latents, notes
    )
    weight = None if pursuit else tensors.take("W_enc", input_dim, num_latents)
    encoder_bias = (
        None if pursuit or architecture == "gated" else tensors.take("b_enc", num_latents)
    )
    tensors.finish(architecture)
    return Parts(
        encoder,
        options,
        atoms=atoms,
        # Matching pursuit adds its bias only where it subtracted it.
        bias=np.zeros_like(bias) if pursuit and not centred else bias,
        weight=weight,
        encoder_bias=encoder_bias,
        centred=centred,
        others=others,
        codes_of_unit_atoms=rescaled,
        normalisation=_normalisation(config, folder, input_dim, notes),
        library="SAELens",
        architecture=architecture,
        heads=heads,
        notes=notes,
        metadata=metadata.entries,
    )


def _current(config: Config) -> Config:
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


def _finetuning(config: Config, tensors: Tensors, num_latents: int) -> np.ndarray:
    """What an older SAE multiplies its codes by before it decodes them, as a column."""
    factors = (
        tensors.take("scaling_factor", num_latents)
        if "scaling_factor" in tensors
        else np.ones(1, np.float32)
    )
    if not np.allclose(factors, 1) and not config.flag("finetuning_scaling_factor", False):
        fault = f"{tensors.path} has a scaling_factor that {config.path} does not use"
        raise ValueError(f"{fault}; set finetuning_scaling_factor to true, or remove the tensor.")
    return factors[:, None]


def _encoder(
    architecture: str,
    config: Config,
    tensors: Tensors,
    input_dim: int,
    num_latents: int,
    notes: dict[str, str],
) -> tuple[str, dict[str, Any], dict[str, np.ndarray | float]]:
    """What an architecture does to its pre-activations, its options, and what else it learned."""
    if architecture == "standard":
        return architecture, {}, {}
    if architecture == "gated":
        names = "b_gate", "b_mag", "r_mag"
        return architecture, {}, {name: tensors.take(name, num_latents) for name in names}
    if architecture == "jumprelu":
        logarithms = "log_threshold" in tensors
        kept = tensors.take("log_threshold" if logarithms else "threshold", num_latents)
        return architecture, {}, {"threshold": np.exp(kept) if logarithms else kept}
    if architecture == "matching_pursuit":
        options: dict[str, Any] = {
            "max_iterations": config.size("max_iterations", input_dim),
            "residual_threshold": config.number("residual_threshold", 1e-2),
            "stop_on_duplicate_support": config.flag("stop_on_duplicate_support", True),
        }
        return architecture, options, {}
    if architecture in _BATCH_TOPK:
        threshold = tensors.scalar("topk_threshold")
        if threshold == 0:
            notes["caution"] = (
                "the threshold was never estimated, so that codes are those of a ReLU"
            )
        return "jumprelu", {}, {"threshold": threshold}
    options = {"k": config.size("k", most=num_latents)}
    if architecture == PURSUIT:
        most = max(num_latents, MOST)
        options |= {name: config.size(name, most=most) for name in ("breadth", "screens")}
        if config.flag("pruned", False):
            return architecture, options, {"threshold": tensors.scalar("threshold")}
    return architecture, options, {}


def _normalisation(
    config: Config, folder: Path, input_dim: int, notes: dict[str, str]
) -> Normalisation:
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
        taken = (tensors.take(part, *shape) for part, shape in shapes.items())
        return Whitening(*(part.astype(np.float32) for part in taken))
    else:
        notes["caution"] = "it expects whitened activations, and has no statistics for it"
    return Normalisation()
