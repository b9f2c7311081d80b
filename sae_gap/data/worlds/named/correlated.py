"""Features that fire together, fewer than dimensions: an SAE with too small a k mixes them.

After the toy model of Chanin & Garriga-Alonso (2025), "Sparse but wrong: incorrect L0 leads to
incorrect features in sparse autoencoders", arXiv:2508.16560: 50 features in 100 dimensions, at
probabilities from .345 down to .05.
"""

from typing import Any

from sae_gap.data import TOY, NamedWorld


def _options(num_latents: int | None) -> dict[str, Any]:
    number = num_latents or 50
    return {
        **TOY,
        "roots": 0,
        "depth": 0,
        "most": 0.345,
        "least": 0.05,
        "rank": 10,
        "correlation": 0.25,
        "orthogonal_steps": 1_000,
        "num_latents": number,
        "input_dim": 2 * number,
    }


CORRELATED = NamedWorld("correlated", _options)
