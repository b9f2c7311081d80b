"""An SAE from arrays in memory, of NumPy, JAX or PyTorch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sae_gap.core import as_real, check_choice, check_flag, check_integer, shown
from sae_gap.saes.parts import ARCHITECTURES, Parts, take
from sae_gap.storage import Tensors

# The options of an architecture; at least one is needed.
_TAKES = {
    "relu": (),
    "topk": ("k",),
    "batchtopk": ("threshold", "k"),
    "jumprelu": ("threshold",),
}


def read(
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
    check_choice("architecture", architecture, _TAKES)
    takes, options = _TAKES[architecture], {"k": k, "threshold": threshold}
    has = [name for name, value in options.items() if value is not None]
    if {*has} - {*takes} or (takes and not has):
        wanted = " or ".join(takes) or "neither k nor threshold"
        raise ValueError(
            f"{architecture} takes {wanted}, but it is given {' and '.join(has) or 'none'}."
        )
    for name, flag in (
        ("centred", centred),
        ("transcoder", transcoder),
        ("linear", linear or False),
    ):
        check_flag(name, flag)
    arrays = {**given, "threshold": threshold, "W_skip": W_skip}
    held = {
        name: as_real(name, value, "an array of floats")
        for name, value in arrays.items()
        if name in given or value is not None
    }
    if "W_skip" in held and not transcoder:
        raise ValueError("an SAE has no W_skip; give transcoder=True, or leave it out.")
    for name in ("b_enc", "b_dec"):
        if held[name].ndim != 1 or not held[name].size:
            raise ValueError(
                f"{name} must be a vector with entries, but it is {shown(held[name])}."
            )
    num_latents, input_dim = held["b_enc"].size, held["b_dec"].size
    read = held["W_enc"].size // num_latents if transcoder else input_dim
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
    encoder = "standard"
    if "threshold" in held:
        encoder = "jumprelu"
        if held["threshold"].size == 1:
            held["threshold"] = np.resize(held["threshold"], num_latents)
    elif k is not None:
        encoder, notes["k"] = "topk" if architecture == "topk" else "batch_largest", str(k)
    tensors = Tensors(Path("the arrays"), held)
    notes["dtype given"] = tensors.dtypes()
    held = take(encoder, tensors, (read, num_latents, input_dim), skip="W_skip" in held)
    options = {name: k for name in ARCHITECTURES[encoder].options}
    about: dict[str, Any] = {"centred": centred, "transcodes": transcoder}
    return Parts(encoder, options, held, "given", architecture, notes, **about)
