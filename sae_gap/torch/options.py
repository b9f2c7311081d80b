"""The architectures of an SAE in PyTorch: their options, and what these may be."""

from typing import Any

import torch
from torch import Tensor, nn

from sae_gap.core import PURSUIT, check_choice, check_k, check_size
from sae_gap.torch.pursuit import check_pruning, check_tensor

# The options of each architecture with their default values; `...` has none.
OPTIONS: dict[str, dict[str, Any]] = {
    PURSUIT: {"k": ..., "breadth": 2, "screens": 2, "threshold": None},
    "standard": {},
    "topk": {"k": ...},
    "learned_steps": {"k": ..., "breadth": 2, "steps": ()},
    "jumprelu": {"threshold": ...},
    "dictionary": {},
}


def settle_options(
    architecture: str, given: dict[str, Any], *, transcodes: bool, encodes: bool
) -> dict[str, Any]:
    """The options of an architecture, those that are not given with their default values.

    Args:
      architecture: its name.
      given: options by name; None is as good as not given.
      transcodes: whether the SAE is a transcoder.
      encodes: whether it has a W_enc.

    Raises:
      TypeError: the architecture has no such option.
      ValueError: there is no such architecture, no transcoder has it, or an option or W_enc is
        missing.
    """
    check_choice("architecture", architecture, OPTIONS)
    if transcodes and architecture in (PURSUIT, "learned_steps"):
        raise ValueError(
            f"a transcoder's {architecture} codes what it explains, not what it reads; give "
            "the architecture of its encoder, and code sae.signals(y, x) by sae.pursuit(k)."
        )
    given = {name: value for name, value in given.items() if value is not None}
    if foreign := sorted(given.keys() - OPTIONS[architecture]):
        raise TypeError(f"{architecture} has no {', '.join(foreign)}; leave it out.")
    options = OPTIONS[architecture] | given
    missing = [name for name, value in options.items() if value is ...]
    if not encodes and (transcodes or architecture not in (PURSUIT, "dictionary")):
        missing.insert(0, "W_enc")
    if missing:
        raise ValueError(f"{architecture} needs {', '.join(missing)}; give it.")
    return options


def check_sizes(architecture: str, sizes: dict[str, Any], width: int, dim: int) -> None:
    """Raises a ValueError unless the sizes among the options suit atoms (width, dim)."""
    for name, value in sizes.items():
        check_size(name, value)
    if architecture == PURSUIT:
        check_k(sizes["k"], dim, width)
    elif sizes.get("k", 1) > width:
        raise ValueError(
            f"k must be at most the {width} latents, but it is {sizes['k']}."
        )


def as_parameter(
    name: str, value: Tensor | None, shape: tuple[int, ...], atoms: Tensor
) -> nn.Parameter | None:
    """A tensor of this shape, on the device of the atoms, as a parameter; None stays."""
    if value is None:
        return None
    check_tensor(name, value, shape, "transpose a weight of torch.nn.Linear", atoms)
    if name in ("W_dec", "W_skip"):
        check_finite(name, value)
    return value if isinstance(value, nn.Parameter) else nn.Parameter(value)


def as_threshold(architecture: str, threshold: Any, atoms: Tensor) -> Tensor | None:
    """The threshold of a pursuit, a number, or those of JumpReLU, one for each latent, in the type
    of the atoms. Raises a ValueError for anything else.
    """
    if threshold is None:
        return None
    if architecture == PURSUIT:
        check_pruning(threshold)
        return tensor_like(threshold, atoms)
    threshold = tensor_like(threshold, atoms)
    if not threshold.ndim:
        threshold = threshold.expand(len(atoms)).clone()
    check_tensor("threshold", threshold, (len(atoms),), "give one for each latent")
    # With an infinite threshold a latent never fires, or always.
    check_finite("threshold", threshold.clamp(-1, 1))
    return threshold


def tensor_like(value: Any, like: Tensor) -> Tensor:
    """A value as a tensor of the type and on the device of another."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def check_finite(name: str, values: Tensor) -> None:
    """Raises a ValueError if a value is NaN or infinite."""
    if not values.isfinite().all():
        raise ValueError(
            f"{name} must be finite, but has NaN or infinite entries, as float16 has beyond 65,504."
        )
