"""SynthSAEBench's world at any size."""

from typing import Any

from sae_gap.data import NamedWorld

# The published number of features, and the least that leaves room for three levels of children
# below its 128 roots.
_FULL = 16_384
_THREE_LEVELS = 10_880


def _options(num_latents: int | None) -> dict[str, Any]:
    """Worlds below 10,880 features have two levels of children and a root for every 32 features; a
    tree needs 21 features. Larger ones have the published levels and dimension.
    """
    number = num_latents or _FULL
    if number >= _THREE_LEVELS:
        return {"num_latents": number, "roots": number // 128}
    return {
        "num_latents": number,
        "input_dim": max(8, number // 8),
        "roots": max(number // 32, int(number >= 21)),
        "depth": 2,
    }


SYNTHSAE = NamedWorld("synthsae", _options)
