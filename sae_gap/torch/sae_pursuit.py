"""What an SAE needs when a pursuit codes it: where its signals come from, and how many atoms a
pruned pursuit keeps.
"""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sae_gap.core import check_threshold, least_gain, screen_sizes
from sae_gap.torch.pursuit import (
    by_rows,
    mean_length,
    screened_pursuit,
    unit_atoms,
    widened,
)


def metadata_of_explained(
    metadata: Mapping[str, Any], *, skips: bool
) -> dict[str, Any]:
    """The metadata of a pursuit of what a transcoder explains. Its hook is the transcoder's output;
    none where a skip is subtracted from that.
    """
    kept = {}
    for name, value in metadata.items():
        if not name.startswith("hook_"):
            kept[name] = value
        elif name.endswith("_out") and not skips:
            kept[name.removesuffix("_out")] = value
    return kept


def pruning_threshold(
    target: Float[Tensor, "n input_dim"],
    W_dec: Float[Tensor, "num_latents input_dim"],  # noqa: N803
    cfg: Any,
    chunk: int,
) -> Float[Tensor, ""]:
    """τ by which a pruned pursuit keeps `cfg.k` atoms on average over these rows.

    Raises:
      ValueError: the rows have fewer atoms.
    """
    weights = widened(W_dec, target)
    atoms, _ = unit_atoms(weights)
    sizes = screen_sizes(2 * cfg.k, cfg.breadth, cfg.screens, *atoms.shape[::-1])

    def gains_of(rows: Tensor) -> Tensor:
        _, _, gains = screened_pursuit(rows, atoms, *sizes, 0)
        return gains

    gains = by_rows(gains_of, chunk, target)
    least = float(least_gain(gains.cpu().numpy(), cfg.k * len(target)))
    threshold = (least**0.5 / mean_length(weights)).to(W_dec)
    # One that its type rounds to zero would prune nothing.
    check_threshold(threshold)
    return threshold
