"""Writes SAEs in SAELens's form, or in the suite's own form if SAELens has no such encoder."""

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from sae_gap.core import (
    PURSUIT,
    AnyPath,
    Model,
    Normalisation,
    Transcoder,
    check_type,
    class_name,
    describe,
)
from sae_gap.encoders import Encoder, as_floats, check_model
from sae_gap.saes import saelens
from sae_gap.saes.find import write_free
from sae_gap.saes.loaded_sae import SAE
from sae_gap.saes.models import trainable
from sae_gap.saes.parts import (
    ARCHITECTURES,
    ENCODERS,
    FIT,
    LOGARITHMS,
    NOTED,
    transcoder_of,
)
from sae_gap.storage import trees


def save_sae(
    model: Model | SAE,
    folder: AnyPath,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes an SAE in SAELens's form; SAELens then encodes and decodes as the suite does.

    SAELens reads a screened pursuit after `import sae_gap.torch.saelens`. An SAE whose encoder
    SAELens lacks is written in the suite's own form, which only `load_sae` reads; a warning says
    so.

    Args:
      model: a learned model, or an SAE of any library that `load_sae` returned.
      folder: the folder to make, a path or the URL of one in a bucket; it must not exist, be empty,
        or have the very same files. `~` is your home.
      metadata: further entries of the configuration, such as `model_name` and `hook_name`.

    Raises:
      TypeError: `model` is neither, `folder` is not a path, or the metadata have no form in JSON.
      ValueError: the model has no dictionary or no encoder, or one that is neither SAELens's nor
        trained by the suite, a weight is not finite, or the folder is taken or cannot be written
        to.
    """
    files = files_of(model, metadata=metadata)
    write_free(folder, files)
    if FIT in files:
        logging.warning(
            "SAELens has no encoder like that of %s: sae_gap.load_sae alone reads it",
            folder,
        )


def files_of(
    model: Model | SAE, *, metadata: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """The files that `save_sae` writes, by their names; the configuration comes last, since without
    it readers find nothing.
    """
    check_type("model", model, (Model, SAE), "give a learned model or a loaded SAE")
    sae = model if isinstance(model, SAE) else SAE(model)
    plain: Any = sae.model
    normalises = type(sae.normalisation)
    said = {name: value for name, value in sae.notes.items() if name in NOTED}
    said |= as_metadata(metadata)
    encoder = plain.encode
    if encoder is None:
        raise ValueError(
            "the model is a dictionary alone, which is no SAE; fit an encoder by "
            "sae_gap.learn(activations, width, l0).save_sae(folder), or give a model that has one."
        )
    check_model(plain)
    width = plain.decoder.shape[1]
    if hasattr(encoder, "k"):
        # A larger k means all latents.
        encoder = replace(encoder, k=min(encoder.k, width))
    architecture, _ = ENCODERS.get(class_name(type(encoder)), (None, None))
    transcodes = isinstance(plain, Transcoder)
    if transcodes and architecture:
        architecture = transcoder_of(architecture, plain.skip is not None)
    if normalises.saelens is None or (
        not architecture and normalises is not Normalisation
    ):
        raise ValueError(
            f"an SAE whose activations are normalised by {sae.normalisation.name} cannot be "
            "written as a whole; normalise the activations yourself and give a model of those."
        )
    if architecture is None:
        return {FIT: as_fit(plain, encoder, said)}
    options, tensors = exported(encoder, plain)
    if transcodes:
        tensors["b_enc"] = tensors["b_enc"] - plain.centre @ tensors["W_enc"]
        options["d_out"] = plain.decoder.shape[0]
        if plain.skip is not None:
            tensors["W_skip"] = plain.skip.T
    entries = {
        "architecture": architecture,
        "d_in": plain.num_inputs,
        "d_sae": width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": not transcodes,
        "normalize_activations": normalises.saelens,
        "reshape_activations": "hook_z" if sae.heads else "none",
        "metadata": {},
        **options,
    }
    tensors |= {"W_dec": plain.decoder.T, "b_dec": plain.bias}
    return saelens.written(entries, tensors, said)


def has_form(kind: type) -> bool:
    """True if SAELens has an encoder like one of this class."""
    # A subclass may infer differently, so it inherits no form.
    return class_name(kind) in ENCODERS


def exported(encoder: Encoder, model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """SAELens's form of an encoder: options, and tensors except the decoder's."""
    architecture, places = ENCODERS[class_name(type(encoder))]
    tensors = {name: attrgetter(place)(model.encoder) for name, place in places.items()}
    if places.get("threshold") == LOGARITHMS:
        tensors["threshold"] = jnp.exp(tensors["threshold"])
    options = {
        name: getattr(encoder, field.name)
        for name, field in zip(
            ARCHITECTURES[architecture].options,
            fields(encoder),
            strict=False,
        )
    }
    if architecture == PURSUIT:
        options["pruned"] = bool(tensors)
    elif "threshold" in tensors:
        width = model.decoder.shape[1]
        tensors["threshold"] = jnp.broadcast_to(tensors["threshold"], width)
    if "topk" in architecture:
        options["rescale_acts_by_decoder_norm"] = False
    return options, tensors


def as_fit(model: Model, encoder: Encoder, metadata: Mapping[str, Any]) -> bytes:
    """The file of a finished fit with this model, whose note has the metadata.

    Raises:
      ValueError: the suite trains no such encoder, or its parameters are not finite.
    """
    if type(encoder) not in trainable().values():
        raise ValueError(
            f"SAELens has no encoder like {type(encoder).__name__}, and the suite trains none; "
            "give a model or an encoder of ReLU, TopK, AbsTopK, BatchTopK, Matryoshka, JumpReLU, "
            "Gated and SAELens's own matching pursuit."
        )
    for leaf in jax.tree.leaves(model.encoder):
        as_floats("the encoder's parameters", leaf)
    note = {"learner": {"encoder": describe(encoder)}, "metadata": metadata}
    return trees.dump(model, note)


def as_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The metadata for a configuration, or a TypeError if they have no form in JSON."""
    check_type(
        "metadata",
        metadata,
        (Mapping, type(None)),
        "give a mapping such as {'hook_name': '...'}",
    )
    plain = dict(metadata or {})
    try:
        json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"metadata have no form in JSON ({error}); give plain strings and numbers of Python."
        ) from None
    return plain
