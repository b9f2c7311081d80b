"""An SAE from the files of any library."""

import os

from sae_gap.saes import own
from sae_gap.saes.find import locate, read
from sae_gap.saes.loaded_sae import SAE, of_parts
from sae_gap.saes.parts import FIT


def load_sae(path: str | os.PathLike[str], sae_id: str | None = None) -> SAE:
    """A published SAE, with its own encode and decode and a model on unit atoms; nothing in its
    files is executed.

    Reads SAELens (`sae_weights.safetensors`), dictionary_learning (`ae.pt`), sparsify
    (`sae.safetensors`) and Gemma Scope (`params.npz`, `params.safetensors`), what `save_sae` wrote,
    and the suite's own fits (`fit.safetensors` under results/models/).

    Args:
      path: the folder of one SAE, or the file of its weights with its configuration beside it; `~`
        is your home. With `sae_id` the release of one in the local cache of the Hugging Face hub,
        which `hub.cached` describes.
      sae_id: which SAE of a release; None for a path.

    Returns:
      The SAE.

    Raises:
      TypeError: `path` is not a path.
      ValueError: there is no SAE, there are several, or it cannot be read; the message names the
        fault and the mend.
    """
    weights = locate(path, sae_id)
    return own.load_fit(weights) if weights.name == FIT else of_parts(read(weights))
