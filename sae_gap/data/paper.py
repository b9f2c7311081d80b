"""Draws the data of a setting of the paper's generative model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from sae_gap.core import DENSE_LATENTS, Setting, Split, Task, check_type
from sae_gap.data import (
    Stream,
    World,
    draw_dictionary,
    draw_id_supports,
    draw_ood_supports,
    noise_scale,
)


def draw(setting: Setting | World) -> Task:
    """Draws a task from the generative model `y = A z`, with k active latents uniform on (0, 1), or
    from a world.

    The atoms are i.i.d. Gaussian directions. An in-distribution sample has, by a fair coin, either
    latent 0 with k - 1 latents of the ID pool, or k latents other than latent 0. An
    out-of-distribution sample has latent 0 with k - 1 latents of the OOD pool, a co-activation that
    training never shows. The dictionary depends only on the seed and the dimensions, so a sweep
    over `num_samples` or `noise_db` keeps it, and so does a stream.

    Args:
      setting: the cell to draw, its seed included, or a world; see `World`.

    Returns:
      A task with `num_samples // 2` training samples, the rest of the ID samples for validation,
      and `num_samples // 2` OOD samples. A stream has `num_samples` training signals without codes,
      and at most 2,500 samples in each other split. Codes of more than 20,000 latents are a sparse
      array.

    References:
      Barin Pacela et al. (2026), "Stop Probing, Start Coding", arXiv:2603.28744, section 3.
    """
    check_type(
        "setting",
        setting,
        (Setting, World),
        "give sae_gap.Setting(num_latents, sparsity) or a world",
    )
    if isinstance(setting, World):
        return setting.task()
    id_rng, ood_rng, noise_rng = (
        np.random.default_rng([setting.seed, stream]) for stream in range(1, 4)
    )
    num_train, num_scored = setting.num_train, setting.num_scored
    id_supports = draw_id_supports(
        setting, num_scored if setting.stream else setting.num_samples, id_rng
    )
    ood_supports = draw_ood_supports(setting, num_scored, ood_rng)
    active = np.unique(np.concatenate([id_supports.ravel(), ood_supports.ravel()]))
    dictionary, atoms = draw_dictionary(setting, active)
    signals, codes = _draw_samples(setting, active, atoms, id_supports, id_rng, noise_rng)
    padding = 0 if setting.padded_dim is None else setting.padded_dim - dictionary.shape[0]

    def split(signals: np.ndarray, codes: Any = None) -> Split:
        padded = np.pad(signals, ((0, 0), (0, padding))) if padding else signals
        return Split(
            # `asarray` would compile a program for each shape.
            jax.device_put(padded),
            jax.device_put(codes) if isinstance(codes, np.ndarray) else codes,
        )

    if setting.stream:
        train, validation = split(Stream(setting, dictionary)(0, num_train)), split(signals, codes)
    else:
        train, validation = (
            split(signals[:num_train], codes[:num_train]),
            split(signals[num_train:], codes[num_train:]),
        )
    return Task(
        train=train,
        id=validation,
        ood=split(*_draw_samples(setting, active, atoms, ood_supports, ood_rng, noise_rng)),
        dictionary=jax.device_put(
            np.pad(dictionary, ((0, padding), (0, 0))) if padding else dictionary
        ),
        width=setting.width or setting.num_latents,
        seed=setting.seed,
        padding=padding,
    )


def _draw_samples(
    setting: Setting, active: np.ndarray, atoms: np.ndarray, supports: np.ndarray, rng, noise_rng
) -> tuple[np.ndarray, Any]:
    """Returns signals and codes for given supports; `atoms` has the atoms of the latents `active`,
    as rows.
    """
    n, k = supports.shape
    values = rng.uniform(size=(n, k)).astype(jnp.zeros(()).dtype)
    places = np.searchsorted(active, supports)
    signals = np.zeros((n, atoms.shape[1]))
    for column in range(k):
        signals += values[:, column, None] * atoms[places[:, column]]
    if setting.noise_db is not None:
        scale = noise_scale(signals, setting.noise_db)
        signals += scale * noise_rng.standard_normal(signals.shape)
    ends, shape = np.arange(0, supports.size + 1, k), (n, setting.num_latents)
    codes: Any = sparse.csr_array((values.ravel(), supports.ravel(), ends), shape)
    dense = setting.num_latents <= DENSE_LATENTS
    return signals.astype(values.dtype), codes.toarray() if dense else codes
