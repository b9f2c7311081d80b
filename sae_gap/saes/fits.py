"""Reads the suite's own form of an SAE, a finished fit, without JAX."""

from typing import Any

import numpy as np

from sae_gap.saes import decoders
from sae_gap.saes.architectures import ENCODERS, LOGARITHMS, read_options, take
from sae_gap.saes.parts import NOTED, OWN, Parts
from sae_gap.storage import Config, Tensors

# Names of the decoder's tensors in a fit.
_MODEL = {"W_dec": ".dictionary", "b_dec": ".bias", "W_skip": ".skip"}
# Entries of the note that a report shows.
_SHOWN = ("learner", "seed", "data", *NOTED)


def load(config: Config, tensors: Tensors) -> Parts:
    """The SAE of a finished fit, in SAELens's terms if SAELens has the encoder, and else with its
    tensors as they are; a bare decoder if the fit trained no encoder.

    Raises:
      ValueError: the note cannot be read, or the parts do not fit.
    """
    note = decoders.read_note(tensors)
    learner, metadata = note.part("learner"), note.part("metadata").entries
    described, name = learner.part("encoder"), learner.text("class", "").rpartition(".")[2]
    if name and not described.entries:
        return decoders.load(config, tensors)
    entries = {"learner": name or None} | note.part("source").entries | metadata
    notes = {"fit": tensors.path.parent.name}
    notes |= {part: str(entries[part]) for part in _SHOWN if entries.get(part) is not None}
    encoder = described.text("class", "")
    input_dim, num_latents = tensors.shape(".dictionary")
    transcodes, skip, known = ".centre" in tensors, ".skip" in tensors, dict[str, Any]()
    (read,) = tensors.sizes(".centre") if transcodes else (input_dim,)
    if transcodes:
        known["centre"] = tensors.take(".centre", read)
    about: dict[str, Any] = {"architecture": encoder.removeprefix("sae_gap."), "notes": notes}
    about |= {"centred": True, "transcodes": transcodes, "metadata": metadata}
    if encoder in ENCODERS:
        encoder, places = ENCODERS[encoder]
        names = {ours: f"{OWN}{place}" for ours, place in places.items()}
        if places.get("threshold") == LOGARITHMS:
            known["threshold"] = np.exp(tensors.take(names["threshold"], num_latents))
        elif "threshold" in places:
            known["threshold"] = tensors.scalar(names["threshold"])
        options = read_options(encoder, described, num_latents, input_dim)
        if "k" in described and not options:
            notes["k"] = str(described.size("k", most=num_latents))
    else:
        names, options = {}, described.entries
        own = [name for name in tensors if name.startswith(OWN)]
        known |= {name: tensors.take(name, *tensors.sizes(name)) for name in own}
    held = take(
        encoder,
        tensors,
        (read, num_latents, input_dim),
        names=names | _MODEL,
        linear=("W_dec",),
        known=known,
        skip=skip,
    )
    return Parts(encoder, options, held, library="sae_gap", **about)
