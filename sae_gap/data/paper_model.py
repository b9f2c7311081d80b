"""The paper's generative model: its dictionary, and the active latents of each sample."""

from typing import cast

import jax.numpy as jnp
import numpy as np

from sae_gap.core import Setting

# The most numbers held at once while drawing supports and dictionaries.
_DRAWS_AT_ONCE = 4_000_000


def draw_dictionary(setting: Setting, active: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws the dictionary in the default float type, and the atoms of the active latents as rows,
    in float64.

    A million atoms in float64 take gigabytes, so it draws some rows at a time, and draws twice:
    first for the atoms' lengths.
    """
    input_dim = cast(int, setting.input_dim)  # A setting fills it in.
    rows = max(1, _DRAWS_AT_ONCE // setting.num_latents)

    def pieces():
        rng = np.random.default_rng([setting.seed, 0])
        for start in range(0, input_dim, rows):
            yield (
                slice(start, start + rows),
                rng.standard_normal((min(rows, input_dim - start), setting.num_latents)),
            )

    squares = np.zeros(setting.num_latents)
    for _, piece in pieces():
        for row in piece:
            squares += row * row
    lengths = np.sqrt(squares)
    dictionary = np.empty((input_dim, setting.num_latents), jnp.zeros(()).dtype)
    atoms = np.empty((len(active), input_dim))
    for place, piece in pieces():
        piece /= lengths
        dictionary[place] = piece
        atoms[:, place] = piece[:, active].T
    return dictionary, atoms


def draw_id_supports(setting: Setting, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the active latents of n in-distribution samples, (n, k)."""
    heads = rng.random(n) < 0.5
    with_zero = _with_latent_zero(setting, n, 1, setting.num_latents - setting.num_ood - 1, rng)
    without_zero = 1 + _distinct(n, setting.sparsity, setting.num_latents - 1, rng, setting.stream)
    return np.where(heads[:, None], with_zero, without_zero)


def draw_ood_supports(setting: Setting, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draws the active latents of n out-of-distribution samples, (n, k)."""
    return _with_latent_zero(
        setting, n, setting.num_latents - setting.num_ood, setting.num_ood, rng
    )


def _with_latent_zero(
    setting: Setting, n: int, first: int, size: int, rng: np.random.Generator
) -> np.ndarray:
    others = first + _distinct(n, setting.sparsity - 1, size, rng, setting.stream)
    return np.concatenate([np.zeros((n, 1), others.dtype), others], axis=1)


def _distinct(
    n: int, k: int, size: int, rng: np.random.Generator, stream: bool = False
) -> np.ndarray:
    """Draws n uniformly random k-subsets of range(size), one a row."""
    if k == 0:
        return np.zeros((n, 0), np.int64)
    # If duplicates are rare, redrawing the rows that have one is cheaper than ranking `size`
    # uniforms a row, which pays from k² latents on. Settings other than streams keep the bound 10
    # k² that stored rows were drawn by.
    if size > (1 if stream else 10) * k * k:
        subsets = rng.integers(size, size=(n, k))
        while True:
            ordered = np.sort(subsets, axis=1)
            clash = np.flatnonzero((ordered[:, 1:] == ordered[:, :-1]).any(axis=1))
            if not clash.size:
                return subsets
            subsets[clash] = rng.integers(size, size=(clash.size, k))
    rows = max(1, _DRAWS_AT_ONCE // size)
    chunks = [rng.random((min(rows, n - start), size)) for start in range(0, n, rows)]
    return np.concatenate([chunk.argpartition(k - 1, axis=1)[:, :k] for chunk in chunks])
