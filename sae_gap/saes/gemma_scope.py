"""The SAEs of Gemma Scope: `params.npz` of the first release, `params.safetensors` of the second."""

import re
from pathlib import Path

from sae_gap.saes import loaded_sae
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage.tensor_files import Config, Tensors, read_json, read_npz, read_safetensors

# The files that the library writes.
WEIGHTS, WEIGHTS_2, CONFIG = "params.npz", "params.safetensors", "config.json"
# Folders of the two releases that hold no SAEs.
_OTHERS = re.compile(r"gemma-scope.*transcoder|^(transcoder|crosscoder|clt)(_all)?$")


def load(path: Path) -> SAE:
    """A JumpReLU SAE of either release, which takes activations as they are.

    Args:
      path: of the weights. The second release has a configuration beside it; of the first, only the names of its folders tell
        an SAE from a transcoder.

    Returns:
      The SAE.

    Raises:
      ValueError: a file cannot be read, or holds no SAE but a transcoder; the message names the fault and the mend.
    """
    for part in path.absolute().parts[:-1]:
        if _OTHERS.search(part):
            raise ValueError(f"{path} lies in {part}, whose weights reconstruct another layer; give an SAE.")
    return _second(path) if path.name == WEIGHTS_2 else _assemble(read_npz(path), "W_enc", "W_dec", {"release": "1"})


def _second(path: Path) -> SAE:
    tensors, notes = read_safetensors(path), {"release": "2"}
    if "affine_skip_connection" in tensors:
        raise ValueError(f"{path} has an affine skip connection, which no dictionary can stand for; give an SAE without.")
    place = path.parent / CONFIG
    if place.exists():
        config = Config(place, read_json(place))
        architecture = config.text("architecture", "jump_relu")
        if architecture != "jump_relu":
            raise ValueError(f"{place} is of an unknown architecture, {architecture!r:.60}; choose jump_relu.")
        source, aim = (config.text(f"hf_hook_point_{side}", "") for side in ("in", "out"))
        if aim and source != aim:
            raise ValueError(f"{place} is of a transcoder, from {source} to {aim}; give an SAE.")
        notes |= {"hook_name": source} if source else {}
        notes |= {"model_name": config.text("model_name", "")} if "model_name" in config else {}
    return _assemble(tensors, "w_enc", "w_dec", notes)


def _assemble(tensors: Tensors, encoder: str, decoder: str, notes: dict[str, str]) -> SAE:
    input_dim, num_latents = tensors.shape(encoder)
    weight = tensors.take(encoder, input_dim, num_latents)
    atoms = tensors.take(decoder, num_latents, input_dim)
    encoder_bias, bias = tensors.take("b_enc", num_latents), tensors.take("b_dec", input_dim)
    limits = tensors.take("threshold", num_latents)
    tensors.finish("JumpReLU")
    return loaded_sae.assemble(
        loaded_sae.threshold(limits),
        atoms=atoms,
        bias=bias,
        weight=weight,
        encoder_bias=encoder_bias,
        library="Gemma Scope",
        architecture="jumprelu",
        notes={"dtype on disk": tensors.dtypes(), **notes},
    )
