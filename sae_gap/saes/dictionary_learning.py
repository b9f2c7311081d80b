"""SAEs of the library dictionary_learning: `ae.pt` and `config.json`, in a folder for each trainer."""

from pathlib import Path

import numpy as np

from sae_gap.saes import loaded_sae
from sae_gap.saes.loaded_sae import SAE, Activation
from sae_gap.saes.pickles import read_pt
from sae_gap.storage.tensor_files import Config, Tensors, read_json

# The files that the library writes.
WEIGHTS, CONFIG = "ae.pt", "config.json"
_CLASSES = (
    *("AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"),
    "GatedAutoEncoder",
)
# Classes whose weights are parameters, as they are multiplied; those of the others are linear layers, transposed.
_PLAIN = ("MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder")


def load(path: Path) -> SAE:
    """The SAE in a file that dictionary_learning saved, final or amid its training.

    An `AutoEncoder` comes with its atoms at unit length, as that library loads it; the others as they are.

    Args:
      path: of the weights. The configuration lies beside it, or beside its folder `checkpoints`.

    Returns:
      The SAE.

    Raises:
      ValueError: a file cannot be read, or holds an SAE of an unknown kind; the message names the fault and the mend.
    """
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    config = Config(folder / CONFIG, read_json(folder / CONFIG)).part("trainer")
    kind = config.text("dict_class", "")
    if kind not in _CLASSES:
        raise ValueError(f"{config.path} is of an unknown dict_class, {kind!r:.60}; choose an SAE of {', '.join(_CLASSES)}.")
    tensors = read_pt(path)
    notes = {"dtype on disk": tensors.dtypes()}
    for name in ("lm_name", "layer", "submodule_name", "norm_factor"):
        if config.entries.get(name) is not None:
            notes[name] = str(config.entries[name])

    weight, atoms = _weights(kind, tensors)
    num_latents, input_dim = atoms.shape
    for name, found in (("activation_dim", input_dim), ("dict_size", num_latents)):
        if name in config and config.size(name) != found:
            raise ValueError(
                f"{config.path} has {name} {config.size(name)}, but {path} has {found}; they do not belong together."
            )
    encoder_bias, bias, input_bias = _biases(kind, tensors, input_dim, num_latents)
    activation = _activation(kind, config, tensors, num_latents, notes)
    tensors.finish(kind)
    if kind == "AutoEncoder":
        notes["units"] = "codes of unit atoms, as the library loads them"
        lengths = np.linalg.norm(atoms, axis=1)
        lengths = np.where(lengths > 0, lengths, 1)
        weight, atoms = weight * lengths, atoms / lengths[:, None]
        encoder_bias = None if encoder_bias is None else encoder_bias * lengths
    return loaded_sae.assemble(
        activation,
        atoms=atoms,
        bias=bias,
        weight=weight,
        encoder_bias=encoder_bias,
        input_bias=input_bias,
        library="dictionary_learning",
        architecture=kind,
        notes=notes,
    )


def _weights(kind: str, tensors: Tensors) -> tuple[np.ndarray, np.ndarray]:
    """The encoder's weights, (input_dim, num_latents), and the atoms, (num_latents, input_dim)."""
    if kind in _PLAIN:
        input_dim, num_latents = tensors.shape("W_enc")
        return tensors.take("W_enc", input_dim, num_latents), tensors.take("W_dec", num_latents, input_dim)
    num_latents, input_dim = tensors.shape("encoder.weight")
    return tensors.take("encoder.weight", num_latents, input_dim).T, tensors.take("decoder.weight", input_dim, num_latents).T


def _biases(
    kind: str, tensors: Tensors, input_dim: int, num_latents: int
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray | None]:
    """The encoder's bias, what the decoder adds, and what the encoder takes from its input."""
    if kind == "GatedAutoEncoder":
        bias = tensors.take("decoder_bias", input_dim)
        return None, bias, bias
    if kind in _PLAIN:
        encoder_bias, bias = tensors.take("b_enc", num_latents), tensors.take("b_dec", input_dim)
        return encoder_bias, bias, None if kind == "JumpReluAutoEncoder" else bias
    encoder_bias = tensors.take("encoder.bias", num_latents)
    if kind == "AutoEncoderNew":
        return encoder_bias, tensors.take("decoder.bias", input_dim), None
    bias = tensors.take("bias" if kind == "AutoEncoder" else "b_dec", input_dim)
    return encoder_bias, bias, bias


def _activation(kind: str, config: Config, tensors: Tensors, num_latents: int, notes: dict[str, str]) -> Activation:
    if kind == "GatedAutoEncoder":
        gate, magnitude, log_scale = (tensors.take(name, num_latents) for name in ("gate_bias", "mag_bias", "r_mag"))
        return loaded_sae.gated(gate, magnitude, log_scale)
    if kind == "JumpReluAutoEncoder":
        return loaded_sae.threshold(tensors.take("threshold", num_latents))
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        return loaded_sae.relu()
    k = _k(config, tensors, num_latents)
    notes["k"] = str(k)
    tensors.ignore("group_sizes")
    if kind == "AutoEncoderTopK":
        # Of another way to infer, which the library does not take by itself.
        tensors.ignore("threshold")
        return loaded_sae.topk(k)
    if "threshold" not in tensors:
        notes["caution"] = (
            "it has no threshold, so that it keeps the largest codes of all samples at hand, k for each on average"
        )
        return loaded_sae.batch_largest(k)
    limit = tensors.scalar("threshold")
    notes["threshold"] = f"{limit:.4g}"
    if limit < 0:
        notes["caution"] = "the threshold was never estimated, so that codes are those of a ReLU"
    return loaded_sae.threshold(limit)


def _k(config: Config, tensors: Tensors, num_latents: int) -> int:
    """The number of latents of a sample, on which the file and the configuration must agree."""
    if "k" not in tensors:
        return config.among("k", config.size("k"), num_latents)
    k = Config(tensors.path, {"k": tensors.scalar("k")}).size("k")
    if "k" in config and config.size("k") != k:
        raise ValueError(f"{config.path} has k {config.size('k')}, but {tensors.path} has {k}; they do not belong together.")
    return Config(tensors.path, {}).among("k", k, num_latents)
