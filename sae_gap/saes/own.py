"""The suite's own form of an SAE: the file of a finished fit, for every encoder that the suite
trains.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from sae_gap.core import identity, registry
from sae_gap.core.types import Model, Transcoder
from sae_gap.encoders.encoder import AmortisedEncoder, Encoder, check_model
from sae_gap.saes import decoders, loaded_sae
from sae_gap.saes.loaded_sae import SAE
from sae_gap.saes.parts import MOST, NOTED
from sae_gap.storage import trees
from sae_gap.storage.tensor_files import Config, read_safetensors

# How to get an encoder for a model without one.
FITTED = "fit an encoder for it by sae_gap.learn(activations, width, l0).save_sae(folder)"
# Entries of the note that a report shows.
_TOLD = ("learner", "seed", "data", *NOTED)
_KNOWN = (
    "ReLU, TopK, AbsTopK, BatchTopK, Matryoshka, JumpReLU, Gated and SAELens's own matching pursuit"
)


def content_of(model: Model, encoder: Encoder, metadata: Mapping[str, Any]) -> bytes:
    """The file of a finished fit with this model, its note being the metadata.

    Raises:
      ValueError: the suite trains no such encoder, or the parts of the model do not fit.
    """
    if type(encoder) not in _trainable().values():
        fault = f"SAELens has no encoder like {type(encoder).__name__}, and the suite trains none"
        raise ValueError(f"{fault}; give a model or an encoder of {_KNOWN}.")
    assert isinstance(encoder, AmortisedEncoder)
    check_model(model, encoder)
    blank = _blank(encoder, model.decoder.shape, model.num_inputs)
    if jax.tree.structure(model.encoder) != jax.tree.structure(blank.encoder):  # type: ignore
        raise ValueError(
            f"the model has no parameters that {type(encoder).__name__} could read; {FITTED}."
        )
    _check_finite(model)
    described = identity.describe(encoder)
    if "k" in described:
        # A larger k means all latents.
        described["k"] = min(described["k"], model.decoder.shape[1])
    return trees.dump(model, {"learner": {"encoder": described}, "metadata": metadata})


def load_fit(path: Path) -> SAE:
    """The SAE, or the bare decoder, of a finished fit.

    Args:
      path: the file `fit.safetensors` that `sae_gap.study.models` keeps and `save_sae` writes.

    Returns:
      The SAE.

    Raises:
      ValueError: the file is damaged, or of another learner or encoder; the message names the fault
        and the mend.
    """
    content = path.read_bytes()
    try:
        note = Config(Path("its note"), trees.read_note(content))
        learner = note.part("learner")
        described = learner.part("encoder")
        name = learner.text("class", "").rpartition(".")[2]
        if name and not described.entries:
            return loaded_sae.of_parts(decoders.load(path))
        tensors = read_safetensors(path)
        shape = tensors.shape(".dictionary")
        encoder = _trained(described, shape[1])
        read = tensors.sizes(".centre")[0] if ".centre" in tensors else None
        model = trees.load(content, _blank(encoder, shape, read, ".skip" in tensors))
        _check_finite(model)
        check_model(model, encoder)
        told = (
            ({"learner": name} if name else {})
            | note.part("source").entries
            | note.part("metadata").entries
        )
    except ValueError as error:
        fault = str(error).rstrip(".")
        raise ValueError(
            f"{path} cannot be read as an SAE ({fault}); give another fit, or fit it again."
        ) from None
    notes = {"fit": path.parent.name} | {part: told[part] for part in _TOLD if part in told}
    fitted = dataclasses.replace(model, encode=encoder)
    return loaded_sae.described(fitted, notes)


def _blank(
    encoder: AmortisedEncoder,
    shape: tuple[int, ...],
    num_inputs: int | None = None,
    skip: bool = False,
) -> Model:
    """The shapes of a model with a dictionary of this shape, or of a transcoder of `num_inputs`."""
    form = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.zeros(()).dtype)
    dim, num_latents = shape
    read = dim if num_inputs is None else num_inputs
    weight = form((read, num_latents))
    parameters = eqx.filter_eval_shape(encoder.parameters, weight, jax.random.key(0))  # type: ignore[arg-type]
    parts: Any = (form(shape), form((dim,)), parameters)
    if num_inputs is None:
        return Model(*parts)
    more: Any = {"centre": form((read,)), "skip": form((read, dim)) if skip else None}
    return Transcoder(*parts, **more)


def _check_finite(model: Model) -> None:
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(model)):
        raise ValueError("the parameters have NaN or infinite entries; train the model again.")


def _trainable() -> dict[str, type[AmortisedEncoder]]:
    """The encoders that the suite trains in an SAE, by the names of their classes."""
    kinds = registry.classes("sae_gap.encoders", AmortisedEncoder).values()
    return {identity.class_name(kind): kind for kind in kinds if kind.recipe is not None}  # type: ignore[attr-defined]


def _trained(described: Config, num_latents: int) -> AmortisedEncoder:
    """The encoder of a description. Inference needs only the numbers among its hyper-parameters; no
    k exceeds the width.
    """
    kinds = _trainable()
    kind = kinds[described.choice("class", "", kinds)]
    numbers: dict[str, float] = {}
    for field in dataclasses.fields(kind):
        if type(field.default) is int:
            most = num_latents if field.name == "k" else max(num_latents, MOST)
            numbers[field.name] = described.size(field.name, most=most)
        elif type(field.default) is float:
            numbers[field.name] = described.number(field.name)
        elif type(field.default) is bool:
            numbers[field.name] = described.flag(field.name, field.default)
    return kind(**numbers)
