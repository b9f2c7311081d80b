"""The encoder of an SAE's files, in JAX."""

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import keystr

from sae_gap.core import PURSUIT, class_name, registry
from sae_gap.encoders import AmortisedEncoder, Encoder
from sae_gap.saes.parts import ARCHITECTURES, ENCODERS, LOGARITHMS, OWN, Parts, most_of
from sae_gap.storage import Config, Tensors


def encoder_of(
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


def trainable() -> dict[str, type[AmortisedEncoder]]:
    """The encoders that the suite trains in an SAE, by the names of their classes."""
    kinds = registry.classes("sae_gap.encoders", AmortisedEncoder).values()
    return {class_name(kind): kind for kind in kinds if kind.recipe is not None}  # type: ignore[attr-defined]


def _trained(described: Config, num_latents: int) -> AmortisedEncoder:
    """The encoder of a description. Inference needs only the numbers among its hyper-parameters; no
    k exceeds the width.
    """
    kind = trainable()[described.choice("class", "", trainable())]
    readers: dict[type, Any] = {
        int: lambda name: described.size(name, least=0, most=most_of(name, num_latents)),
        float: described.number,
        bool: lambda name: described.flag(name, False),
    }
    fields = {field.name: readers.get(type(field.default)) for field in dataclasses.fields(kind)}
    return kind(**{name: read(name) for name, read in fields.items() if read})
