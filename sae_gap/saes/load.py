"""Opens anything that holds atoms: an SAE of any library, and the output of any command."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from sae_gap.core import AnyPath, detached
from sae_gap.saes.find import locate, read
from sae_gap.saes.loaded_sae import SAE, of_parts


def load_sae(
    path: AnyPath,
    sae_id: str | None = None,
    *,
    mean: ArrayLike | Callable[[], ArrayLike] | None = None,
) -> SAE:
    """Opens a published SAE with its own encode and decode, or a bare decoder; executes nothing in
    its files.

    It reads SAELens (`sae_weights.safetensors`), dictionary_learning (`ae.pt`), sparsify
    (`sae.safetensors`) and Gemma Scope (`params.npz`, `params.safetensors`), their transcoders and
    those of circuit-tracer (`layer_0.safetensors`), acausal crosscoders, the output of `save_sae`,
    and the suite's own fits (`fit.safetensors` under results/models/). A bare decoder is the output
    of `learn(...).save` or `train_real`, one array of atoms, (input_dim, num_latents), in a .npy,
    .safetensors or .pt file.

    Args:
      path: the folder of one SAE or dictionary, or the file of its weights with its configuration
        beside it; `~` is your home. With `sae_id`, a release in the local cache of the Hugging Face
        hub, see `hub.cached`.
      sae_id: which SAE of a release; None for a path.
      mean: the bias of a decoder whose file has none, (input_dim,), or a function that returns it;
        None takes zeros.

    Returns:
      The SAE; for a bare decoder `model.encode` is None.

    Raises:
      TypeError: `path` is not a path.
      ValueError: there is no SAE, there are several, or it cannot be read; the message names the
        fault and the mend.
    """
    parts = read(locate(path, sae_id))
    if "b_dec" not in parts.tensors:
        dim = parts.atoms.shape[1]
        given: Any = mean() if callable(mean) else np.zeros(dim) if mean is None else mean
        if np.shape(given) != (dim,):
            raise ValueError(
                f"{path} must be of shape ({np.size(given)}, num_latents), but it is "
                f"{parts.atoms.shape[::-1]}; give one of that layer, or its transpose."
            )
        parts = dataclasses.replace(parts, tensors={**parts.tensors, "b_dec": detached(given)})
    return of_parts(parts)
