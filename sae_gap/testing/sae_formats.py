"""The check of a file of an SAE."""

from functools import partial

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from numpy import asarray
from scipy.sparse import csr_array

from sae_gap.core import AnyPath
from sae_gap.saes import load_sae
from sae_gap.testing import Demand, close

Activations = Float[ArrayLike, "..."]
Codes = Float[ArrayLike, "n num_latents"]
Reconstruction = Float[ArrayLike, "n input_dim"]


def check_sae_format(
    path: AnyPath,
    activations: Activations,
    codes: Codes,
    reconstruction: Reconstruction,
) -> None:
    """Checks that a file is read as the SAE that its library makes of it.

    Args:
      path: as for `load_sae`.
      activations: as the library's `encode` takes them; a transcoder's inputs.
      codes: the library's.
      reconstruction: the library's.

    Raises:
      AssertionError: `load_sae` gives other codes, or another reconstruction.
    """
    check_read(Demand(path), path, activations, codes, reconstruction)


def check_read(
    demand: Demand,
    path: AnyPath,
    x: Activations,
    codes: Codes,
    reconstruction: Reconstruction,
) -> None:
    """`check_sae_format`, with a demand of its own."""
    sae = load_sae(path)
    same = partial(close, tol=1e-5)
    read = asarray(sae.encode(x))
    demand(
        np.array_equal(read != 0, asarray(codes) != 0),
        "must have the same latents on; compare k and thresholds",
    )
    demand(
        same(read, codes),
        "must have the same codes; compare weights, biases and `centred`",
    )
    demand(
        sae.signed or read.min() >= 0,
        "has codes below zero; let its encoder be `signed`",
    )
    for form in (asarray, csr_array):
        demand(
            same(sae.decode(form(read), x), reconstruction),
            "must decode them alike; compare W_dec, b_dec and the normalisation",
        )
    # What the codes of both kinds should add up to, of reconstructions.
    if sae.transcodes:
        sums = sae.target(reconstruction, x)
    else:
        rows = np.reshape(x, (len(read), -1))
        demand(
            same(sae.normalisation.undo(sae.target(x) + sae.bias, rows), rows),
            "must undo its normalisation; see `Normalisation.undo`",
        )
        sums = codes * asarray(sae.lengths) @ asarray(sae.unit_dictionary).T
    demand(
        same(sums, read @ sae.model.decoder.T),
        "must have a target and unit atoms of its codes; see `SAE.target` and `lengths`",
    )
