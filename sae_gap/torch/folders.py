"""Reads the arguments of an SAE in PyTorch from a folder, and writes an SAE into one."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

import sae_gap
from sae_gap.core.checks import check_path
from sae_gap.core.normalise import Normalisation
from sae_gap.core.pursuit import PURSUIT
from sae_gap.saes import decoders, saelens
from sae_gap.saes.find import locate
from sae_gap.saes.find import read as read_parts
from sae_gap.saes.parts import FIT, Parts
from sae_gap.storage.tensor_files import Config, Tensors

# What SAELens has no form for.
_FOREIGN = ("groupmax", "batch_largest")
# What is kept of what a file says beside, whatever the library.
_NOTED = ("model_name", "hook_name")


def read(path: str | os.PathLike[str], sae_id: str | None, k: int | None) -> dict[str, Any]:
    """The arguments of the SAE in a folder; see `SAE.from_folder`."""
    check_path("path", path)
    weights = locate(path, sae_id)
    parts = _fitted(weights) if weights.name == FIT and k is None else read_parts(weights)
    if parts.encoder is None and k is None:
        if "l0" not in parts.notes:
            raise ValueError(f"{path} is a decoder alone; give k, for a pursuit on its atoms.")
        k = max(1, round(float(parts.notes["l0"])))
    dtype = parts.atoms.dtype
    parts = parts.settled(dtype)
    names = ("W_dec", "b_dec", "W_enc", "b_enc")
    values = (parts.atoms, parts.bias, parts.weight, parts.encoder_bias)
    held: dict[str, Any] = dict(zip(names, values, strict=True)) | dict(parts.others)
    held = {
        name: torch.from_numpy(np.array(value, dtype))
        for name, value in held.items()
        if value is not None
    }
    about: dict[str, Any] = {"normalisation": parts.normalisation, "heads": parts.heads}
    notes = {name: parts.notes[name] for name in _NOTED if name in parts.notes}
    about["metadata"] = notes | dict(parts.metadata)
    if k is None:
        return held | about | dict(parts.options) | {"architecture": parts.encoder}
    return {name: held[name] for name in names if name in held} | about | {"k": k}


def write(
    folder: str | os.PathLike[str],
    cfg: Any,
    state: Mapping[str, Tensor],
    normalises: type[Normalisation],
) -> None:
    """Writes an SAE; see `SAE.save`.

    Args:
      folder: where to.
      cfg: the configuration of the SAE.
      state: its tensors.
      normalises: what it does to activations.
    """
    architecture = cfg.architecture
    if architecture in _FOREIGN or normalises.saelens is None:
        raise ValueError(
            f"SAELens has no form for {architecture} codes of activations with the "
            f"normalisation {normalises.__name__}; save sae.pursuit(k) of an SAE "
            "without one."
        )
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.float().cpu().contiguous() for name, value in state.items()}
    if architecture in (PURSUIT, "matching_pursuit"):
        tensors = {name: tensors[name] for name in tensors if not name.endswith("_enc")}
    elif architecture == "gated":
        tensors["b_gate"] = tensors.pop("b_enc")
    save_file(tensors, folder / saelens.WEIGHTS)
    versions = {"sae_lens_version": "6.0.0", "sae_gap_version": sae_gap.__version__}
    entries = vars(cfg) | {"metadata": versions | cfg.metadata | versions}
    text = json.dumps(entries, indent=1, allow_nan=False)
    (folder / saelens.CONFIG).write_text(f"{text}\n")


def _fitted(path: Path) -> Parts:
    """A fit of the suite, which its own encoders read, in SAELens's form."""
    import safetensors.numpy

    from sae_gap.saes.own import load_fit
    from sae_gap.saes.save import files_of

    sae = load_fit(path)
    if sae.model.encode is None:
        return decoders.load(path)
    files = files_of(sae)
    if saelens.WEIGHTS not in files:
        raise ValueError(
            f"{path} has an encoder ({sae.architecture}) that has no form in PyTorch here; give k, "
            "for a pursuit in its place."
        )
    tensors = Tensors(path, safetensors.numpy.load(files[saelens.WEIGHTS]))
    return saelens.assemble(Config(path, json.loads(files[saelens.CONFIG])), tensors)
