"""An encoder of the suite and its parameters as an architecture with tensors, and back."""

import dataclasses
import importlib
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from sae_gap.core.identity import class_name
from sae_gap.core.pursuit import PURSUIT
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Encoder
from sae_gap.encoders.screened_pursuit import BatchPursuit, Threshold
from sae_gap.saes.architectures import ARCHITECTURES, ENCODERS, LOGARITHMS


def imported(
    architecture: str, options: Mapping[str, Any], tensors: Mapping[str, Array]
) -> tuple[Encoder, Any]:
    """The encoder of an architecture, and its parameters for a model.

    Args:
      architecture: a name in `ARCHITECTURES`.
      options: its options, in order.
      tensors: its learned tensors.
    """
    row = ARCHITECTURES[architecture]
    if architecture == PURSUIT and tensors:
        return BatchPursuit(*options.values()), Threshold(tensors["threshold"])
    kind = getattr(importlib.import_module(f"sae_gap.{row.module}"), row.encoder)
    encoder = kind(*options.values())
    if not tensors:
        return encoder, None
    found = [attrgetter(place) for place in row.tensors.values()]
    # Codes are positive, so a threshold below zero is equivalent to zero.
    values = [
        jnp.log(jnp.maximum(tensors[name], 0)) if place == LOGARITHMS else tensors[name]
        for name, place in row.tensors.items()
    ]
    blank = eqx.filter_eval_shape(encoder.parameters, tensors["W_enc"], jax.random.key(0))
    return encoder, eqx.tree_at(lambda tree: [get(tree) for get in found], blank, values)


def has_form(kind: type) -> bool:
    """True if SAELens has an encoder like one of this class."""
    # A subclass may infer differently, so it inherits no form.
    return class_name(kind) in ENCODERS


def exported(encoder: Encoder, model: Model) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """SAELens's form of an encoder: architecture, options, and tensors except the decoder's."""
    architecture, places = ENCODERS[class_name(type(encoder))]
    row, width = ARCHITECTURES[architecture], model.decoder.shape[1]
    tensors = {name: attrgetter(place)(model.encoder) for name, place in places.items()}
    if places.get("threshold") == LOGARITHMS:
        tensors["threshold"] = jnp.exp(tensors["threshold"])
    fields = zip(row.options, dataclasses.fields(encoder), strict=False)
    options = {name: getattr(encoder, field.name) for name, field in fields}
    if "k" in options:
        # A larger k means all latents.
        options["k"] = min(options["k"], width)
    if architecture == PURSUIT:
        options["pruned"] = bool(tensors)
    elif "threshold" in tensors:
        tensors["threshold"] = jnp.broadcast_to(tensors["threshold"], width)
    if "topk" in architecture:
        options["rescale_acts_by_decoder_norm"] = False
    return architecture, options, tensors
