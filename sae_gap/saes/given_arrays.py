"""The parts of an SAE that is given as arrays, whose matrices may stand either way round. No JAX is
loaded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sae_gap.core import as_real, check_flag, check_integer
from sae_gap.saes.parts import ARCHITECTURES, Parts, Sizes, take
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
    check_flag("centred", centred)
    check_flag("linear", linear or False)
    check_flag("transcoder", transcoder)
    if W_skip is not None and not transcoder:
        raise ValueError("an SAE has no W_skip; give transcoder=True, or leave it out.")
    held = {}
    for name, value in {**given, "W_skip": W_skip, "threshold": threshold}.items():
        if value is not None or name in given:
            held[name] = as_real(name, value, "an array of floats")
    num_latents = held["b_enc"].size
    input_dim = held["b_dec"].size
    num_inputs = input_dim
    if transcoder:
        num_inputs = held["W_enc"].size // max(1, num_latents)
    sizes = Sizes(num_inputs, num_latents, input_dim)
    if k is not None:
        check_integer("k", k, most=num_latents)
    notes = {}
    square = _turn(held, sizes, linear)
    if square and linear is None:
        notes["square matrices"] = (
            f"taken as {' and '.join(square)}; linear=True takes torch.nn.Linear's"
        )
    if threshold is not None and held["threshold"].size == 1:
        held["threshold"] = np.resize(held["threshold"], num_latents)
    elif k is not None:
        notes["k"] = str(k)
    tensors = Tensors(Path("the arrays"), held)
    notes["dtype given"] = tensors.dtypes()
    return Parts(
        encoder,
        dict.fromkeys(ARCHITECTURES[encoder].options, k),
        take(encoder, tensors, sizes, skip=W_skip is not None),
        "given",
        architecture,
        notes,
        centred,
        transcodes=transcoder,
    )


def _turn(held: dict[str, np.ndarray], sizes: Sizes, linear: bool | None) -> list[str]:
    """Transposes the matrices that stand as `torch.nn.Linear` keeps them, square ones if `linear`
    is true. Returns the products by which square ones are taken, since their shapes tell nothing.
    """
    num_inputs, num_latents, input_dim = sizes
    shapes = {
        "W_enc": (num_latents, num_inputs),
        "W_dec": (input_dim, num_latents),
        "W_skip": (input_dim, num_inputs),
    }
    products = []
    for name, (rows, columns) in shapes.items():
        if name not in held:
            continue
        turned = held[name].shape == (rows, columns)
        if rows == columns:
            turned = bool(linear)
            products.append(f"{'z' if name == 'W_dec' else 'x'} @ {name}")
        if turned:
            held[name] = held[name].T
    return products
