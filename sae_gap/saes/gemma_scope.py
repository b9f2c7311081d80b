"""The SAEs of Gemma Scope: `params.npz` of the first release, `params.safetensors` of the
second.
"""

import re
from pathlib import Path

from sae_gap.saes.architectures import take
from sae_gap.saes.parts import Parts
from sae_gap.storage.tensor_files import Config, read_json, read_npz, read_safetensors

# The files that the library writes.
WEIGHTS, WEIGHTS_2, CONFIG = "params.npz", "params.safetensors", "config.json"
# Folders of the two releases that hold no SAEs.
_OTHERS = re.compile(r"gemma-scope.*transcoder|^(transcoder|crosscoder|clt)(_all)?$")


def load(path: Path) -> Parts:
    """Reads a JumpReLU SAE of either release, which takes activations without normalisation.

    Args:
      path: file of the weights. The second release has a configuration beside it; in the first,
        only the folders' names tell an SAE from a transcoder.

    Returns:
      The SAE.

    Raises:
      ValueError: a file cannot be read, or holds a transcoder; the message names the fault and the
        mend.
    """
    for part in path.absolute().parts[:-1]:
        if _OTHERS.search(part):
            raise ValueError(
                f"{path} lies in {part}, whose weights reconstruct another layer; give an SAE."
            )
    second = path.name == WEIGHTS_2
    tensors = read_safetensors(path) if second else read_npz(path)
    if "affine_skip_connection" in tensors:
        raise ValueError(
            f"{path} has an affine skip connection, which no dictionary can replace; give an SAE "
            "without."
        )
    notes = {"dtype on disk": tensors.dtypes(), "release": "2" if second else "1"} | (
        _notes(path.parent) if second else {}
    )
    names = {"W_enc": "w_enc", "W_dec": "w_dec"} if second else {"W_enc": "W_enc"}
    input_dim, num_latents = tensors.shape(names["W_enc"])
    held = take("jumprelu", tensors, num_latents, input_dim, names)
    tensors.finish("JumpReLU")
    return Parts("jumprelu", {}, held, library="Gemma Scope", architecture="jumprelu", notes=notes)


def _notes(folder: Path) -> dict[str, str]:
    """Notes from the configuration of the second release, if there is one."""
    path = folder / CONFIG
    config = Config(path, read_json(path) if path.exists() else {})
    config.choice("architecture", "jump_relu", ("jump_relu",))
    source, aim = (config.text(f"hf_hook_point_{side}", "") for side in ("in", "out"))
    if aim and source != aim:
        raise ValueError(f"{path} describes a transcoder, from {source} to {aim}; give an SAE.")
    found = {"hook_name": source, "model_name": config.text("model_name", "")}
    return {name: value for name, value in found.items() if value}
