"""SAEs and transcoders of Gemma Scope: `params.npz` of the first release, `params.safetensors` of
the second.
"""

import re

from sae_gap.saes.architectures import take
from sae_gap.saes.parts import Parts
from sae_gap.storage import Config, Tensors

# The files that the library writes.
WEIGHTS, WEIGHTS_2, CONFIG = "params.npz", "params.safetensors", "config.json"
# Folders of transcoders of the two releases, and of what reads or explains several layers.
_TRANSCODERS = re.compile(r"gemma-scope.*transcoder|^transcoder(_all)?$")
_OTHERS = re.compile(r"^(crosscoder|clt)(_all)?$")
_SKIP = "affine_skip_connection"


def load(config: Config, tensors: Tensors) -> Parts:
    """Reads a JumpReLU SAE or transcoder of either release, which takes activations without
    normalisation. A skip is `x W`.

    The second release has a configuration; in the first only the folders' names tell an SAE from a
    transcoder.

    Raises:
      ValueError: the files do not fit, or are of several layers.
    """
    folders = tensors.path.absolute().parts[:-1]
    if part := next(filter(_OTHERS.search, folders), ""):
        raise ValueError(
            f"{tensors.path} lies in {part}, whose weights are of several layers; give an SAE or a "
            "transcoder of one."
        )
    second = tensors.path.name == WEIGHTS_2
    config.choice("architecture", "jump_relu", ("jump_relu",))
    kind = config.choice("type", "sae", ("sae", "transcoder"))
    source, aim = (config.text(f"hf_hook_point_{side}", "") for side in ("in", "out"))
    skip = config.flag("affine_connection", False) or _SKIP in tensors
    told = any(map(_TRANSCODERS.search, folders))
    transcodes = skip or told or kind == "transcoder" or bool(aim and source != aim)
    names = {"W_enc": "w_enc", "W_dec": "w_dec", "W_skip": _SKIP} if second else {"W_enc": "W_enc"}
    read, num_latents = tensors.shape(names["W_enc"])
    input_dim = tensors.shape(names.get("W_dec", "W_dec"))[1]
    held = take("jumprelu", tensors, (read, num_latents, input_dim), names=names, skip=skip)
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
