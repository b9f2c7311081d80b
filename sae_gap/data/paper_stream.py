"""The training signals of a stream of the paper's model, drawn on request."""

import functools

import jax.numpy as jnp
import numpy as np
from scipy import sparse

from sae_gap.core import Setting
from sae_gap.data import draw_dictionary, draw_id_supports, noise_scale, pieces_of

# The codes and signals of a piece this small stay in cache.
PIECE = 10_000


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
            draw_dictionary(setting, np.zeros(0, int))[0] if dictionary is None else dictionary
        )
        self._atoms = np.ascontiguousarray(self.dictionary.T, jnp.zeros(()).dtype)
        self._piece, self._noise = functools.lru_cache(maxsize=1)(self._draw), 0.0
        if setting.noise_db is not None:
            self._noise = noise_scale(self._draw(0), setting.noise_db)

    def __call__(self, start: int, count: int) -> np.ndarray:
        found = np.empty((count, self._atoms.shape[1]), self._atoms.dtype)
        for index, rows, place in pieces_of(start, count, PIECE):
            found[place] = self._piece(index)[rows]
        return found

    def _draw(self, index: int) -> np.ndarray:
        setting, dtype = self._setting, self._atoms.dtype
        rng = np.random.default_rng([setting.seed, 4, index])
        supports = draw_id_supports(setting, PIECE, rng)
        ends = np.arange(0, supports.size + 1, setting.sparsity)
        values = rng.random(supports.size, dtype)
        signals = (
            sparse.csr_array((values, supports.ravel(), ends), (PIECE, setting.num_latents))
            @ self._atoms
        )
        if self._noise:
            signals += dtype.type(self._noise) * rng.standard_normal(signals.shape, dtype)
        return signals
