"""An SAE that is given as arrays, of either orientation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sae_gap.core import as_real, check_flag, check_integer
from sae_gap.saes.parts import ARCHITECTURES, Parts, take
from sae_gap.storage import Tensors

# By the architecture of arrays, and whether k and a threshold are given: what infers.
_ENCODERS = {
    ("relu", False, False): "standard",
    ("topk", True, False): "topk",
    ("jumprelu", False, True): "jumprelu",
    ("batchtopk", False, True): "jumprelu",
    ("batchtopk", True, True): "jumprelu",
    ("batchtopk", True, False): "batch_largest",
}


def of_arrays(
    given: Mapping[str, Any],
    architecture: str,
    *,
    k: int | None = None,
    threshold: Any = None,
    centred: bool = True,
    linear: bool | None = None,
    transcoder: bool = False,
    W_skip: Any = None,  # noqa: N803
) -> Parts:
    """The SAE of `W_enc`, `b_enc`, `W_dec` and `b_dec`; the options and the errors are those of
    `SAE.from_arrays`.
    """
    encoder = _ENCODERS.get((architecture, k is not None, threshold is not None))
    if encoder is None:
        raise ValueError(
            f"{architecture!r} with k={k} and a threshold {threshold} is no SAE; relu takes "
            "neither, topk k, jumprelu a threshold, and batchtopk a threshold or k."
        )
    flags = {"centred": centred, "linear": linear or False, "transcoder": transcoder}
    for name, flag in flags.items():
        check_flag(name, flag)
    arrays = {**given, "threshold": threshold, "W_skip": W_skip}
    held = {
        name: as_real(name, value, "an array of floats")
        for name, value in arrays.items()
        if name in given or value is not None
    }
    if "W_skip" in held and not transcoder:
        raise ValueError("an SAE has no W_skip; give transcoder=True, or leave it out.")
    num_latents, input_dim = held["b_enc"].size, held["b_dec"].size
    read = held["W_enc"].size // max(1, num_latents) if transcoder else input_dim
    if k is not None:
        check_integer("k", k, least=1, most=num_latents)

    # Shapes of torch.nn.Linear; the shape of a square matrix does not tell which way round it is.
    shapes = {
        "W_enc": (num_latents, read),
        "W_dec": (input_dim, num_latents),
        "W_skip": (input_dim, read),
    }
    square = [name for name in held if name in shapes and len({*shapes[name]}) == 1]
    for name in shapes.keys() & held.keys():
        if linear if name in square else held[name].shape == shapes[name]:
            held[name] = held[name].T
    notes = dict[str, str]()
    if square and linear is None:
        products = " and ".join(f"{'z' if name == 'W_dec' else 'x'} @ {name}" for name in square)
        notes["square matrices"] = f"taken as {products}; linear=True takes torch.nn.Linear's"
    if encoder == "jumprelu" and held["threshold"].size == 1:
        held["threshold"] = np.resize(held["threshold"], num_latents)
    elif k is not None:
        notes["k"] = str(k)
    tensors = Tensors(Path("the arrays"), held)
    notes["dtype given"] = tensors.dtypes()
    held = take(encoder, tensors, (read, num_latents, input_dim), skip="W_skip" in held)
    options = {name: k for name in ARCHITECTURES[encoder].options}
    return Parts(
        encoder, options, held, "given", architecture, notes, centred=centred, transcodes=transcoder
    )
