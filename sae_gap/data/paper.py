"""The paper's generative model: tasks, and training signals that are drawn on request."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy import sparse

from sae_gap.core import DENSE_LATENTS, Setting, Split, Task, check_type

# The most numbers held at once while drawing supports and dictionaries.
_DRAWS_AT_ONCE = 4_000_000
# The codes and signals of a piece of a stream this small stay in cache.
_PIECE = 10_000


def draw(setting: Any) -> Task:
    """Draws a task from the generative model `y = A z`, with k active latents uniform on (0, 1), or
    takes that of another source of data.

    The atoms are i.i.d. Gaussian directions. An in-distribution sample has, by a fair coin, either
    latent 0 with k - 1 latents of the ID pool, or k latents other than latent 0. An
    out-of-distribution sample has latent 0 with k - 1 latents of the OOD pool, a co-activation that
    training never shows. The dictionary depends only on the seed and the dimensions, so a sweep
    over `num_samples` or `noise_db` keeps it, and so does a stream.

    Args:
      setting: the cell to draw, its seed included, or a `World` or a `Recording`.

    Returns:
      A task with `num_samples // 2` training samples, the rest of the ID samples for validation,
      and `num_samples // 2` OOD samples. A stream has `num_samples` training signals without codes,
      and at most 2,500 samples in each other split. Codes of more than 20,000 latents are a sparse
      array.

    References:
      Barin Pacela et al. (2026), "Stop Probing, Start Coding", arXiv:2603.28744, section 3.
    """
    if hasattr(setting, "task"):
        return setting.task()
    mend = "give sae_gap.Setting(num_latents, sparsity) or a world"
    check_type("setting", setting, Setting, mend)
    num_train, num_scored = setting.num_train, setting.num_scored
    *rngs, noise_rng = (np.random.default_rng([setting.seed, stream]) for stream in range(1, 4))
    count = num_scored if setting.stream else setting.num_samples
    pool = setting.num_latents - setting.num_ood
    supports = (
        _id_supports(setting, count, rngs[0]),
        _with_latent_zero(setting, num_scored, pool, setting.num_ood, rngs[1]),
    )
    active = np.unique(np.concatenate(supports))
    dictionary, atoms = _draw_dictionary(setting, active)
    (signals, codes), ood = (
        _draw_samples(setting, active, atoms, drawn, rng, noise_rng)
        for drawn, rng in zip(supports, rngs, strict=True)
    )
    padding = (setting.padded_dim or len(dictionary)) - len(dictionary)

    def put(array, *sides):
        """Returns an array on the device; `asarray` would compile a program for each shape."""
        array = np.pad(array, sides) if padding and sides else array
        return jax.device_put(array) if isinstance(array, np.ndarray) else array

    def split(signals, codes=None):
        return Split(put(signals, (0, 0), (0, padding)), put(codes))

    if setting.stream:
        train, validation = split(Stream(setting, dictionary)(0, num_train)), split(signals, codes)
    else:
        train, validation = (
            split(signals[part], codes[part]) for part in (slice(num_train), slice(num_train, None))
        )
    return Task(
        train,
        validation,
        split(*ood),
        dictionary=put(dictionary, (0, padding), (0, 0)),
        width=setting.width or setting.num_latents,
        seed=setting.seed,
        padding=padding,
    )


def _draw_samples(setting, active, atoms, supports, rng, noise_rng):
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
    codes = _sparse(values, supports, setting)
    dense = setting.num_latents <= DENSE_LATENTS
    return signals.astype(values.dtype), codes.toarray() if dense else codes


def _sparse(values, supports, setting):
    n, k = supports.shape
    ends = np.arange(0, supports.size + 1, k)
    return sparse.csr_array((values.ravel(), supports.ravel(), ends), (n, setting.num_latents))


class Stream:
    """A source for `fit_stream`, of any length.

    `stream(start, count)` returns the `count` signals from number `start` on, `(count, input_dim)`.
    A signal does not depend on the pieces in which it is requested, and the first ones are those of
    `draw`. The first 10,000 signals set the loudness of the noise.

    Args:
      setting: a setting with `stream`.
      dictionary: the setting's dictionary, `(input_dim, num_latents)`, if it was drawn before.

    Raises:
      ValueError: the setting is not a stream.
    """

    def __init__(self, setting: Setting, dictionary: np.ndarray | None = None):
        if not setting.stream:
            raise ValueError("the setting is no stream; give it stream=True.")
        self._setting = setting
        self.dictionary = (
            _draw_dictionary(setting, np.zeros(0, int))[0] if dictionary is None else dictionary
        )
        self._atoms = np.ascontiguousarray(self.dictionary.T, jnp.zeros(()).dtype)
        self._piece, self._noise = functools.lru_cache(maxsize=1)(self._draw), 0.0
        if setting.noise_db is not None:
            self._noise = noise_scale(self._draw(0), setting.noise_db)

    def __call__(self, start: int, count: int) -> np.ndarray:
        found = np.empty((count, self._atoms.shape[1]), self._atoms.dtype)
        for index, rows, place in pieces_of(start, count, _PIECE):
            found[place] = self._piece(index)[rows]
        return found

    def _draw(self, index):
        setting, dtype = self._setting, self._atoms.dtype
        rng = np.random.default_rng([setting.seed, 4, index])
        supports = _id_supports(setting, _PIECE, rng)
        signals = _sparse(rng.random(supports.shape, dtype), supports, setting) @ self._atoms
        if self._noise:
            signals += dtype.type(self._noise) * rng.standard_normal(signals.shape, dtype)
        return signals


def _draw_dictionary(setting, active):
    """Draws the dictionary in the default float type, and the atoms of the active latents as rows,
    in float64.

    A million atoms in float64 take gigabytes, so it draws some rows at a time, and draws twice:
    first for the atoms' lengths.
    """
    input_dim = setting.input_dim
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


def _id_supports(setting, n, rng):
    """Draws the active latents of n in-distribution samples, (n, k)."""
    heads = rng.random(n) < 0.5
    with_zero = _with_latent_zero(setting, n, 1, setting.num_latents - setting.num_ood - 1, rng)
    without_zero = 1 + _distinct(n, setting.sparsity, setting.num_latents - 1, rng, setting.stream)
    return np.where(heads[:, None], with_zero, without_zero)


def _with_latent_zero(setting, n, first, size, rng):
    others = first + _distinct(n, setting.sparsity - 1, size, rng, setting.stream)
    return np.concatenate([np.zeros((n, 1), others.dtype), others], axis=1)


def _distinct(n, k, size, rng, stream=False):
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


def noise_scale(signals: Float[np.ndarray, "n input_dim"], decibels: float) -> float:
    """Returns the standard deviation of noise at a signal-to-noise ratio; the power of the signals
    is their mean square.
    """
    return float(np.sqrt(np.mean(signals**2))) * 10 ** (-decibels / 20)


def pieces_of(start: int, count: int, size: int) -> Iterator[tuple[int, slice, slice]]:
    """Gives the pieces of `size` samples that hold the `count` samples from number `start` on.

    Yields:
      The number of a piece, the samples to take from it, and their place in the request.
    """
    done = 0
    while done < count:
        piece, first = divmod(start + done, size)
        taken = min(size - first, count - done)
        yield piece, slice(first, first + taken), slice(done, done + taken)
        done += taken
