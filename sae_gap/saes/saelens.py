"""SAEs of SAELens: a folder with `cfg.json` and `sae_weights.safetensors`, of version 6 and of those before it."""

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from sae_gap.saes import loaded_sae
from sae_gap.saes.loaded_sae import SAE, Activation
from sae_gap.saes.normalise import ConstantNorm, LayerNorm, Normalisation, Scale, Whitening
from sae_gap.storage.tensor_files import Config, Tensors, printable, read_json, read_safetensors

# The files that the library writes.
WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
SCALER, WHITENING = "activation_scaler.json", "activation_whitening.safetensors"
# What older configurations call the entries of today.
_RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "activation_fn_str": "activation_fn"}
_BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")
_ARCHITECTURES = ("standard", "gated", "topk", "abstopk", "jumprelu", "matching_pursuit", *_BATCH_TOPK)
_NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale", "expected_average_only_in", "covariance_whitening")

# No pursuit is as long; without this one that never stops by itself would not end.
_MOST_ROUNDS = 2**16


def load(folder: Path) -> SAE:
    """The SAE in a folder that SAELens wrote, exported or as a checkpoint of its training.

    BatchTopK and Matryoshka checkpoints infer with their `topk_threshold`, as SAELens exports them.

    Args:
      folder: of the configuration and the weights, and of the scaler of a checkpoint that has one.

    Returns:
      The SAE.

    Raises:
      ValueError: a file cannot be read, or holds an SAE of an unknown kind; the message names the fault and the mend.
    """
    path = folder / CONFIG
    return assemble(Config(path, read_json(path)), lambda: read_safetensors(folder / WEIGHTS))


def assemble(config: Config, weights: Callable[[], Tensors]) -> SAE:
    """The SAE of a configuration and of weights, which are asked for once the configuration is known to be of one.

    Raises:
      ValueError: as `load`.
    """
    path, folder = config.path, config.path.parent
    config = _current(config)
    architecture = config.text("architecture", "standard")
    if "transcoder" in architecture or "d_out" in config or "hook_name_out" in config.part("metadata"):
        raise ValueError(
            f"{path} is of a transcoder ({printable(architecture)}), which reconstructs another layer; give an SAE."
        )
    if architecture not in _ARCHITECTURES:
        raise ValueError(
            f"{path} is of an unknown architecture, {architecture!r:.60}; choose an SAE of {', '.join(_ARCHITECTURES)}."
        )
    input_dim, num_latents = config.size("d_in"), config.size("d_sae")
    tensors = weights()
    notes = {"dtype on disk": tensors.dtypes(), "normalize_activations": config.text("normalize_activations", "none")}
    for name in ("model_name", "hook_name", "sae_lens_version"):
        value = config.part("metadata").entries.get(name, config.entries.get(name))
        if value is not None:
            notes[name] = str(value)

    centred = config.flag("apply_b_dec_to_input", True)
    notes["apply_b_dec_to_input"] = str(centred)
    bias = tensors.take("b_dec", input_dim)
    atoms = tensors.take("W_dec", num_latents, input_dim) * _finetuning(config, tensors, num_latents)
    pursuit = architecture == "matching_pursuit"
    tied = pursuit or architecture == "gated"
    activation = _activation(architecture, config, tensors, input_dim, num_latents, notes)
    weight = None if pursuit else tensors.take("W_enc", input_dim, num_latents)
    encoder_bias = None if tied else tensors.take("b_enc", num_latents)
    tensors.finish(architecture)
    return loaded_sae.assemble(
        activation,
        atoms=atoms,
        # Matching pursuit adds its bias only where it took it away.
        bias=np.zeros_like(bias) if pursuit and not centred else bias,
        weight=weight,
        encoder_bias=encoder_bias,
        input_bias=bias if centred else None,
        normalisation=_normalisation(config, folder, input_dim, notes),
        library="SAELens",
        architecture=architecture,
        heads=_by_heads(config),
        notes=notes,
    )


def _current(config: Config) -> Config:
    """A configuration in the form of version 6."""
    version = config.entries.get("sae_lens_version") or config.part("metadata").entries.get("sae_lens_version")
    major = str(version or "0").split(".")[0]
    if major.isdecimal() and int(major) >= 6:
        return config
    entries = {_RENAMED.get(name, name): value for name, value in config.entries.items()}
    old = Config(config.path, entries)
    activation = old.text("activation_fn", "relu")
    if activation not in ("relu", "topk"):
        raise ValueError(
            f"{config.path} has an activation function that is not known, {activation!r:.60}; choose relu or topk."
        )
    if activation == "topk":
        entries |= {"architecture": "topk", "k": old.part("activation_fn_kwargs").size("k")}
    if isinstance(entries.get("normalize_activations"), bool):
        entries["normalize_activations"] = "expected_average_only_in" if entries["normalize_activations"] else "none"
    if entries.get("reshape_activations") is None:
        entries["reshape_activations"] = "hook_z" if "hook_z" in old.text("hook_name", "") else "none"
    return Config(config.path, entries)


def _by_heads(config: Config) -> bool:
    reshape = config.text("reshape_activations", "none")
    if reshape not in ("none", "hook_z"):
        raise ValueError(f"{config.path} reshapes activations in an unknown way, {reshape!r:.60}; choose none or hook_z.")
    return reshape == "hook_z"


def _finetuning(config: Config, tensors: Tensors, num_latents: int) -> np.ndarray:
    """By what an older SAE multiplies its codes before it decodes them, as a column."""
    if "scaling_factor" not in tensors:
        return np.ones((1, 1), np.float32)
    factors = tensors.take("scaling_factor", num_latents)
    if np.allclose(factors, 1):
        return np.ones((1, 1), np.float32)
    if not config.flag("finetuning_scaling_factor", False):
        raise ValueError(
            f"{tensors.path} has a scaling_factor that {config.path} does not use; "
            "set finetuning_scaling_factor to true, or remove the tensor."
        )
    return factors[:, None]


def _activation(
    architecture: str, config: Config, tensors: Tensors, input_dim: int, num_latents: int, notes: dict[str, str]
) -> Activation:
    if architecture == "gated":
        gate, magnitude, log_scale = (tensors.take(name, num_latents) for name in ("b_gate", "b_mag", "r_mag"))
        return loaded_sae.gated(gate, magnitude, log_scale)
    if architecture == "jumprelu":
        if "log_threshold" in tensors:
            return loaded_sae.threshold(np.exp(tensors.take("log_threshold", num_latents)))
        return loaded_sae.threshold(tensors.take("threshold", num_latents))
    if architecture == "matching_pursuit":
        rounds = config.size("max_iterations", input_dim)
        if rounds > _MOST_ROUNDS:
            raise ValueError(
                f"max_iterations in {config.path} is {rounds}, more than {_MOST_ROUNDS}; correct the configuration."
            )
        return loaded_sae.pursuit(
            rounds, config.number("residual_threshold", 1e-2), config.flag("stop_on_duplicate_support", True)
        )
    if architecture == "standard":
        return loaded_sae.relu()
    # A checkpoint says so itself; the default is that of inference.
    rescaled = config.flag("rescale_acts_by_decoder_norm", False)
    notes["rescale_acts_by_decoder_norm"] = str(rescaled)
    if architecture in _BATCH_TOPK:
        limit = tensors.scalar("topk_threshold")
        if limit == 0:
            notes["caution"] = "the threshold was never estimated, so that codes are those of a ReLU"
        return loaded_sae.threshold(limit, on_unit_atoms=rescaled)
    k = config.among("k", config.size("k"), num_latents)
    return (loaded_sae.topk if architecture == "topk" else loaded_sae.abstopk)(k, on_unit_atoms=rescaled)


def _normalisation(config: Config, folder: Path, input_dim: int, notes: dict[str, str]) -> Normalisation:
    name = config.text("normalize_activations", "none")
    if name not in _NORMALISATIONS:
        raise ValueError(
            f"{config.path} normalises in an unknown way, {name!r:.60}; choose one of {', '.join(_NORMALISATIONS)}."
        )
    if name == "layer_norm":
        return LayerNorm()
    if name == "constant_norm_rescale":
        return ConstantNorm()
    scaler = folder / SCALER
    if name == "expected_average_only_in":
        factor = Config(scaler, read_json(scaler)).entries.get("scaling_factor") if scaler.exists() else None
        if factor is not None:
            positive = Config(scaler, {"scaling_factor": factor}).number("scaling_factor", 0)
            if positive <= 0:
                raise ValueError(f"scaling_factor in {scaler} must be positive, but it is {factor!r:.60}; correct it.")
            return Scale(positive)
        notes["caution"] = f"it expects activations scaled to a mean norm of {input_dim**0.5:.4g}, and has no factor for it"
    if name == "covariance_whitening":
        whitening = folder / WHITENING
        if whitening.exists():
            found = read_safetensors(whitening)
            square = (input_dim, input_dim)
            parts = found.take("mean", input_dim), found.take("matrix", *square), found.take("inverse_matrix", *square)
            return Whitening(*(jnp.asarray(part.astype(np.float32)) for part in parts))
        notes["caution"] = "it expects whitened activations, and has no statistics for it"
    return Normalisation()
