"""SAEs of the library dictionary_learning: `ae.pt` and `config.json`, in a folder for each
trainer.
"""

import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from sae_gap.saes.architectures import take
from sae_gap.saes.parts import Parts
from sae_gap.storage import Config, Tensors

# The files that the library writes.
WEIGHTS, CONFIG = "ae.pt", "config.json"


class _Layout(NamedTuple):
    """The inference of a class of the library, and the names of its tensors.

    Attributes:
      encoder: its row in `ARCHITECTURES`.
      names: its names by ours, where they differ; its weights are then those of linear layers.
      centred: whether its encoder subtracts the decoder's bias.
    """

    encoder: str
    names: Mapping[str, str] = types.MappingProxyType({})
    centred: bool = True


_LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}
_GATED = {"b_dec": "decoder_bias", "b_gate": "gate_bias", "b_mag": "mag_bias"}
_LAYOUTS = {
    "AutoEncoder": _Layout("standard", _LINEAR | {"b_dec": "bias"}),
    "AutoEncoderNew": _Layout("standard", _LINEAR | {"b_dec": "decoder.bias"}, centred=False),
    "AutoEncoderTopK": _Layout("topk", _LINEAR),
    "BatchTopKSAE": _Layout("jumprelu", _LINEAR),
    "MatryoshkaBatchTopKSAE": _Layout("jumprelu"),
    "JumpReluAutoEncoder": _Layout("jumprelu", centred=False),
    "GatedAutoEncoder": _Layout("gated", _LINEAR | _GATED),
}


def load(config: Config, tensors: Tensors) -> Parts:
    """Reads the SAE in a file that dictionary_learning saved, final or during training.

    The atoms of an `AutoEncoder` get unit length, as in that library; those of the others stay
    unchanged.

    Raises:
      ValueError: the files do not fit, or hold an SAE of an unknown kind.
    """
    config = config.part("trainer")
    kind = config.choice("dict_class", "", _LAYOUTS)
    layout = _LAYOUTS[kind]
    notes = {
        name: str(config.entries[name])
        for name in ("lm_name", "layer", "submodule_name", "norm_factor")
        if name in config
    }
    notes["dtype on disk"] = tensors.dtypes()
    encoder, names = layout.encoder, layout.names
    turned = ("W_enc", "W_dec") if names else ()
    shape = tensors.shape(names.get("W_enc", "W_enc"))
    input_dim, num_latents = shape[::-1] if names else shape
    options, known = dict[str, Any](), dict[str, float]()
    if "TopK" in kind:
        beside = "k" in tensors
        source = Config(tensors.path, {"k": tensors.scalar("k")}) if beside else config
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
                notes["caution"] = (
                    "the threshold was never estimated, so that codes are those of a ReLU"
                )
        else:
            encoder, options["k"] = "batch_largest", k
            notes["caution"] = (
                "it has no threshold, so it keeps the largest codes of all samples at hand, k for "
                "each on average"
            )
    sizes = input_dim, num_latents, input_dim
    held = take(encoder, tensors, sizes, names=names, linear=turned, known=known)
    tensors.finish(kind)
    of_unit_atoms = kind == "AutoEncoder"
    if of_unit_atoms:
        notes["units"] = "codes of unit atoms, as the library loads them"
    return Parts(
        encoder,
        options,
        held,
        library="dictionary_learning",
        architecture=kind,
        notes=notes,
        centred=layout.centred,
        codes_of_unit_atoms=of_unit_atoms,
    )
