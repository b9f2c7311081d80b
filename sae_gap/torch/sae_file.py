"""Reads the arguments of an SAE in PyTorch from the files of any library, and writes them in the
form of SAELens. No JAX is loaded.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sae_gap.core import AnyPath
from sae_gap.saes import saelens
from sae_gap.saes.find import locate, write_free
from sae_gap.saes.parts import ARCHITECTURES, NOTED, Parts, transcoder_of
from sae_gap.saes.readers import read
from sae_gap.torch.options import OPTIONS

if TYPE_CHECKING:
    from sae_gap.torch.module import SAE

# The tensors of an SAE whose encoder has no form here, by the names of `SAE`'s arguments.
_AFFINE = ("W_dec", "b_dec", "W_enc", "b_enc", "W_skip")


def read_arguments(path: AnyPath, sae_id: str | None, k: int | None) -> dict[str, Any]:
    """The arguments of `SAE` for the SAE in a folder: with its encoder if it has a form here, as a
    pursuit if k is given or the file is a dictionary with an L0, and else as a dictionary.
    """
    parts = read(locate(path, sae_id))
    if k is None and parts.encoder is None and "l0" in parts.notes:
        k = max(1, round(float(parts.notes["l0"])))
    tensors = {
        name: torch.from_numpy(value)
        for name, value in parts.settled(parts.atoms.dtype).items()
    }
    return _described(parts) | _coded(parts, tensors, k)


def _described(parts: Parts) -> dict[str, Any]:
    """The arguments that say what the SAE reads."""
    notes = {name: parts.notes[name] for name in NOTED if name in parts.notes}
    return {
        "normalisation": parts.normalisation,
        "heads": parts.heads,
        "metadata": {**notes, **parts.metadata},
        "transcoder": parts.transcodes,
    }


def _coded(parts: Parts, tensors: dict[str, Tensor], k: int | None) -> dict[str, Any]:
    """The architecture with its options, and the tensors that it takes."""
    affine = {name: tensors[name] for name in _AFFINE if name in tensors}
    if k is not None:
        return {**affine, "k": k}
    if parts.encoder in OPTIONS:
        return {**tensors, **parts.options, "architecture": parts.encoder}
    if parts.encoder == "sae_gap.LearnedSteps":
        return affine | _learned_steps(parts, tensors)
    return {**affine, "architecture": "dictionary"}


def _learned_steps(parts: Parts, tensors: dict[str, Tensor]) -> dict[str, Any]:
    # A bias comes before its weight, and the first map and a hidden layer before the steps.
    places = sorted(tensors.keys() - _AFFINE, key=lambda name: (name.find("]"), name))
    b_enc, W_enc, *steps = [tensors[place] for place in places]  # noqa: N806
    return {
        "architecture": "learned_steps",
        "b_enc": b_enc,
        "W_enc": W_enc,
        "steps": steps,
        "k": parts.options["k"],
        "breadth": parts.options["breadth"],
    }


def save(sae: "SAE", folder: AnyPath) -> None:
    """Writes an SAE in the form of SAELens 6.

    Raises:
      ValueError: SAELens has no such form, or the folder has files already.
    """
    cfg = sae.cfg
    state = sae.state_dict()
    if cfg.architecture not in ARCHITECTURES or cfg.normalize_activations is None:
        raise ValueError(
            "SAELens has no form for a dictionary without an encoder, learned steps, or a "
            "normalisation with statistics; save sae.pursuit(k) of an SAE with none, or its "
            "state_dict() by torch.save."
        )
    architecture = cfg.architecture
    names = ["W_dec", "b_dec", "W_skip", "threshold"]
    names += ARCHITECTURES[architecture].tensors
    if sae.transcodes:
        architecture = transcoder_of(architecture, "W_skip" in state)
        if architecture is None:
            raise ValueError(
                f"SAELens has no form for a transcoder of {cfg.architecture} codes; load and "
                "save it by sae_gap.load_sae and sae_gap.save_sae."
            )
    tensors = {
        name: state[name].float().cpu().numpy() for name in names if name in state
    }
    if "W_skip" in tensors:
        tensors["W_skip"] = tensors["W_skip"].T
    entries = {**vars(cfg), "architecture": architecture}
    write_free(folder, saelens.written(entries, tensors, cfg.metadata))
