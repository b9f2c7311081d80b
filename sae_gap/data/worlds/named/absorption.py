"""A parent, its child, and a latent for each: codes are sparsest if the child's latent also points
in the parent's direction.

After Chanin et al. (2024), "A is for absorption: studying feature splitting and absorption in
sparse autoencoders", arXiv:2409.14507.
"""

from typing import Any

from sae_gap.data import TOY, NamedWorld


def parent_and_child(num_latents: int | None) -> dict[str, Any]:
    """Returns the options of a world of two features."""
    if num_latents not in (None, 2):
        raise ValueError(
            f"this world has 2 features, not {num_latents}; leave num_latents out."
        )
    law = {"roots": 1, "branching": 1, "depth": 1, "most": 0.3, "least": 0.15}
    return {**TOY, **law, "num_latents": 2, "input_dim": 20}


ABSORPTION = NamedWorld("absorption", parent_and_child)
