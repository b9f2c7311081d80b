"""SAEs of this suite for others: a folder as SAELens of version 6 keeps them, which `load_sae` reads as well."""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import save_file

from sae_gap.core.checks import check_path, check_unmasked
from sae_gap.core.types import Model
from sae_gap.encoders.batchtopk import BatchTopK
from sae_gap.encoders.encoder import Affine, Encoder
from sae_gap.encoders.gated import Gated
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.matryoshka import MatryoshkaBatchTopK
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.saes import foreign_encoders, normalise, saelens
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage.results import version
from sae_gap.storage.tensor_files import brief

# The first version whose configuration has this form.
_VERSION = "6.0.0"
_NORMALISATIONS = {
    normalise.Normalisation: "none",
    normalise.LayerNorm: "layer_norm",
    normalise.ConstantNorm: "constant_norm_rescale",
}
_KNOWN = "ReLU, TopK, AbsTopK, BatchTopK, Matryoshka, JumpReLU, Gated and SAELens's own matching pursuit"


def save_sae(
    model: Model | SAE,
    folder: str | os.PathLike[str],
    *,
    encoder: Encoder | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes an SAE that SAELens loads, and encodes and decodes as the suite does.

    The folder appears whole or not at all.

    Args:
      model: what a learner learned, or an SAE that `load_sae` gave, whatever library it is of.
      folder: to be made; it must not be there, or be empty.
      encoder: how to infer; None takes `model.encode`.
      metadata: what the configuration says of the SAE beside its sizes, such as `model_name` and `hook_name`.

    Raises:
      TypeError: what is given is no model, or the folder no path.
      ValueError: the model has no dictionary or no encoder, SAELens has no encoder like it, a weight is not finite, the
        metadata are not those of a configuration, or the folder is taken or cannot be written to.
    """
    if not isinstance(model, Model | SAE):
        raise TypeError(f"a model or a loaded SAE can be saved, but a {type(model).__name__} is neither; give one of them.")
    check_path("folder", folder)
    normalisation, heads = "none", False
    if isinstance(model, SAE):
        if encoder is not None:
            raise ValueError("an SAE that was loaded has its encoder; leave encoder out, or give sae.model and an encoder.")
        if type(model.normalisation) not in _NORMALISATIONS:
            raise ValueError(
                f"an SAE whose activations are normalised by {model.normalisation.name} cannot be written as a whole; "
                "normalise the activations yourself and give a model of those."
            )
        normalisation, heads = _NORMALISATIONS[type(model.normalisation)], model.heads
        metadata = {name: value for name, value in model.notes.items() if name in ("model_name", "hook_name")} | dict(
            _mapping(metadata)
        )
        model, bias = model.model, model.bias
    else:
        bias = model.bias
    config, arrays = as_saelens(model, encoder, bias)
    form = config["metadata"]
    config |= {
        "normalize_activations": normalisation,
        "reshape_activations": "hook_z" if heads else "none",
        # First in the file, and whatever the metadata say.
        "metadata": form | dict(_mapping(metadata)) | form,
    }
    try:
        text = json.dumps(config, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"metadata must have a form in JSON ({brief(error)}); give numbers, texts, lists and mappings."
        ) from None
    # A path such as "." has no name of its own.
    _write(Path(folder).absolute(), text, arrays)


def as_saelens(
    model: Model, encoder: Encoder | None = None, bias: Float[ArrayLike, " input_dim"] | None = None
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The configuration and the tensors by which SAELens infers as a model does.

    Args:
      model: with a dictionary.
      encoder: how to infer; None takes `model.encode`.
      bias: what the decoder adds; None takes `model.bias`.

    Raises:
      ValueError: the model has no dictionary or no encoder, SAELens has no encoder like it, or a weight is not finite.
    """
    encoder = model.encode if encoder is None else encoder  # type: ignore[assignment]
    if encoder is None:
        raise ValueError(
            "the model has no encoder, and an SAE is not one without; train one for its dictionary with "
            "sae_gap.learners.amortised.Amortised, or give encoder."
        )
    if not isinstance(encoder, Encoder):
        raise ValueError(
            f"encoder must be an encoder of the suite, but it is a {type(encoder).__name__}; give one of {_KNOWN}."
        )
    architecture, options, tensors = _form(encoder, model)
    tensors |= {"b_dec": model.bias if bias is None else bias}
    for name, value in tensors.items():
        check_unmasked(name, value)
    arrays = {name: np.array(value, np.float32, order="C") for name, value in tensors.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has NaN or infinite entries; train the model again before it is saved.")
    input_dim, num_latents = model.decoder.shape
    config = {
        "architecture": architecture,
        "d_in": input_dim,
        "d_sae": num_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"sae_lens_version": _VERSION, "sae_gap_version": version("sae_gap")},
        **options,
    }
    return config, arrays


def _mapping(metadata: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if not isinstance(metadata, Mapping | None):
        raise ValueError(f"metadata must be a mapping, but they are a {type(metadata).__name__}; name each entry.")
    return metadata or {}


def _form(encoder: Encoder, model: Model) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """SAELens's architecture, the options that it needs, and its tensors but the decoder's bias."""
    kind, parameters, atoms = type(encoder), model.encoder, model.decoder.T
    if kind is ReLU:
        return "standard", {}, _affine(parameters, atoms)
    # A class of its own may infer in its own way, and so a subclass is none of these.
    if isinstance(encoder, TopK) and kind is TopK:
        return "topk", _k(encoder.k, atoms), _affine(parameters, atoms)
    if isinstance(encoder, foreign_encoders.RankedTopK | foreign_encoders.AbsTopK):
        # The ranking is that of the atoms which the affine map was learned with.
        name = "topk" if isinstance(encoder, foreign_encoders.RankedTopK) else "abstopk"
        tensors = _affine(parameters.affine, atoms * parameters.scale[:, None])
        return name, _k(encoder.k, atoms), tensors
    if kind in (BatchTopK, MatryoshkaBatchTopK) or isinstance(encoder, foreign_encoders.Threshold):
        limits = jnp.broadcast_to(parameters.threshold, (len(atoms),))
        return "jumprelu", {}, _affine(parameters.affine, atoms) | {"threshold": limits}
    if kind is JumpReLU:
        return "jumprelu", {}, _affine(parameters.affine, atoms) | {"threshold": jnp.exp(parameters.log_threshold)}
    if kind is Gated:
        gate = {"W_enc": parameters.gate.weight, "b_gate": parameters.gate.bias}
        return "gated", {}, gate | {"r_mag": parameters.log_scale, "b_mag": parameters.bias, "W_dec": atoms}
    if isinstance(encoder, foreign_encoders.RepeatingPursuit):
        options = {"max_iterations": encoder.rounds, "residual_threshold": encoder.residual}
        tensors = {"W_dec": atoms * parameters.scale[:, None]}
        return "matching_pursuit", options | {"stop_on_duplicate_support": encoder.stop_on_repeat}, tensors
    raise ValueError(f"SAELens has no encoder like {kind.__name__}; give a model or an encoder of {_KNOWN}.")


def _k(k: int, atoms: Any) -> dict[str, Any]:
    return {"k": min(k, len(atoms)), "rescale_acts_by_decoder_norm": False}


def _affine(affine: Affine, atoms: Any) -> dict[str, Any]:
    if not isinstance(affine, Affine) or affine.weight.shape != atoms.T.shape:
        raise ValueError("the model does not hold the parameters of that encoder; give the encoder that it was trained with.")
    return {"W_enc": affine.weight, "b_enc": affine.bias, "W_dec": atoms}


def _write(folder: Path, config: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Both files in a folder beside, which then takes the name."""
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; choose another folder, or remove it.")
    # Of a short name, since that of the folder with more to it may be too long.
    draft = folder.with_name(f".sae-{secrets.token_hex(8)}")
    try:
        draft.mkdir(parents=True)
        save_file(dict(arrays), draft / saelens.WEIGHTS)
        (draft / saelens.CONFIG).write_text(config + "\n")
        os.replace(draft, folder)
    except (OSError, SafetensorError) as error:
        fault = brief(error) if isinstance(error, SafetensorError) else error.strerror
        raise ValueError(f"the SAE cannot be written to {folder} ({fault}); choose another folder.") from None
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(draft)
