"""Makes the model of an SAE from the parts of its file: its encoder, by its row in `ARCHITECTURES`
or by its description in a fit, and that encoder's parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr

from sae_gap import encoders
from sae_gap.core import (
    PURSUIT,
    Model,
    Normalisation,
    Transcoder,
    class_name,
    registry,
)
from sae_gap.encoders import AmortisedEncoder, Encoder
from sae_gap.saes import foreign_encoders
from sae_gap.saes.parts import (
    ARCHITECTURES,
    ENCODERS,
    LOGARITHMS,
    OWN,
    Parts,
    most_of,
)
from sae_gap.storage import Config, Tensors

# Tensors by name.
Held = dict[str, np.ndarray]


def model_of(parts: Parts) -> Model:
    """The model of an SAE, with its encoder if it has one.

    Raises:
      ValueError: a bias overflows on the target, or the encoder or its parameters do not fit.
    """
    tensors = parts.settled(jax.dtypes.canonicalize_dtype(parts.atoms.dtype))
    dictionary = jnp.asarray(tensors.pop("W_dec")).T
    bias = jnp.asarray(tensors.pop("b_dec"))
    if parts.encoder is None:
        return Model(dictionary, bias)
    skip: Any = tensors.pop("W_skip", None)
    # It is settled into the biases of a W_enc.
    centre: Any = tensors.pop("centre", None)
    if centre is None:
        centre = np.zeros(len(tensors.get("W_enc", bias)), bias.dtype)
    shape = len(centre), dictionary.shape[1]
    encoder, parameters = _encoder_of(parts, tensors, shape)
    if parts.transcodes:
        if skip is not None:
            skip = jnp.asarray(skip)
        return Transcoder(
            dictionary,
            bias,
            parameters,
            encoder,
            centre=jnp.asarray(centre),
            skip=skip,
        )
    normalisation: Normalisation | None = parts.normalisation
    if type(normalisation) is Normalisation:
        normalisation = None
    return Model(dictionary, bias, parameters, encoder, normalisation=normalisation)


def _encoder_of(parts: Parts, tensors: Held, shape: tuple[int, int]) -> tuple[Any, Any]:
    """The encoder of an SAE, and its parameters for a model.

    Args:
      parts: the SAE.
      tensors: those of the encoder, settled.
      shape: that of W_enc, (num_inputs, num_latents).

    Raises:
      ValueError: the suite has no such encoder, or a parameter or an option of it is missing or
        does not fit.
    """
    if parts.encoder in ARCHITECTURES:
        encoder, places = _published(parts, tensors)
    else:
        described = Config(Path(f"the fit {parts.notes['fit']}"), dict(parts.options))
        encoder = _trained(described, shape[1])
        places = {name: name.removeprefix(OWN) for name in tensors}
    if not places:
        return encoder, None
    held = Tensors(
        Path("its file"), {place: tensors[name] for name, place in places.items()}
    )

    def taken(path: Any, leaf: Any) -> jax.Array:
        place = keystr(path)[1:]
        value = jnp.asarray(held.take(place, *leaf.shape))
        if place == LOGARITHMS and parts.encoder in ARCHITECTURES:
            # Codes are positive, so a threshold below zero is equivalent to zero.
            value = jnp.log(jnp.maximum(value, 0))
        return value

    blank = eqx.filter_eval_shape(
        encoder.parameters,
        jax.ShapeDtypeStruct(shape, jnp.zeros(()).dtype),
        jax.random.key(0),
    )
    return encoder, jax.tree.map_with_path(taken, blank)


def _published(parts: Parts, tensors: Held) -> tuple[Any, Mapping[str, str]]:
    """An encoder of the table, and the places of its tensors by their names."""
    kind, places, _ = ARCHITECTURES[str(parts.encoder)]
    if parts.encoder == PURSUIT and tensors:
        kind = "BatchPursuit"
        _, places = ENCODERS["sae_gap.BatchPursuit"]
    home = encoders if hasattr(encoders, kind) else foreign_encoders
    return getattr(home, kind)(*parts.options.values()), places


def trainable() -> dict[str, type[AmortisedEncoder]]:
    """The encoders that the suite trains in an SAE, by the names of their classes."""
    kinds = registry.classes("sae_gap.encoders", AmortisedEncoder).values()
    return {
        class_name(kind): kind
        for kind in kinds
        if kind.recipe is not None  # type: ignore[attr-defined]
    }


def _trained(described: Config, num_latents: int) -> Encoder:
    """The encoder of a description. Inference needs only the numbers among its hyper-parameters; no
    k exceeds the width.
    """
    kind = trainable()[described.choice("class", "", trainable())]

    def size(name: str) -> int:
        return described.size(name, least=0, most=most_of(name, num_latents))

    def flag(name: str) -> bool:
        return described.flag(name, False)

    readers: dict[type, Callable] = {int: size, float: described.number, bool: flag}
    options = {}
    for field in fields(kind):
        reader = readers.get(type(field.default))
        if reader:
            options[field.name] = reader(field.name)
    return kind(**options)
