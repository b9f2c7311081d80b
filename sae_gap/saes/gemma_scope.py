"""SAEs and transcoders of Gemma Scope: `params.npz` of the first release, `params.safetensors` of
the second.
"""

import re
from pathlib import Path

from sae_gap.saes.architectures import take
from sae_gap.saes.parts import Parts
from sae_gap.storage.tensor_files import Config, read_json, read_npz, read_safetensors

# The files that the library writes.
WEIGHTS, WEIGHTS_2, CONFIG = "params.npz", "params.safetensors", "config.json"
# Folders of transcoders of the two releases, and of what reads or explains several layers.
_TRANSCODERS = re.compile(r"gemma-scope.*transcoder|^transcoder(_all)?$")
_OTHERS = re.compile(r"^(crosscoder|clt)(_all)?$")
_SKIP = "affine_skip_connection"


def load(path: Path) -> Parts:
    """Reads a JumpReLU SAE or transcoder of either release, which takes activations without
    normalisation. A skip is `x W`.

    Args:
      path: file of the weights. The second release has a configuration beside it; in the first,
        only the folders' names tell an SAE from a transcoder.

    Returns:
      The SAE.

    Raises:
      ValueError: a file cannot be read, or is of several layers; the message names the fault and
        the mend.
    """
    folders = path.absolute().parts[:-1]
    for part in filter(_OTHERS.search, folders):
        raise ValueError(
            f"{path} lies in {part}, whose weights are of several layers; give an SAE or a "
            "transcoder of one."
        )
    second, beside = path.name == WEIGHTS_2, path.with_name(CONFIG)
    tensors = read_safetensors(path) if second else read_npz(path)
    config = Config(beside, read_json(beside) if second and beside.exists() else {})
    config.choice("architecture", "jump_relu", ("jump_relu",))
    kind = config.choice("type", "sae", ("sae", "transcoder"))
    source, aim = (config.text(f"hf_hook_point_{side}", "") for side in ("in", "out"))
    skip = config.flag("affine_connection", False) or _SKIP in tensors
    told = any(map(_TRANSCODERS.search, folders))
    transcodes = skip or told or kind == "transcoder" or bool(aim and source != aim)
    names = {"W_enc": "w_enc", "W_dec": "w_dec", "W_skip": _SKIP} if second else {"W_enc": "W_enc"}
    read, num_latents = tensors.shape(names["W_enc"])
    input_dim = tensors.shape(names.get("W_dec", "W_dec"))[1]
    held = take("jumprelu", tensors, num_latents, input_dim, names, num_inputs=read, skip=skip)
    tensors.finish("JumpReLU")
    notes = {
        "dtype on disk": tensors.dtypes(),
        "release": "2" if second else "1",
        "hook_name": source,
        "hook_name_out": aim if transcodes else "",
        "model_name": config.text("model_name", ""),
    }
    return Parts(
        "jumprelu",
        {},
        held,
        library="Gemma Scope",
        architecture="jumprelu",
        notes={name: value for name, value in notes.items() if value},
        transcodes=transcodes,
    )
