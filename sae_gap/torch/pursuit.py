"""The codes of a screened pursuit and least squares on a support, with gradients, in PyTorch."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_gap.core import pursuit
from sae_gap.core.checks import check_number, check_size, shown

# Rows at once that keep an accelerator busy.
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
    of `BatchPursuit`, which pursues 2 k atoms and leaves out those whose absence adds less than
    `τ²` to the squared error.

    They are those of JAX to 1e-5 of the largest in float32, but for ties up to rounding: between
    two copies of an atom, where a signal correlates with two atoms alike, between a gain and the
    threshold, and once so little of a signal is left that rounding chooses, as from input_dim
    atoms on.

    Gradients reach the target and the dictionary, at a support that is held fixed.

    Args:
      target: activations less b_dec, (..., input_dim).
      W_dec: atoms of any length, (num_latents, input_dim).
      k: atoms in a code, with a threshold on average.
      breadth: candidates of a screen for each atom that is pursued.
      screens: products with the dictionary that propose candidates.
      threshold: τ, in units of the root mean square of the atoms' lengths; None leaves none out.
      chunk: rows at once; None takes 128 on a CPU and 2,048 elsewhere.

    Returns:
      Codes in units of W_dec and the type of the target, (..., num_latents).

    Raises:
      TypeError: the target or W_dec is no tensor of floating-point numbers.
      ValueError: a size is no positive integer, the threshold is negative, or target and atoms
        differ in their dimension or lie on two devices.
    """
    for name, size in (("k", k), ("breadth", breadth), ("screens", screens)):
        check_size(name, size)
    if threshold is not None:
        check_scalar("threshold", threshold)
    check_tensor("W_dec", W_dec, ("num_latents", "input_dim"), "give atoms as rows")
    mend = "give W_dec as (num_latents, input_dim)"
    check_tensor("target", target, ("...", W_dec.shape[1]), mend, W_dec)
    size = rows_at_once(chunk, target)
    with torch.autocast(target.device.type, enabled=False):
        (rows,) = as_rows(target)
        weights = W_dec.to(rows.dtype)
        # A row that is no number would be an error of LAPACK; it must show.
        finite = rows.square().sum(1, keepdim=True).isfinite()
        rows = rows.where(finite, 0)
        with torch.no_grad():
            atoms, lengths = unit_atoms(weights)
            pursued = k if threshold is None else 2 * k
            options = {"breadth": breadth, "screens": screens, "chunk": size}
            chosen, codes, gains = pursuit.pursue(rows, atoms, pursued, **options)
            if threshold is not None:
                least = (threshold * mean_length(weights)) ** 2
                codes = pursuit.prune(rows, atoms, chosen, gains, least, chunk=size)
            codes = pursuit.scatter(chosen, codes, len(atoms)) / lengths
        if torch.is_grad_enabled() and (rows.requires_grad or weights.requires_grad):

            def with_gradient(rows, codes):
                return (least_squares(rows, weights, codes).clamp(min=0),)

            (codes,) = pursuit.by_chunk(with_gradient, size, rows, codes)
        codes = codes.where(finite, math.nan)
        return codes.reshape(*target.shape[:-1], codes.shape[1]).to(target.dtype)


def least_squares(target, weights, codes, *, anew=False):
    """Least squares on the support of codes: these codes, or the solution of least norm found anew.

    With the inverse G⁺ held fixed, the step `z ← z + G⁺ Dᵀ (y - D z)` from a solution, at which
    Dᵀ (y - D z) vanishes, has the gradient of the solution.
    """
    with torch.no_grad():
        atoms, lengths = unit_atoms(weights)
        support = (codes != 0) & (weights != 0).any(1)
        places = support.to(codes).topk(max([1, *support.sum(1).tolist()]), dim=1).indices
        on, long = support.gather(1, places), lengths[places]
        own = atoms[places] * on[:, :, None]
        inverse = pursuit.inverse_gram(own @ own.mT, on, least_norm=anew) * on[:, :, None]
        if anew:
            values = (inverse @ (own @ target[:, :, None]))[:, :, 0] / long
            codes = torch.zeros_like(codes).scatter(1, places, values)
    pull = ((target - codes @ weights) @ weights.mT).gather(1, places) / long
    step = (inverse @ (pull * on)[:, :, None])[:, :, 0] / long
    return codes.scatter_add(1, places, step)


def unit_atoms(weights):
    """Atoms at unit length and their lengths; an atom of zeros stays, with length 1."""
    largest = weights.abs().amax(1, keepdim=True)
    largest = torch.where(largest != 0, largest, 1)
    scaled = weights / largest
    lengths = scaled.square().sum(1, keepdim=True).sqrt()
    lengths = torch.where(lengths != 0, lengths, 1)
    return scaled / lengths, (largest * lengths)[:, 0]


def mean_length(weights):
    """The root mean square of the lengths of the atoms that are not zero."""
    squares = weights.detach().square().sum(1)
    return (squares.sum() / (squares > 0).sum().clamp(min=1)).sqrt()


def floats(*arrays):
    """Arrays in the type of the first, or in float32 where that is narrower."""
    kind = torch.promote_types(arrays[0].dtype, torch.float32)
    return [array.to(kind) for array in arrays]


def as_rows(*arrays):
    """The same with their leading axes in one."""
    return [array.reshape(-1, array.shape[-1]) for array in floats(*arrays)]


def rows_at_once(chunk: int | None, like: Tensor) -> int:
    """Rows that are coded at once: those asked for, or what suits the device."""
    if chunk is None:
        return pursuit.CHUNK if like.device.type == "cpu" else CHUNK_ACCELERATED
    check_size("chunk", chunk)
    return chunk


def check_tensor(
    name: str, values: Any, shape: Sequence[int | str], mend: str, like: Tensor | None = None
) -> None:
    """Raises a TypeError unless the values are a tensor of floating-point numbers, and a ValueError
    unless they are of a shape and on the device of another.

    Args:
      name: what the message calls them.
      values: to check.
      shape: its axes; a name stands for any length, and "..." at the start for any axes.
      mend: what to give.
      like: a tensor on the device.
    """
    if not (isinstance(values, Tensor) and values.is_floating_point()):
        raise TypeError(
            f"{name} is {shown(values)}; give a tensor of floating-point numbers, such as "
            "torch.as_tensor(values).float()."
        )
    last = shape[shape[0] == "..." :]
    found = values.shape[-len(last) :] if len(last) < len(shape) else values.shape
    if len(found) != len(last) or any(
        axis not in (length, str(axis)) for axis, length in zip(last, found, strict=True)
    ):
        raise ValueError(
            f"{name} must be ({', '.join(map(str, shape))}), but it is {tuple(values.shape)}; {mend}."
        )
    if like is not None and values.device != like.device:
        raise ValueError(
            f"{name} is on {values.device}, but W_dec on {like.device}; move one by .to(device)."
        )


def check_scalar(name: str, value: Any) -> None:
    """Raises a ValueError unless the value, a number or a tensor of one, is finite and at least 0."""
    is_tensor = isinstance(value, Tensor) and value.ndim == 0
    check_number(name, value.item() if is_tensor else value, least=0)
