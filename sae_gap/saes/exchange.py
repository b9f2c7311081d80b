"""An encoder of the suite and its parameters as an architecture with tensors, and back."""

import dataclasses
import importlib
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from sae_gap.core import PURSUIT, Model, Transcoder, class_name, describe, registry
from sae_gap.encoders import AmortisedEncoder, Encoder, as_floats, check_model
from sae_gap.saes.architectures import (
    ARCHITECTURES,
    ENCODERS,
    LOGARITHMS,
    most_of,
    transcoder_of,
)
from sae_gap.saes.parts import OWN, Parts
from sae_gap.storage import Config, Tensors, trees

_KNOWN = (
    "ReLU, TopK, AbsTopK, BatchTopK, Matryoshka, JumpReLU, Gated and SAELens's own matching pursuit"
)


def imported(
    parts: Parts, tensors: Mapping[str, Any], shape: tuple[int, int]
) -> tuple[Encoder, Any]:
    """The encoder of an SAE, and its parameters for a model.

    Args:
      parts: the SAE.
      tensors: its tensors, settled.
      shape: that of W_enc, (num_inputs, num_latents).

    Raises:
      ValueError: the suite has no such encoder, or a parameter or an option of it is missing or
        does not fit.
    """
    row = ARCHITECTURES.get(str(parts.encoder))
    if row is None:
        encoder: Any = _trained(
            Config(Path(f"the fit {parts.notes['fit']}"), parts.options), shape[1]
        )
        places = {name.removeprefix(OWN): name for name in tensors if name.startswith(OWN)}
    else:
        module, kind, names = row.module, row.encoder, row.tensors
        if parts.encoder == PURSUIT and tensors:
            kind, (_, names) = "BatchPursuit", ENCODERS["sae_gap.BatchPursuit"]
        encoder = getattr(importlib.import_module(f"sae_gap.{module}"), kind)(
            *parts.options.values()
        )
        places = {place: name for name, place in names.items()}
    if not places:
        return encoder, None
    held = Tensors(Path("its file"), {place: tensors[name] for place, name in places.items()})

    def taken(path, leaf):
        place = keystr(path)[1:]
        value = jnp.asarray(held.take(place, *leaf.shape))
        # Codes are positive, so a threshold below zero is equivalent to zero.
        return jnp.log(jnp.maximum(value, 0)) if row and place == LOGARITHMS else value

    weight = jax.ShapeDtypeStruct(shape, jnp.zeros(()).dtype)
    blank = eqx.filter_eval_shape(encoder.parameters, weight, jax.random.key(0))
    return encoder, jax.tree.map_with_path(taken, blank)


def has_form(kind: type) -> bool:
    """True if SAELens has an encoder like one of this class."""
    # A subclass may infer differently, so it inherits no form.
    return class_name(kind) in ENCODERS


def form_of(model: Model, encoder: Encoder) -> str | None:
    """SAELens's name of the architecture of an SAE or a transcoder; None if it has none."""
    name, _ = ENCODERS.get(class_name(type(encoder)), (None, None))
    if name and isinstance(model, Transcoder):
        return transcoder_of(name, model.skip is not None)
    return name


def exported(encoder: Encoder, model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """SAELens's form of an encoder: options, and tensors except the decoder's."""
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
    return options, tensors


def as_fit(model: Model, encoder: Encoder, metadata: Mapping[str, Any]) -> bytes:
    """The file of a finished fit with this model, whose note has the metadata.

    Raises:
      ValueError: the suite trains no such encoder, or the parts of the model do not fit.
    """
    if type(encoder) not in _trainable().values():
        fault = f"SAELens has no encoder like {type(encoder).__name__}, and the suite trains none"
        raise ValueError(f"{fault}; give a model or an encoder of {_KNOWN}.")
    check_model(model, encoder)
    for leaf in jax.tree.leaves(model.encoder):
        as_floats("the encoder's parameters", leaf)
    described = describe(encoder)
    if "k" in described:
        # A larger k means all latents.
        described["k"] = min(described["k"], model.decoder.shape[1])
    return trees.dump(model, {"learner": {"encoder": described}, "metadata": metadata})


def _trainable() -> dict[str, type[AmortisedEncoder]]:
    """The encoders that the suite trains in an SAE, by the names of their classes."""
    kinds = registry.classes("sae_gap.encoders", AmortisedEncoder).values()
    return {class_name(kind): kind for kind in kinds if kind.recipe is not None}  # type: ignore[attr-defined]


def _trained(described: Config, num_latents: int) -> AmortisedEncoder:
    """The encoder of a description. Inference needs only the numbers among its hyper-parameters; no
    k exceeds the width.
    """
    kind = _trainable()[described.choice("class", "", _trainable())]
    readers: dict[type, Any] = {
        int: lambda name: described.size(name, most=most_of(name, num_latents)),
        float: described.number,
        bool: lambda name: described.flag(name, False),
    }
    fields = {field.name: readers.get(type(field.default)) for field in dataclasses.fields(kind)}
    return kind(**{name: read(name) for name, read in fields.items() if read})
