"""SynthSAEBench's world at any size."""

from sae_gap.data import NamedWorld

# The published number of features, and the least that leaves room for three levels of children
# below its 128 roots.
_FULL, _THREE_LEVELS = 16_384, 10_880


def _options(num_latents):
    """Worlds below 10,880 features have two levels of children and a root for every 32 features; a
    tree needs 21 features.
    """
    number = _FULL if num_latents is None else num_latents
    deep = number >= _THREE_LEVELS
    trees = (
        {"roots": number // 128, "depth": 3}
        if deep
        else {"roots": max(number // 32, int(number >= 21)), "depth": 2}
    )
    return {"num_latents": number, "input_dim": 768 if deep else max(8, number // 8)} | trees


SYNTHSAE = NamedWorld(
    "synthsae",
    "SynthSAEBench's world: Zipf frequencies, correlation and trees, at any size",
    _options,
)
