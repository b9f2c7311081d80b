"""How SAELens of version 6 keeps an SAE of this suite."""

from typing import Any

import numpy as np

from sae_gap.core.types import Model
from sae_gap.encoders.encoder import AmortisedEncoder, Encoder, check_model
from sae_gap.storage.results import version

# The first version whose configuration has this form.
_VERSION = "6.0.0"
# How a model without an encoder comes to one.
FITTED = "fit an encoder for it by sae_gap.learn(activations).save(folder)"


def has_form(kind: type) -> bool:
    """Whether SAELens has an encoder like one of this class."""
    # A subclass may infer in its own way, so each class says itself how it is exported.
    return "exported" in vars(kind)


def as_saelens(model: Model, encoder: Encoder) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The configuration and the tensors by which SAELens infers as a model does.

    Args:
      model: with a dictionary; the bias is what the decoder adds.
      encoder: how to infer, one that SAELens has.

    Raises:
      ValueError: the parts of the model do not fit, the encoder has no parameters, or a weight is not finite.
    """
    check_model(model, encoder)
    if model.encoder is None and isinstance(encoder, AmortisedEncoder):
        raise ValueError(f"the model has no parameters that {type(encoder).__name__} could read; {FITTED}.")
    architecture, options, tensors = encoder.exported(model)  # type: ignore[misc]
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
