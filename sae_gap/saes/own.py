"""SAEs of this suite: written as SAELens of version 6 keeps them, and read from the suite's own fits."""

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save

from sae_gap.core import identity, registry
from sae_gap.core.checks import check_path, check_type
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import AmortisedEncoder, Encoder, check_model, unit_atoms
from sae_gap.saes import saelens
from sae_gap.saes.foreign_encoders import ForeignEncoder, ForeignParameters
from sae_gap.saes.loaded_sae import SAE
from sae_gap.saes.normalise import Normalisation
from sae_gap.storage import trees
from sae_gap.storage.folder import Folder
from sae_gap.storage.results import version
from sae_gap.storage.tensor_files import Config, Tensors, read_safetensors

# The file of a finished fit.
WEIGHTS = "fit.safetensors"
# The first version whose configuration has this form.
_VERSION = "6.0.0"
_FITTED = "fit an encoder for it by sae_gap.learn(activations).save(folder)"
_KNOWN = "ReLU, TopK, AbsTopK, BatchTopK, Matryoshka, JumpReLU, Gated and SAELens's own matching pursuit"


def save_sae(
    model: Model | SAE,
    folder: str | os.PathLike[str],
    *,
    encoder: Encoder | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes an SAE that SAELens loads, and encodes and decodes as the suite does.

    Args:
      model: what a learner learned, or an SAE that `load_sae` gave, whatever library it is of.
      folder: to be made, a path or the URL of one in a bucket; it must not exist, or be empty. `~` is your home.
      encoder: how to infer; None takes `model.encode`.
      metadata: what the configuration says of the SAE beside its sizes, such as `model_name` and `hook_name`.

    Raises:
      TypeError: `model` is neither, `folder` is not a path, or the metadata have no form in JSON.
      ValueError: the model has no dictionary or no encoder, SAELens has no encoder like it, a weight is not finite, or the
        folder is taken or cannot be written to.
    """
    check_free(folder)
    _write(Folder(folder), files_of(model, encoder=encoder, metadata=metadata))


def files_of(
    model: Model | SAE, *, encoder: Encoder | None = None, metadata: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """The files that `save_sae` writes, by their names; the configuration comes last, and without it nothing is read."""
    if not isinstance(model, Model | SAE):
        raise TypeError(f"a model or a loaded SAE can be saved, but a {type(model).__name__} is neither; give one of them.")
    form, told = {}, as_metadata(metadata)
    if isinstance(model, SAE):
        if encoder is not None:
            raise ValueError("an SAE that was loaded has its encoder; leave encoder out, or give sae.model and an encoder.")
        if model.normalisation.saelens is None:
            raise ValueError(
                f"an SAE whose activations are normalised by {model.normalisation.name} cannot be written as a whole; "
                "normalise the activations yourself and give a model of those."
            )
        form["normalize_activations"] = model.normalisation.saelens
        form["reshape_activations"] = "hook_z" if model.heads else "none"
        told = {name: value for name, value in model.notes.items() if name in ("model_name", "hook_name")} | told
        model = dataclasses.replace(model.model, bias=model.bias)
    config, arrays = as_saelens(model, encoder)
    # The versions come first, and no metadata replace them.
    versions = config["metadata"]
    config |= form | {"metadata": versions | told | versions}
    text = json.dumps(config, indent=1, allow_nan=False)
    return {saelens.WEIGHTS: save(arrays), saelens.CONFIG: f"{text}\n".encode()}


def has_form(kind: type) -> bool:
    """Whether SAELens has an encoder like one of this class."""
    if issubclass(kind, ForeignEncoder):
        return kind.architecture is not None
    # A subclass may infer in its own way, so each class says itself how it is exported.
    return "exported" in vars(kind)


def check_form(kind: type) -> None:
    """Raises a ValueError where SAELens has no encoder like one of this class."""
    if not has_form(kind):
        raise ValueError(f"SAELens has no encoder like {kind.__name__}; give a model or an encoder of {_KNOWN}.")


def as_saelens(model: Model, encoder: Encoder | None = None) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The configuration and the tensors by which SAELens infers as a model does.

    Args:
      model: with a dictionary; the bias is what the decoder adds.
      encoder: how to infer; None takes `model.encode`.

    Raises:
      ValueError: the model has no dictionary or no encoder, SAELens has no encoder like it, or a weight is not finite.
    """
    chosen: Any = model.encode if encoder is None else encoder
    if chosen is None:
        raise ValueError(f"the model is a dictionary alone, which is no SAE; {_FITTED}, or give encoder.")
    check_model(model, encoder)
    check_form(type(chosen.trained if isinstance(chosen, Rescaled) else chosen))
    if model.encoder is None:
        raise ValueError(f"the model has no parameters that {type(chosen).__name__} could read; {_FITTED}.")
    architecture, options, tensors = chosen.exported(model)
    arrays = {name: np.array(value, np.float32, order="C") for name, value in (tensors | {"b_dec": model.bias}).items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has NaN or infinite entries; train the model again before it is saved.")
    config = {
        "architecture": architecture,
        "d_in": model.decoder.shape[0],
        "d_sae": model.decoder.shape[1],
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": _VERSION, "sae_gap_version": version("sae_gap")},
        **options,
    }
    return config, arrays


def load_fit(path: Path) -> SAE:
    """The SAE that a finished fit of `SparseAutoencoder` ended with.

    Args:
      path: of the file `fit.safetensors`, which `sae_gap.study.models` keeps.

    Returns:
      The SAE.

    Raises:
      ValueError: the file is damaged, or of another learner or encoder; the message names the fault and the mend.
    """
    content = path.read_bytes()
    try:
        note = Config(path, trees.read_note(content))
        learner = note.part("learner")
        described = learner.part("encoder")
        name = learner.text("class", "").rpartition(".")[2]
        if not described.entries:
            raise ValueError(f"it is of {name}, which learns no encoder; write its atoms by numpy.save as a dictionary")
        encoder = _trained(described)
        weight = jax.ShapeDtypeStruct(read_safetensors(path).shape(".dictionary"), jnp.zeros(()).dtype)
        bias = jax.ShapeDtypeStruct(weight.shape[:1], weight.dtype)
        blank = Model(weight, bias, eqx.filter_eval_shape(encoder.parameters, weight, jax.random.key(0)))  # type: ignore[arg-type]
        model = trees.load(content, blank)
    except ValueError as error:
        fault = str(error).rstrip(".")
        raise ValueError(f"{path} cannot be read as an SAE ({fault}); give another fit, or fit it again.") from None
    if has_form(type(encoder)):
        config, arrays = as_saelens(model, encoder)
        sae = saelens.assemble(Config(path, config), Tensors(path, arrays))
    else:
        sae = _without_form(model, encoder)
    source = note.part("source").entries
    notes = {"fit": path.parent.name, "learner": name} | {part: source[part] for part in ("seed", "data") if part in source}
    entries = tuple((part, str(value)) for part, value in notes.items())
    return dataclasses.replace(sae, library="sae_gap", architecture=encoder.name, entries=entries)


class OwnParameters(ForeignParameters):
    """The model whose codes, times the scale, are on unit atoms."""

    model: Model | None = None


class Rescaled(Encoder):
    """An encoder that no library has, with codes on unit atoms."""

    trained: AmortisedEncoder

    @property
    def signed(self):
        return self.trained.signed

    def __call__(self, model, signals):
        return self.trained(model.encoder.model, signals) * model.encoder.scale


def _without_form(model: Model, encoder: AmortisedEncoder) -> SAE:
    check_model(model, encoder)
    atoms, scale = unit_atoms(model.decoder)
    lengths = jnp.where(jnp.any(atoms != 0, axis=0), scale, 0)
    centred = dataclasses.replace(model, bias=jnp.zeros_like(model.bias))
    unit = Model(atoms, centred.bias, OwnParameters(None, scale, {}, centred), Rescaled(encoder))
    return SAE(unit, model.bias, scale, lengths, Normalisation(), "sae_gap", encoder.name, centred=True)


def _trained(described: Config) -> AmortisedEncoder:
    """The encoder of a description. Of its hyper-parameters inference asks for whole numbers alone, such as k."""
    kinds = {identity.class_name(kind): kind for kind in registry.saes().values()}
    kind = kinds[described.choice("class", "", kinds)]
    sizes = [field.name for field in dataclasses.fields(kind) if type(field.default) is int and field.name in described]
    return kind(**{name: described.size(name) for name in sizes})


def as_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a configuration is to say of an SAE, or a TypeError where it has no form in JSON."""
    check_type("metadata", metadata, (Mapping, type(None)), "give a mapping such as {'hook_name': '...'}")
    told = dict(metadata or {})
    try:
        json.dumps(told)
    except (TypeError, ValueError) as error:
        raise TypeError(f"metadata have no form in JSON ({error}); give plain strings and numbers of Python.") from None
    return told


def check_free(folder: str | os.PathLike[str]) -> None:
    """Raises a ValueError where an SAE cannot be written to a folder, since files are in it already."""
    check_path("folder", folder)
    try:
        if Folder(folder).names():
            raise FileExistsError(0, "it is there already")
    except OSError as error:
        raise ValueError(f"the SAE cannot be written to {folder} ({error.strerror}); choose another folder.") from None


def _write(folder: Folder, files: Mapping[str, bytes]) -> None:
    """Writes the files in their order into a folder without any; on disk all of them appear at once."""
    try:
        if folder.local is None:
            _put(folder, files)
        else:
            beside = folder.local.absolute().parent
            beside.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".draft-", dir=beside) as drafts:
                _put(Folder(drafts) / "sae", files)
                os.rename(Path(drafts) / "sae", folder.local)
    except OSError as error:
        raise ValueError(f"the SAE cannot be written to {folder} ({error.strerror}); choose another folder.") from None


def _put(folder: Folder, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        folder.write(name, content)
