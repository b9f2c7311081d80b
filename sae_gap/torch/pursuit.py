"""The codes of a screened pursuit and least squares on a support, with gradients, in PyTorch."""

from collections.abc import Callable, Sequence
from functools import partial
from math import nan
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_gap.core import check_k, check_number, check_size, screen_sizes, shown
from sae_gap.loops import host
from sae_gap.torch import batched

# As many rows at once as a CPU's cache holds, and enough for the compiled loops and accelerators.
FEW_ROWS = 128
MANY_ROWS = 2048


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
    of `BatchPursuit`, which pursues 2 k atoms and drops one after another while that adds less than
    `τ²` to the squared error.

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
      threshold: τ over the root mean square of the atoms' lengths; None drops no atom.
      chunk: rows at once; None takes 2,048, or 128 on a CPU if gradients are wanted.

    Returns:
      Codes in units of W_dec and the type of the target, (..., num_latents).

    Raises:
      TypeError: the target or W_dec is no tensor of floating-point numbers.
      ValueError: a size is no positive integer, k is beyond the dimensions or the latents, the
        threshold is negative, or target and atoms differ in their dimension or their device.
    """
    for name, size in (("k", k), ("breadth", breadth), ("screens", screens)):
        check_size(name, size)
    check_tensor("W_dec", W_dec, ("num_latents", "input_dim"), "give atoms as rows")
    check_tensor(
        "target",
        target,
        ("...", W_dec.shape[1]),
        "give W_dec as (num_latents, input_dim)",
        W_dec,
    )
    check_k(k, *W_dec.shape[::-1])
    weights = widened(W_dec, target)
    pursued = k
    atoms, lengths = unit_atoms(weights)
    if threshold is not None:
        check_pruning(threshold)
        pursued = 2 * k
        threshold = threshold * mean_length(weights)
    sizes = screen_sizes(pursued, breadth, screens, *atoms.shape[::-1])
    learns = _learns(target, weights)

    def coded(rows: Tensor) -> Tensor:
        # A row or an atom that is not finite would be an error of LAPACK, or choose no atom.
        finite = (rows.square().sum(1, keepdim=True) + lengths.sum()).isfinite()
        rows = rows.where(finite, 0)
        with torch.no_grad():
            chosen, codes, _ = screened_pursuit(rows, atoms, *sizes, threshold)
            on = codes > 0
            if not learns:
                codes = codes / lengths[chosen]
            codes = rows.new_zeros(len(rows), len(atoms)).scatter_add_(1, chosen, codes)
        if learns:
            # A CPU is faster with places for the atoms that stay alone.
            held = supports(codes) if _on_host(rows) else (chosen, on)
            codes = least_squares(rows, atoms, codes, *held).clamp(min=0) / lengths
        return codes.masked_fill_(~finite, nan)

    if chunk is None and not learns:
        chunk = MANY_ROWS
    return by_rows(coded, chunk, target).to(target.dtype)


def screened_pursuit(
    target: Float[Tensor, "n input_dim"],
    atoms: Float[Tensor, "num_latents input_dim"],
    num_candidates: int,
    sizes: tuple[int, ...],
    threshold: Tensor | float | None,
) -> Sequence[Tensor]:
    """`sae_gap.loops.host.screened_pursuit` on a CPU, and elsewhere its form for accelerators."""
    if not _on_host(target):
        return batched.screened_pursuit(target, atoms, num_candidates, sizes, threshold)
    if threshold is not None:
        threshold = float(threshold)
    result = host.screened_pursuit(
        target.detach().numpy(),
        atoms.detach().numpy(),
        num_candidates,
        sizes,
        threshold,
    )
    return [torch.from_numpy(part) for part in result]


def _on_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _learns(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def pursuit_options(sae: Any) -> dict[str, Any]:
    """The options of `pursuit_codes` in the configuration and the threshold of an SAE."""
    options = {name: getattr(sae.cfg, name) for name in ("k", "breadth", "screens")}
    return options | {"threshold": sae.threshold}


def least_squares(
    target: Float[Tensor, "n input_dim"],
    atoms: Float[Tensor, "num_latents input_dim"],
    codes: Float[Tensor, "n num_latents"],
    places: Int[Tensor, "n size"],
    on: Bool[Tensor, "n size"],
    *,
    anew: bool = False,
) -> Float[Tensor, "n num_latents"]:
    """Least squares on the supports of codes: the codes given, or a new solution of least norm.

    With the inverse G⁺ held fixed, the step `z ← z + G⁺ Dᵀ (y - D z)` from a solution, at which
    Dᵀ (y - D z) vanishes, has the gradient of the solution.

    Args:
      target: y, (n, input_dim).
      atoms: of unit length, (num_latents, input_dim).
      codes: z, (n, num_latents).
      places: the atoms in each support, (n, size).
      on: a mask of those that are not padding, (n, size).
      anew: whether to solve anew.
    """
    with torch.no_grad():
        own = atoms[places]
        shown = on[:, :, None]
        gram = own @ own.mT * (shown & shown.mT)
        solve = partial(batched.least_norm, gram)
        if anew:
            values = solve(own @ target[:, :, None] * shown)
            # Refined once.
            values += solve(own @ (target[:, :, None] - own.mT @ values) * shown)
            codes = torch.zeros_like(codes).scatter_add_(1, places, values[:, :, 0])
    if anew and not _learns(target, atoms):
        return codes
    pull = ((target - codes @ atoms) @ atoms.mT).gather(1, places) * on
    return codes.scatter_add(1, places, solve(pull[:, :, None])[:, :, 0])


def supports(codes: Tensor) -> tuple[Tensor, Tensor]:
    """The atoms in each support, and a mask of those that are not padding. The host reads the sizes
    of the supports, once for all rows.
    """
    shown = codes != 0
    on, places = shown.to(codes).topk(max([1, *shown.sum(1).tolist()]))
    return places, on > 0


def unit_atoms(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Atoms at unit length and their lengths; an atom of zeros stays, with length 1."""
    lengths = weights.norm(dim=1)
    lengths = lengths.where(lengths != 0, 1)
    return weights / lengths[:, None], lengths


def mean_length(weights: Tensor) -> Tensor:
    """The root mean square of the lengths of the atoms that are not zero."""
    squares = weights.detach().square().sum(1)
    return (squares.sum() / (squares > 0).sum()).sqrt()


def widened(values: Tensor, like: Tensor) -> Tensor:
    """Values in the type of `like`, or in float32 if that is narrower."""
    return values.to(torch.promote_types(like.dtype, torch.float32))


def by_rows(
    function: Callable[..., Tensor], chunk: int | None, *arrays: Tensor
) -> Tensor:
    """Applies a function to chunks of rows in float32 at least, outside any autocast; the result
    has the leading axes of the arrays.
    """
    like = arrays[0]
    if chunk is None:
        chunk = FEW_ROWS if _on_host(like) else MANY_ROWS
    check_size("chunk", chunk)
    rows = [widened(array, like).reshape(-1, array.shape[-1]) for array in arrays]
    with torch.autocast(like.device.type, enabled=False):
        chunks = zip(*(array.split(chunk) for array in rows), strict=True)
        parts = [function(*arrays) for arrays in chunks]
    # One part is not copied.
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    return joined.reshape((*like.shape[:-1], *joined.shape[1:]))


def check_tensor(
    name: str,
    values: Any,
    shape: Sequence[int | str],
    mend: str,
    like: Tensor | None = None,
) -> None:
    """Raises a TypeError unless the values are a tensor of floating-point numbers, and a ValueError
    unless they have the shape and lie on the device of `like`.

    Args:
      name: their name in the message.
      values: to check.
      shape: its axes; a name stands for any length, and "..." for any axes before the last.
      mend: what to give instead.
      like: a tensor on the device.
    """
    if not (isinstance(values, Tensor) and values.is_floating_point()):
        raise TypeError(
            f"{name} is {shown(values)}; give a tensor of floating-point numbers, such as "
            "torch.as_tensor(values).float()."
        )
    axes = ", ".join(map(str, shape))
    if "..." in shape:
        shape = (*values.shape[:-1], shape[-1])
    pairs = zip(shape, values.shape, strict=False)
    if len(shape) != values.ndim or not all(
        isinstance(axis, str) or axis == length for axis, length in pairs
    ):
        raise ValueError(
            f"{name} must be ({axes}), but it is {tuple(values.shape)}; {mend}."
        )
    if like is not None and values.device != like.device:
        raise ValueError(
            f"{name} is on {values.device}, but W_dec on {like.device}; move one by .to(device)."
        )


def check_pruning(threshold: Any) -> None:
    """Raises a ValueError unless a number, or a tensor of one, is finite and at least 0."""
    if isinstance(threshold, Tensor) and threshold.ndim == 0:
        threshold = threshold.item()
    check_number("threshold", threshold, least=0)
