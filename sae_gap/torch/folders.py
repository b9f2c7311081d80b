"""Reads the arguments of an SAE in PyTorch from a folder, and writes an SAE into one."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_gap.core.normalise import Normalisation
from sae_gap.saes import saelens
from sae_gap.saes.find import check_free, locate
from sae_gap.saes.find import read as read_parts
from sae_gap.saes.parts import ARCHITECTURES, NOTED, transcoder_of


def read(
    path: str | os.PathLike[str], sae_id: str | None, k: int | None, known: Collection[str]
) -> dict[str, Any]:
    """Reads the arguments of the SAE in a folder, without an encoder unless its architecture is
    `known`; see `SAE.from_folder`.
    """
    parts = read_parts(locate(path, sae_id))
    if parts.encoder is None and k is None and "l0" in parts.notes:
        k = max(1, round(float(parts.notes["l0"])))
    held: dict[str, Any] = {
        name: torch.from_numpy(value) for name, value in parts.settled(parts.atoms.dtype).items()
    }
    about: dict[str, Any] = {"normalisation": parts.normalisation, "heads": parts.heads}
    notes = {name: parts.notes[name] for name in NOTED if name in parts.notes}
    about["metadata"] = notes | dict(parts.metadata)
    if parts.transcodes:
        if k is not None:
            raise ValueError(
                f"{path} is a transcoder, whose pursuit reads other activations; leave k out, and "
                "code sae.signals(y, x) by sae.pursuit(k)."
            )
        about["transcoder"] = True
    if k is None and parts.encoder in known:
        return held | about | dict(parts.options) | {"architecture": parts.encoder}
    names = {"W_dec", "b_dec", "W_enc", "b_enc", "W_skip"}
    about |= {"architecture": "dictionary"} if k is None else {"k": k}
    return {name: held[name] for name in names & held.keys()} | about


def write(
    folder: str | os.PathLike[str],
    cfg: Any,
    state: Mapping[str, Tensor],
    normalises: type[Normalisation],
) -> None:
    """Writes an SAE; see `SAE.save`.

    Args:
      folder: the target.
      cfg: the configuration of the SAE.
      state: its tensors.
      normalises: its normalisation of activations.

    Raises:
      ValueError: SAELens has no form for it, or the folder has files already.
    """
    entries = vars(cfg)
    if cfg.architecture == "dictionary" or normalises.saelens is None:
        raise ValueError(
            "SAELens has no form for a dictionary without an encoder, nor for the normalisation "
            f"{normalises.__name__}; save sae.pursuit(k) of an SAE with none."
        )
    if "d_out" in entries:
        named = transcoder_of(cfg.architecture, "W_skip" in state)
        if named is None:
            raise ValueError(
                f"SAELens has no form for a transcoder of {cfg.architecture} codes; load and save "
                "it by sae_gap.load_sae and sae_gap.save_sae."
            )
        entries = entries | {"architecture": named}
    names = ("W_dec", "b_dec", "W_skip", "threshold", *ARCHITECTURES[cfg.architecture].tensors)
    tensors = {name: state[name].float().cpu().numpy() for name in names if name in state}
    if "W_skip" in tensors:
        tensors["W_skip"] = tensors["W_skip"].T
    folder = Path(folder).expanduser()
    check_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in saelens.written(entries, tensors, cfg.metadata).items():
        (folder / name).write_bytes(content)
