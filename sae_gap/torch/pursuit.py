"""The codes of a screened pursuit and least squares on a support, with gradients, in PyTorch."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_gap.core import pursuit
from sae_gap.core.checks import check_number, check_size, shown

# Rows at once, enough to keep an accelerator busy.
CHUNK_ACCELERATED = 2048


def pursuit_codes(
    target: Float[Tensor, "... input_dim"],
    W_dec: Float[Tensor, "num_latents input_dim"],  # noqa: N803
    *,
    k: int,
    breadth: int = 2,
    screens: int = 2,
    threshold: Float[Tensor, ""] | float | None = None,
    chunk: int | None = None,
) -> Float[Tensor, "... num_latents"]:
    """The codes of `sae_gap.encoders.screened_pursuit`: of `ScreenedPursuit` and, with a threshold,
    of `BatchPursuit`, which pursues 2 k atoms and drops those whose absence adds less than `τ²` to
    the squared error.

    In float32 they equal those of JAX to 1e-5 of the largest code, except for ties up to rounding:
    between two copies of an atom, between two atoms that correlate equally with a signal, between a
    gain and the threshold, and once so little of a signal remains that rounding chooses, as from
    input_dim atoms on.

    Gradients reach the target and the dictionary, with the support held fixed.

    Args:
      target: activations less b_dec, (..., input_dim).
      W_dec: atoms of any length, (num_latents, input_dim).
      k: atoms in a code, on average if there is a threshold.
      breadth: candidates of a screen for each atom of the pursuit.
      screens: products with the dictionary that propose candidates; on a coherent dictionary two
        have up to 2.4 times the error of orthogonal matching pursuit, and six 1.01 times.
      threshold: τ, in units of the root mean square of the atoms' lengths; None drops no atom.
      chunk: rows at once; None takes 128 on a CPU and 2,048 elsewhere.

    Returns:
      Codes in units of W_dec and the type of the target, (..., num_latents).

    Raises:
      TypeError: the target or W_dec is no tensor of floating-point numbers.
      ValueError: a size is no positive integer, the threshold is negative, or target and atoms
        differ in their dimension or their device.
    """
    for name, size in (("k", k), ("breadth", breadth), ("screens", screens)):
        check_size(name, size)
    check_tensor("W_dec", W_dec, ("num_latents", "input_dim"), "give atoms as rows")
    mend = "give W_dec as (num_latents, input_dim)"
    check_tensor("target", target, ("...", W_dec.shape[1]), mend, W_dec)
    weights, pursued = widened(W_dec, target), k
    atoms, lengths = unit_atoms(weights)
    if threshold is not None:
        check_scalar("threshold", threshold)
        pursued, least = 2 * k, (threshold * mean_length(weights)) ** 2

    def coded(rows):
        # A row or an atom that is not finite would be an error of LAPACK, or choose no atom.
        finite = (rows.square().sum(1, keepdim=True) + lengths.sum()).isfinite()
        rows = rows.where(finite, 0)
        with torch.no_grad():
            chosen, codes, gains = pursuit.pursue(rows, atoms, pursued, breadth, screens)
            if threshold is not None:
                on = (gains > 0) & (gains >= least)
                codes, _ = pursuit.least_squares(rows, atoms[chosen], on)
            codes = pursuit.scatter(chosen, codes, len(atoms))
        if torch.is_grad_enabled() and (rows.requires_grad or weights.requires_grad):
            codes = least_squares(rows, atoms, codes).clamp(min=0)
        return [(codes / lengths).where(finite, math.nan)]

    return by_rows(coded, chunk, target)[0].to(target.dtype)


def pursuit_options(sae: Any) -> dict[str, Any]:
    """The options of `pursuit_codes` in the configuration and the threshold of an SAE."""
    options = {name: getattr(sae.cfg, name) for name in ("k", "breadth", "screens")}
    return options | {"threshold": sae.threshold}


def least_squares(target, atoms, codes, *, anew=False):
    """Least squares on the support of codes: the codes given, or a new solution of least norm.

    With the inverse G⁺ held fixed, the step `z ← z + G⁺ Dᵀ (y - D z)` from a solution, at which
    Dᵀ (y - D z) vanishes, has the gradient of the solution.
    """
    with torch.no_grad():
        support = codes != 0
        places = support.float().topk(max([1, *support.sum(1).tolist()]), dim=1).indices
        on = support.gather(1, places)
        own = atoms[places] * on[:, :, None]
        inverse = pursuit.inverse_gram(own @ own.mT, on, least_norm=anew)
        if anew:
            values = inverse @ (own @ target[:, :, None])
            codes = torch.zeros_like(codes).scatter(1, places, values[:, :, 0])
    pull = ((target - codes @ atoms) @ atoms.mT).gather(1, places) * on
    return codes.scatter_add(1, places, (inverse @ pull[:, :, None])[:, :, 0])


def unit_atoms(weights):
    """Atoms at unit length and their lengths; an atom of zeros stays, with length 1."""
    lengths = weights.norm(dim=1)
    lengths = lengths.where(lengths != 0, 1)
    return weights / lengths[:, None], lengths


def mean_length(weights):
    """The root mean square of the lengths of the atoms that are not zero."""
    squares = weights.detach().square().sum(1)
    return squares[squares > 0].mean().sqrt()


def widened(values, like):
    """Values in the type of `like`, or in float32 if that is narrower."""
    return values.to(torch.promote_types(like.dtype, torch.float32))


def by_rows(function: Callable[..., Any], chunk: int | None, *arrays: Tensor) -> list[Tensor]:
    """Applies a function to chunks of rows in float32 at least, outside any autocast; the results
    have the leading axes of the arrays.
    """
    like = arrays[0]
    on_cpu = like.device.type == "cpu"
    size = (pursuit.CHUNK if on_cpu else CHUNK_ACCELERATED) if chunk is None else chunk
    check_size("chunk", size)
    rows = [widened(array, like).reshape(-1, array.shape[-1]) for array in arrays]
    with torch.autocast(like.device.type, enabled=False):
        parts = pursuit.by_chunk(function, size, *rows)
    return [part.reshape((*like.shape[:-1], *part.shape[1:])) for part in parts]


def check_tensor(
    name: str, values: Any, shape: Sequence[int | str], mend: str, like: Tensor | None = None
) -> None:
    """Raises a TypeError unless the values are a tensor of floating-point numbers, and a ValueError
    unless they have the shape and lie on the device of `like`.

    Args:
      name: their name in the message.
      values: to check.
      shape: its axes; a name stands for any length, and "..." at the start for any axes.
      mend: what to give instead.
      like: a tensor on the device.
    """
    if not (isinstance(values, Tensor) and values.is_floating_point()):
        raise TypeError(
            f"{name} is {shown(values)}; give a tensor of floating-point numbers, such as "
            "torch.as_tensor(values).float()."
        )
    last = shape[shape[:1] == ("...",) :]
    found = values.shape[-len(last) :] if len(last) < len(shape) else values.shape
    wanted = [
        axis if isinstance(axis, int) else length for axis, length in zip(last, found, strict=False)
    ]
    if len(found) != len(last) or [*found] != wanted:
        axes = ", ".join(map(str, shape))
        raise ValueError(f"{name} must be ({axes}), but it is {tuple(values.shape)}; {mend}.")
    if like is not None and values.device != like.device:
        raise ValueError(
            f"{name} is on {values.device}, but W_dec on {like.device}; move one by .to(device)."
        )


def check_scalar(name: str, value: Any) -> None:
    """Raises a ValueError unless a number, or a tensor of one, is finite and at least 0."""
    is_tensor = isinstance(value, Tensor) and value.ndim == 0
    check_number(name, value.item() if is_tensor else value, least=0)
