"""Draws codes of a world, and skips features that cannot fire."""

import functools

import numpy as np
from jaxtyping import Float
from scipy import sparse, special

from sae_gap.data import Firing, Law, firing_of

# A block has so many samples that their probabilities stay in cache.
_BLOCK = 64
# Features below this conditional probability are thinned: the sampler looks at few of them.
_RARE = 1 / 64
_CUT = np.float32(special.ndtri(_RARE))
# The expected L0 is measured on this many samples.
_MEASURED = 2_048


class Sampler:
    """Draws codes with given constants.

    A feature fires with probability `Φ(m_i)`, `m = (F ε - τ) / √δ`, `ε ~ N(0, I)`, independently of
    others given ε, which is the law of `F ε + √δ η > τ`. The sampler skips two draws, as nothing
    depends on them. It ignores children of silent parents. And for features without a parent whose
    `Φ(m_i)` is below 1/64, as nearly all are, it draws candidates at 1/64 without looking at m, and
    keeps each with probability `64 Φ(m_i)`.

    Args:
      firing: the constants.
    """

    def __init__(self, firing: Firing):
        self.firing = firing
        upper = special.ndtri(firing.rates)
        self._weights = (
            np.column_stack([firing.factor, upper]) / np.sqrt(firing.rest)[:, None]
        ).astype(np.float32)
        self._tops = np.flatnonzero(firing.parent < 0)
        self._top_weights = np.ascontiguousarray(self._weights[self._tops].T)
        # The children of a node are neighbours, in the order of the features.
        self._children = np.argsort(firing.parent, kind="stable")[len(self._tops) :]
        family = np.bincount(firing.parent[self._children], minlength=len(firing.parent))
        self._first, self._family = np.cumsum(family) - family, family

    def codes(self, rng: np.random.Generator, count: int) -> sparse.csr_array:
        """Draws codes z of `count` samples, (count, N), in float32."""
        width = len(self.firing.rates)
        blocks = [self._block(rng, min(_BLOCK, count - start)) for start in range(0, count, _BLOCK)]
        rows = np.concatenate([_BLOCK * place + rows for place, (rows, _, _) in enumerate(blocks)])
        features, values = (np.concatenate([block[part] for block in blocks]) for part in (1, 2))
        return sparse.csr_array((values.astype(np.float32), (rows, features)), (count, width))

    def _block(self, rng, count):
        """Draws rows, features and values of a few samples, level by level."""
        shared = np.ones((count, self._weights.shape[1]), np.float32)
        shared[:, :-1] = rng.standard_normal((count, shared.shape[1] - 1), np.float32)
        rows, tops = np.divmod(
            self._fire(rng, (shared @ self._top_weights).ravel()), len(self._tops)
        )
        found = [self._sound(rng, rows, self._tops[tops])]
        while len(found[-1][0]):
            found.append(self._grow(rng, shared, *found[-1]))
        rows, features, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return rows, features, values

    def _fire(self, rng, level):
        """Draws the places that are on, each with probability Φ(level)."""
        common = np.flatnonzero(level > _CUT)
        rare = _thinned(rng, len(level))
        rare = rare[level[rare] <= _CUT]
        places = np.concatenate([common, rare])
        bound = np.where(np.arange(len(places)) < len(common), 1.0, _RARE)
        return places[
            rng.random(len(places)) * bound < special.ndtr(level[places].astype(np.float64))
        ]

    def _sound(self, rng, rows, features):
        """Draws the magnitudes of firing features; one that is clipped to zero does not count as
        firing.
        """
        mean, own, tail = self.firing.mean[features], self.firing.std, self.firing.lognormal
        drawn = rng.standard_normal(len(features))
        if tail:
            values = mean * np.exp(tail * drawn - tail**2 / 2)
        else:
            values = mean + own[features] * drawn
        heard = values > 0
        return rows[heard], features[heard], values[heard]

    def _grow(self, rng, shared, rows, features, values):
        """Draws which children of firing features fire, and how loud."""
        firing, sizes = self.firing, self._family[features]
        parent = np.repeat(np.arange(len(rows)), sizes)
        place = np.arange(len(parent)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        children = self._children[self._first[features[parent]] + place]
        level = np.einsum("ij,ij->i", self._weights[children], shared[rows[parent]])
        on = rng.random(len(children)) < special.ndtr(level.astype(np.float64))
        parent, children, loudness = self._sound(rng, parent[on], children[on])
        # An exclusive parent keeps one of its children: the one with the highest lot.
        order = np.lexsort((rng.random(len(parent)), parent))
        last = np.append(np.diff(parent[order]) != 0, np.ones(min(1, len(parent)), bool))
        stays = order[last | ~firing.exclusive[features[parent[order]]]]
        parent = parent[stays]
        above = features[parent]
        factor = np.where(firing.scaled[above], values[parent] / firing.mean[above], 1.0)
        return rows[parent], children[stays], loudness[stays] * factor


def _thinned(rng, length):
    """Draws a subset of range(length) that has each number with probability 1/64, by the gaps
    between them.
    """
    found, end = [], -1
    while end < length:
        gaps = rng.geometric(_RARE, max(16, int(1.1 * (length - end) * _RARE)))
        found.append(end + np.cumsum(gaps))
        end = found[-1][-1]
    places = np.concatenate(found)
    return places[: np.searchsorted(places, length)]


@functools.lru_cache(maxsize=8)
def _counts(law: Law) -> Float[np.ndarray, " N"]:
    """Returns for each feature how many up to it fire in a sample, on average over a fixed draw."""
    codes = Sampler(firing_of(law)).codes(np.random.default_rng([law.seed, 0]), _MEASURED)
    return np.cumsum(np.bincount(codes.indices, minlength=law.num_latents)) / _MEASURED


def expected_l0(law: Law, num_latents: int) -> float:
    """Returns how many of the first `num_latents` features fire in a sample, on average over 2,048
    samples.
    """
    return float(_counts(law)[min(num_latents, law.num_latents) - 1])
