"""SAEs of the library dictionary_learning: `ae.pt` and `config.json`, in a folder for each
trainer.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sae_gap.saes.parts import Parts
from sae_gap.storage.pickles import read_pt
from sae_gap.storage.tensor_files import Config, Tensors, read_json

# The files that the library writes.
WEIGHTS, CONFIG = "ae.pt", "config.json"


class _Layout(NamedTuple):
    """Where a class of the library keeps its parameters.

    Attributes:
      linear: whether its weights are linear layers, which are transposed.
      bias: the name of what its decoder adds.
      encoder_bias: the name of its encoder's bias, None where it has none.
      centred: whether its encoder subtracts the decoder's bias.
    """

    linear: bool
    bias: str
    encoder_bias: str | None
    centred: bool


_LAYOUTS = {
    "AutoEncoder": _Layout(True, "bias", "encoder.bias", True),
    "AutoEncoderNew": _Layout(True, "decoder.bias", "encoder.bias", False),
    "AutoEncoderTopK": _Layout(True, "b_dec", "encoder.bias", True),
    "BatchTopKSAE": _Layout(True, "b_dec", "encoder.bias", True),
    "MatryoshkaBatchTopKSAE": _Layout(False, "b_dec", "b_enc", True),
    "JumpReluAutoEncoder": _Layout(False, "b_dec", "b_enc", False),
    "GatedAutoEncoder": _Layout(True, "decoder_bias", None, True),
}


def load(path: Path) -> Parts:
    """The SAE in a file that dictionary_learning saved, final or amid its training.

    An `AutoEncoder` comes with its atoms at unit length, as that library loads it; the others as
    they are.

    Args:
      path: of the weights. The configuration lies beside it, or beside its folder `checkpoints`.

    Returns:
      The SAE.

    Raises:
      ValueError: a file cannot be read, or holds an SAE of an unknown kind; the message names the
        fault and the mend.
    """
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    config = Config(folder / CONFIG, read_json(folder / CONFIG)).part("trainer")
    kind = config.choice("dict_class", "", _LAYOUTS)
    layout, tensors = _LAYOUTS[kind], read_pt(path)
    notes = {
        name: str(config.entries[name])
        for name in ("lm_name", "layer", "submodule_name", "norm_factor")
        if name in config
    }
    notes["dtype on disk"] = tensors.dtypes()
    if layout.linear:
        num_latents, input_dim = tensors.shape("encoder.weight")
        weight = tensors.take("encoder.weight", num_latents, input_dim).T
        atoms = tensors.take("decoder.weight", input_dim, num_latents).T
    else:
        input_dim, num_latents = tensors.shape("W_enc")
        weight, atoms = (
            tensors.take("W_enc", input_dim, num_latents),
            tensors.take("W_dec", num_latents, input_dim),
        )
    bias = tensors.take(layout.bias, input_dim)
    encoder_bias = (
        None if layout.encoder_bias is None else tensors.take(layout.encoder_bias, num_latents)
    )
    encoder, options, others = _encoder(kind, config, tensors, num_latents, notes)
    tensors.finish(kind)
    if kind == "AutoEncoder":
        notes["units"] = "codes of unit atoms, as the library loads them"
    return Parts(
        encoder,
        options,
        atoms=atoms,
        bias=bias,
        weight=weight,
        encoder_bias=encoder_bias,
        centred=layout.centred,
        others=others,
        codes_of_unit_atoms=kind == "AutoEncoder",
        library="dictionary_learning",
        architecture=kind,
        notes=notes,
    )


def _encoder(
    kind: str, config: Config, tensors: Tensors, num_latents: int, notes: dict[str, str]
) -> tuple[str, dict[str, Any], dict[str, np.ndarray | float]]:
    """What a class does to its pre-activations, its options, and what else it has learned."""
    if kind == "GatedAutoEncoder":
        names = {"b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}
        held: dict[str, Any] = {
            name: tensors.take(theirs, num_latents) for name, theirs in names.items()
        }
        return "gated", {}, held
    if kind == "JumpReluAutoEncoder":
        return "jumprelu", {}, {"threshold": tensors.take("threshold", num_latents)}
    if kind in ("AutoEncoder", "AutoEncoderNew"):
        return "standard", {}, {}
    k = (Config(tensors.path, {"k": tensors.scalar("k")}) if "k" in tensors else config).size(
        "k", most=num_latents
    )
    notes["k"] = str(k)
    tensors.ignore("group_sizes")
    if kind == "AutoEncoderTopK":
        # The library uses it in another way of inferring, which is not its default.
        tensors.ignore("threshold")
        return "topk", {"k": k}, {}
    if "threshold" not in tensors:
        notes["caution"] = (
            "it has no threshold, so it keeps the largest codes of all samples at hand, k for each "
            "on average"
        )
        return "batch_largest", {"k": k}, {}
    threshold = tensors.scalar("threshold")
    notes["threshold"] = f"{threshold:.4g}"
    if threshold < 0:
        notes["caution"] = "the threshold was never estimated, so that codes are those of a ReLU"
    return "jumprelu", {}, {"threshold": threshold}
