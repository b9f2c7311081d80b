"""Reads finished fits of the suite without JAX; `own.load_fit` reads every encoder."""

import dataclasses
from pathlib import Path

import numpy as np

from sae_gap.saes import decoders
from sae_gap.saes.architectures import ENCODERS, LOGARITHMS, read_options, take
from sae_gap.saes.parts import Parts
from sae_gap.storage.tensor_files import read_safetensors

# Names of the decoder's tensors in a fit.
_MODEL = {"W_dec": ".dictionary", "b_dec": ".bias", "W_skip": ".skip"}


def load(path: Path) -> Parts:
    """The SAE of a finished fit; a bare decoder if SAELens has no such encoder.

    Raises:
      ValueError: the file cannot be read, or its parts do not fit.
    """
    note = decoders.read_note(path)
    described = note.part("learner").part("encoder")
    kind = described.text("class", "")
    if kind not in ENCODERS:
        return dataclasses.replace(decoders.load(path), architecture=kind)
    (encoder, places), tensors = ENCODERS[kind], read_safetensors(path)
    input_dim, num_latents = tensors.shape(".dictionary")
    names, known = {name: f".encoder.{place}" for name, place in places.items()}, {}
    if places.get("threshold") == LOGARITHMS:
        known["threshold"] = np.exp(tensors.take(names["threshold"], num_latents))
    elif "threshold" in places:
        known["threshold"] = tensors.scalar(names["threshold"])
    transcodes, read = ".centre" in tensors, input_dim
    if transcodes:
        read = tensors.shape(names["W_enc"])[0]
        known["centre"] = tensors.take(".centre", read)
    return Parts(
        encoder,
        read_options(encoder, described, num_latents, input_dim),
        take(
            encoder,
            tensors,
            num_latents,
            input_dim,
            names | _MODEL,
            ("W_dec",),
            known,
            num_inputs=read,
            skip=".skip" in tensors,
        ),
        library="sae_gap",
        architecture=kind,
        notes={},
        centred=True,
        metadata=note.part("metadata").entries,
        transcodes=transcodes,
    )
