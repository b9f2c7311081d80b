"""Draws the codes of a world, and skips features that cannot fire."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import (
    arange,
    bincount,
    column_stack,
    concatenate,
    cumsum,
    diff,
    einsum,
    exp,
    flatnonzero,
    float32,
    float64,
    ones,
    repeat,
    searchsorted,
    sqrt,
    where,
)
from numpy.random import default_rng
from scipy.sparse import csr_array
from scipy.special import ndtr, ndtri

from sae_gap.core import slices
from sae_gap.data import Firing, Law, Numbers, firing_of

# A block has so many samples that their probabilities stay in cache.
_BLOCK = 64
# Features below this conditional probability are thinned: the sampler looks at few of them.
_RARE = 1 / 64
_CUT = float32(ndtri(_RARE))
# The expected L0 is measured on this many samples.
_MEASURED = 2_048

Ints = Int[np.ndarray, " some"]
# The shared normal variables of each sample, and a one.
Shared = Float[np.ndarray, "n rank_and_1"]


class _Fired(NamedTuple):
    """Features that fire: the sample, the feature and the magnitude of each."""

    rows: Ints
    features: Ints
    values: Float[np.ndarray, " some"]


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
        levels = column_stack([firing.factor, ndtri(firing.rates)])
        self._weights = (levels / sqrt(firing.rest)[:, None]).astype(float32)
        self._tops = flatnonzero(firing.parent < 0)
        self._top_weights = np.ascontiguousarray(self._weights[self._tops].T)
        # The children of a node are neighbours, in the order of the features.
        self._children = np.argsort(firing.parent, kind="stable")[len(self._tops) :]
        family = bincount(firing.parent[self._children], minlength=len(firing.parent))
        self._first = cumsum(family) - family
        self._family = family

    def codes(self, rng: np.random.Generator, count: int) -> csr_array:
        """Draws codes z of `count` samples, (count, N), in float32."""
        drawn = []
        for part in slices(count, _BLOCK):
            block = self._block(rng, min(part.stop, count) - part.start)
            drawn.append(block._replace(rows=part.start + block.rows))
        rows, features, values = _joined(drawn)
        shape = count, len(self.firing.rates)
        return csr_array((values.astype(float32), (rows, features)), shape)

    def _block(self, rng: np.random.Generator, count: int) -> _Fired:
        """Draws a few samples, level by level."""
        shared = ones((count, self._weights.shape[1]), float32)
        shared[:, :-1] = rng.standard_normal((count, shared.shape[1] - 1), float32)
        on = _fire(rng, (shared @ self._top_weights).ravel())
        rows, tops = np.divmod(on, len(self._tops))
        levels = [self._sound(rng, rows, self._tops[tops])]
        while len(levels[-1].rows):
            levels.append(self._grow(rng, shared, levels[-1]))
        return _joined(levels)

    def _sound(self, rng: np.random.Generator, rows: Ints, features: Ints) -> _Fired:
        """Draws the magnitudes of firing features; one that is clipped to zero does not count as
        firing.
        """
        mean = self.firing.mean[features]
        tail = self.firing.lognormal
        drawn = rng.standard_normal(len(features))
        if tail:
            values = mean * exp(tail * drawn - tail**2 / 2)
        else:
            values = mean + self.firing.std[features] * drawn
        heard = values > 0
        return _Fired(rows[heard], features[heard], values[heard])

    def _grow(self, rng: np.random.Generator, shared: Shared, above: _Fired) -> _Fired:
        """Draws which children of firing features fire, and how loud."""
        firing = self.firing
        # The place of each child's parent among the firing features.
        sizes = self._family[above.features]
        parent = repeat(arange(len(sizes)), sizes)
        place = arange(len(parent)) - repeat(cumsum(sizes) - sizes, sizes)
        children = self._children[self._first[above.features[parent]] + place]
        row = shared[above.rows[parent]]
        level = einsum("ij,ij->i", self._weights[children], row)
        on = rng.random(len(children)) < ndtr(level.astype(float64))
        parent, children, values = self._sound(rng, parent[on], children[on])
        # An exclusive parent keeps one of its children: the one with the highest lot.
        order = np.lexsort((rng.random(len(parent)), parent))
        is_last = diff(parent[order], append=-1) != 0
        stays = order[is_last | ~firing.exclusive[above.features[parent[order]]]]
        parent = parent[stays]
        feature = above.features[parent]
        share = above.values[parent] / firing.mean[feature]
        factor = where(firing.scaled[feature], share, 1.0)
        return _Fired(above.rows[parent], children[stays], values[stays] * factor)


def _fire(rng: np.random.Generator, level: Float[np.ndarray, " all"]) -> Ints:
    """Draws the places that are on, each with probability Φ(level)."""
    common = flatnonzero(level > _CUT)
    rare = _thinned(rng, len(level))
    rare = rare[level[rare] <= _CUT]
    places = concatenate([common, rare])
    bound = repeat([1.0, _RARE], [len(common), len(rare)])
    chance = ndtr(level[places].astype(float64))
    return places[rng.random(len(places)) * bound < chance]


def _joined(parts: list[_Fired]) -> _Fired:
    return _Fired(*map(concatenate, zip(*parts, strict=True)))


def _thinned(rng: np.random.Generator, length: int) -> Ints:
    """Draws a subset of range(length) that has each number with probability 1/64, by the gaps
    between them.
    """
    runs = []
    end = -1
    while end < length:
        gaps = rng.geometric(_RARE, max(16, int(1.1 * (length - end) * _RARE)))
        runs.append(end + cumsum(gaps))
        end = runs[-1][-1]
    places = concatenate(runs)
    return places[: searchsorted(places, length)]


@lru_cache(maxsize=8)
def _counts(law: Law) -> Numbers:
    """Returns for each feature how many up to it fire in a sample, on average over a fixed draw."""
    rng = default_rng([law.seed, 0])
    codes = Sampler(firing_of(law)).codes(rng, _MEASURED)
    return cumsum(bincount(codes.indices, minlength=law.num_latents)) / _MEASURED


def expected_l0(law: Law, num_latents: int) -> float:
    """Returns how many of the first `num_latents` features fire in a sample, on average over 2,048
    samples.
    """
    return float(_counts(law)[min(num_latents, law.num_latents) - 1])
