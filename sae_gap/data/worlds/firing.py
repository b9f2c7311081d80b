"""The constants of a law, computed once: the features' directions, rates, correlations and
magnitudes; and the codes that are drawn by them, which skips features that cannot fire. A published
world has them in three files of a synthetic model from SAELens, in a user's folder.
"""

import dataclasses
import functools
import pathlib

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import sparse, special

from sae_gap.data import LOUDEST, Law
from sae_gap.storage import Config, read_json, read_safetensors

# The least share of a feature's variance that stays independent.
_LEAST_REST = 0.01
# Streams of random numbers from a world's seed.
_ATOMS = 42
_STD = 43
_FACTOR = 46
_OTHER_FACTOR = 47
# Adam's constants for pushing atoms apart.
_RATE = 3e-4
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8
# A block has so many samples that their probabilities stay in cache.
_BLOCK = 64
# Features below this conditional probability are thinned: the sampler looks at few of them.
_RARE = 1 / 64
_CUT = np.float32(special.ndtri(_RARE))
# The expected L0 is measured on this many samples.
_MEASURED = 2_048
# The files of a published world.
FILES = _CONFIG, _TREES, _TENSORS = (
    "synthetic_model_config.json",
    "hierarchy.json",
    "synthetic_model.safetensors",
)
# Torch draws normal numbers in blocks of this size.
_NORMALS = 16
# Rounding may move lengths and variances this far from 1.
_ONE = 1 - 1e-3, 1 + 1e-3

# A number for each feature; atoms as rows.
Numbers = Float[np.ndarray, " N"]
Parents = Int[np.ndarray, " N"]
Flags = Bool[np.ndarray, " N"]
Atoms = Float[np.ndarray, "N input_dim"]


@dataclasses.dataclass(frozen=True, eq=False)
class Firing:
    """The constants of N features.

    Attributes:
      rates: p̃, the probability that a feature fires before the trees act, (N,).
      factor: F, (N, rank): the normal variables behind the firing are `F ε + √δ η`.
      rest: δ, (N,).
      mean, std: mean and deviation of the magnitudes before they are clipped at zero, (N,).
      lognormal: σ of log-normal magnitudes about these means; 0 gives normal ones.
      parent: the parent of each feature, -1 if it has none, (N,).
      level: levels below its root, 0 for a root, -1 for a feature in no tree, (N,).
      exclusive: whether at most one child of the feature fires, (N,).
      scaled: whether the magnitudes of its children are in proportion to its own, (N,).
    """

    rates: Numbers
    factor: Float[np.ndarray, "N rank"]
    rest: Numbers
    mean: Numbers
    std: Numbers
    parent: Parents
    level: Parents
    exclusive: Flags
    scaled: Flags
    lognormal: float = 0.0


def base_rates(law: Law) -> Numbers:
    """Returns the Zipf law p_i, (N,); see `Law`."""
    ranks = np.arange(1, law.num_latents + 1, dtype=np.float64)
    # Dividing the ranks keeps their powers from overflowing; a common factor of all r_i cancels.
    ranked = (ranks if law.exponent > 0 else ranks / law.num_latents) ** -law.exponent
    span = ranked[0] - ranked[-1]
    share = (ranked - ranked[-1]) / span if span else np.ones(law.num_latents)
    return law.least + (law.most - law.least) * share


def plant(law: Law) -> tuple[Parents, Parents]:
    """Plants trees level by level from feature 0 on; returns parents and levels, (N,) each."""
    parent, level = np.full((2, law.num_latents), -1)
    sizes = law.roots * law.branching ** np.arange(law.depth + 1)
    level[: sizes.sum()] = np.repeat(np.arange(law.depth + 1), sizes)
    parent[law.roots : sizes.sum()] = np.arange(sizes[1:].sum()) // max(
        1, law.branching
    )
    return parent, level


def compensated(base: Numbers, parent: Parents, exclusive: Flags) -> Numbers:
    """Raises rates by what the trees take away:
    `p̃_i = min(1, p_i (1 / p_a) (1 + Σ_{j ∈ S} p_j / p_a))`, (N,).

    a is the parent of i, and S are i's siblings if they exclude each other. All p are base rates,
    so a feature does not quite fire at its base rate: the deeper it lies, the more it falls short.
    """
    child = np.flatnonzero(parent >= 0)
    above = parent[child]
    sums = np.bincount(above, base[child], len(base))
    rivals = np.where(exclusive[above], sums[above] - base[child], 0.0)
    rates = base.copy()
    rates[child] *= (1 + rivals / base[above]) / base[above]
    return np.minimum(rates, 1)


def _correlate(seed, scale, shape):
    """Returns the correlation's factor F and the rest, `δ_i = 1 - Σ_j F_ij²`, at least .01."""
    factor = scale * np.random.default_rng(seed).standard_normal(shape)
    square = np.sum(factor**2, axis=1)
    large = square > 1 - _LEAST_REST
    factor[large] *= np.sqrt((1 - _LEAST_REST) / square[large])[:, None]
    return factor, np.where(large, _LEAST_REST, 1 - square)


@functools.lru_cache(maxsize=4)
def firing_of(law: Law) -> Firing:
    """Returns the constants of a law, computed or read from the files of a published world."""
    if law.folder:
        return _read_firing(law.folder)
    number = law.num_latents
    (parent, level) = plant(law)
    rng = np.random.default_rng([law.seed, _STD])
    mean = np.linspace(law.loudest, law.softest, number)
    std = np.abs(law.spread[0] + law.spread[1] * rng.standard_normal(number))
    exclusive = np.full(number, law.exclusive)
    scaled = np.full(number, law.scale_children)
    rates = compensated(base_rates(law), parent, exclusive)
    rates[number - law.dense :] = 0.5
    factor, rest = _correlate([law.seed, _FACTOR], law.correlation, (number, law.rank))
    return Firing(
        rates, factor, rest, mean, std, parent, level, exclusive, scaled, law.lognormal
    )


def out_of_distribution(law: Law) -> Firing:
    """Returns the same rates, magnitudes and trees with another correlation, so that other features
    fire together.
    """
    firing = firing_of(law)
    scale = law.correlation
    if law.folder and firing.factor.size:
        scale = float(np.sqrt(np.mean(firing.factor**2)))
    factor, rest = _correlate([law.seed, _OTHER_FACTOR], scale, firing.factor.shape)
    return dataclasses.replace(firing, factor=factor, rest=rest)


@functools.lru_cache(maxsize=2)
def atoms_of(law: Law) -> tuple[Atoms, Float[np.ndarray, " input_dim"]]:
    """Returns the unit atoms as rows and the bias, in float32: drawn from the seed, or read from
    the files of a published world.
    """
    if law.folder:
        return _read_atoms(law.folder)
    rng = np.random.default_rng([law.seed, _ATOMS])
    atoms = rng.standard_normal((law.num_latents, law.input_dim), np.float32)
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    bias = rng.standard_normal(law.input_dim, np.float32)
    bias *= np.float32(law.bias) / np.linalg.norm(bias)
    atoms = push_apart(atoms, law.orthogonal_steps)
    last = law.num_latents - law.dense
    pairs = atoms[last - 2 * law.antipodal : last].reshape(-1, 2, law.input_dim)
    pairs[:, 1] = -pairs[:, 0]
    return atoms, bias


def push_apart(atoms: Atoms, steps: int) -> Atoms:
    """Pushes unit atoms apart by some Adam steps on their coherence.

    The loss is `Σ_{i≠j} (d_i·d_j)² + N Σ_i (‖d_i‖² - 1)²`. Its first term sums the squares of the N
    × N Gram matrix. The smaller matrix DᵀD has the same sum, so the gradient
    `4 D (DᵀD) - 4 ‖d_i‖² d_i` needs no Gram matrix.

    Args:
      atoms: unit rows, (N, input_dim).
      steps: number of Adam steps at rate 3e-4.

    Returns:
      Unit rows, (N, input_dim).
    """
    atoms, number = atoms.copy(), np.float32(len(atoms))
    first = np.zeros_like(atoms)
    second = np.zeros_like(atoms)
    for step in range(1, steps + 1):
        squares = np.einsum("ij,ij->i", atoms, atoms)[:, None]
        slope = atoms @ (atoms.T @ atoms) + (number * (squares - 1) - squares) * atoms
        slope *= 4
        first += (1 - _BETAS[0]) * (slope - first)
        second += (1 - _BETAS[1]) * (slope * slope - second)
        scale = np.sqrt(second / (1 - _BETAS[1] ** step)) + _EPSILON
        atoms -= _RATE / (1 - _BETAS[0] ** step) * first / scale
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


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
        levels = np.column_stack([firing.factor, special.ndtri(firing.rates)])
        self._weights = (levels / np.sqrt(firing.rest)[:, None]).astype(np.float32)
        self._tops = np.flatnonzero(firing.parent < 0)
        self._top_weights = np.ascontiguousarray(self._weights[self._tops].T)
        # The children of a node are neighbours, in the order of the features.
        self._children = np.argsort(firing.parent, kind="stable")[len(self._tops) :]
        family = np.bincount(
            firing.parent[self._children], minlength=len(firing.parent)
        )
        self._first = np.cumsum(family) - family
        self._family = family

    def codes(self, rng: np.random.Generator, count: int) -> sparse.csr_array:
        """Draws codes z of `count` samples, (count, N), in float32."""
        width = len(self.firing.rates)
        starts = range(0, count, _BLOCK)
        blocks = (
            self._block(rng, start, min(_BLOCK, count - start)) for start in starts
        )
        rows, features, values = _joined(blocks)
        return sparse.csr_array(
            (values.astype(np.float32), (rows, features)), (count, width)
        )

    def _block(self, rng, start, count):
        """Draws rows, features and values of a few samples from number `start` on, level by
        level.
        """
        shared = np.ones((count, self._weights.shape[1]), np.float32)
        shared[:, :-1] = rng.standard_normal((count, shared.shape[1] - 1), np.float32)
        rows, tops = np.divmod(
            self._fire(rng, (shared @ self._top_weights).ravel()), len(self._tops)
        )
        found = [self._sound(rng, rows, self._tops[tops])]
        while len(found[-1][0]):
            found.append(self._grow(rng, shared, *found[-1]))
        rows, features, values = _joined(found)
        return start + rows, features, values

    def _fire(self, rng, level):
        """Draws the places that are on, each with probability Φ(level)."""
        common = np.flatnonzero(level > _CUT)
        rare = _thinned(rng, len(level))
        rare = rare[level[rare] <= _CUT]
        places = np.concatenate([common, rare])
        bound = np.where(np.arange(len(places)) < len(common), 1.0, _RARE)
        return places[
            rng.random(len(places)) * bound
            < special.ndtr(level[places].astype(np.float64))
        ]

    def _sound(self, rng, rows, features):
        """Draws the magnitudes of firing features; one that is clipped to zero does not count as
        firing.
        """
        mean = self.firing.mean[features]
        own = self.firing.std
        tail = self.firing.lognormal
        drawn = rng.standard_normal(len(features))
        if tail:
            values = mean * np.exp(tail * drawn - tail**2 / 2)
        else:
            values = mean + own[features] * drawn
        heard = values > 0
        return rows[heard], features[heard], values[heard]

    def _grow(self, rng, shared, rows, features, values):
        """Draws which children of firing features fire, and how loud."""
        firing = self.firing
        sizes = self._family[features]
        parent = np.repeat(np.arange(len(rows)), sizes)
        place = np.arange(len(parent)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        children = self._children[self._first[features[parent]] + place]
        level = np.einsum("ij,ij->i", self._weights[children], shared[rows[parent]])
        on = rng.random(len(children)) < special.ndtr(level.astype(np.float64))
        parent, children, loudness = self._sound(rng, parent[on], children[on])
        # An exclusive parent keeps one of its children: the one with the highest lot.
        order = np.lexsort((rng.random(len(parent)), parent))
        last = np.append(
            np.diff(parent[order]) != 0, np.ones(min(1, len(parent)), bool)
        )
        stays = order[last | ~firing.exclusive[features[parent[order]]]]
        parent = parent[stays]
        above = features[parent]
        factor = np.where(
            firing.scaled[above], values[parent] / firing.mean[above], 1.0
        )
        return rows[parent], children[stays], loudness[stays] * factor


def _joined(found):
    """Returns rows, features and values of draws, one after the other."""
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _thinned(rng, length):
    """Draws a subset of range(length) that has each number with probability 1/64, by the gaps
    between them.
    """
    found = []
    end = -1
    while end < length:
        gaps = rng.geometric(_RARE, max(16, int(1.1 * (length - end) * _RARE)))
        found.append(end + np.cumsum(gaps))
        end = found[-1][-1]
    places = np.concatenate(found)
    return places[: np.searchsorted(places, length)]


@functools.lru_cache(maxsize=8)
def _counts(law):
    """Returns for each feature how many up to it fire in a sample, on average over a fixed draw."""
    codes = Sampler(firing_of(law)).codes(
        np.random.default_rng([law.seed, 0]), _MEASURED
    )
    return np.cumsum(np.bincount(codes.indices, minlength=law.num_latents)) / _MEASURED


def expected_l0(law: Law, num_latents: int) -> float:
    """Returns how many of the first `num_latents` features fire in a sample, on average over 2,048
    samples.
    """
    return float(_counts(law)[min(num_latents, law.num_latents) - 1])


def read_sizes(folder: pathlib.Path) -> tuple[Config, int, int]:
    """Returns a published world's configuration, and its number of features and dimension.

    Raises:
      ValueError: a file is missing, or the configuration is damaged.
    """
    for name in FILES:
        if not (folder / name).is_file():
            raise ValueError(
                f"{folder!s:.200} has no {name}; download all of {', '.join(FILES)} into it."
            )
    config = Config(folder / _CONFIG, read_json(folder / _CONFIG))
    return config, config.size("num_features"), config.size("hidden_dim")


def _read_atoms(folder):
    """Reads the unit atoms as rows and the bias.

    Raises:
      ValueError: the tensors are damaged, not unit vectors, or of other sizes than in the
        configuration.
    """
    _, number, input_dim = read_sizes(folder)
    tensors = read_safetensors(folder / _TENSORS)
    atoms = tensors.take("feature_vectors", number, input_dim).astype(np.float32)
    lengths = np.linalg.norm(atoms, axis=1)
    _check_range("the lengths of feature_vectors", lengths, *_ONE, tensors.path)
    return atoms, tensors.take("bias", input_dim).astype(np.float32)


def _read_firing(folder):
    """Reads a `Firing`. Magnitudes are not in the files: they are drawn
    again with the seed in the configuration.

    Raises:
      ValueError: a file is damaged, does not fit the others, or has values that no world has.
    """
    (config, number, _) = read_sizes(folder)
    tensors = read_safetensors(folder / _TENSORS)
    rates = tensors.take("firing_probabilities", number).astype(np.float64)
    _check_range("firing_probabilities", rates, 0, 1, tensors.path)
    factor = np.zeros((number, 0))
    rest = np.ones(number)
    if "correlation_factor" in tensors:
        rank = tensors.shape("correlation_factor")[1]
        factor = tensors.take("correlation_factor", number, rank).astype(np.float64)
        rest = tensors.take("correlation_diag", number).astype(np.float64)
        variances = rest + np.sum(factor**2, axis=1)
        _check_range(
            "the variances of correlation_factor", variances, *_ONE, tensors.path
        )
    std = _magnitudes(config, "std_firing_magnitudes", 0.0, number, 1)
    _check_range("std_firing_magnitudes", std, 0, LOUDEST, config.path)
    mean = _magnitudes(config, "mean_firing_magnitudes", 1.0, number, 2)
    _check_range("mean_firing_magnitudes", mean, 1 / LOUDEST, LOUDEST, config.path)
    return Firing(rates, factor, rest, mean, std, *_trees(folder / _TREES, number))


def _check_range(name, values, least, most, path):
    low = values.min()
    high = values.max()
    # NaN lies between no bounds.
    if not (least <= low and high <= most):
        raise ValueError(
            f"{name} in {path} must lie from {least:g} to {most:g}, but they go from {low:.3g} to "
            f"{high:.3g}; download the file again."
        )


def _magnitudes(config, name, default, number, stream):
    """Returns the mean or the deviation of each feature's magnitude, by the rule in the
    configuration.

    Random ones use the configuration's seed plus `stream`.
    """
    if not isinstance(config.entries.get(name), dict):
        return np.full(number, config.number(name, default))
    rule = config.part(name)
    kind = rule.choice("generator_name", "", ("constant", "linear", "folded_normal"))
    if kind == "constant":
        return np.full(number, rule.number("value", 1.0))
    if kind == "linear":
        # Ends too far apart give NaN, which the range check refuses.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.linspace(
                rule.number("start", 1.0), rule.number("end", 1.0), number
            )
    # The magnitudes are random; the seed gives them again.
    normal = torch_normal(config.size("seed", least=0) + stream, number)
    drawn = np.abs(rule.number("mean", 0.0) + rule.number("std", 0.1) * normal)
    least = rule.number("min_value", 0.0)
    return np.clip(drawn, least, max(least, rule.number("max_value", 1e30)))


def torch_normal(seed: int, number: int) -> Float[np.ndarray, " number"]:
    """Returns `torch.randn(number, generator=torch.Generator().manual_seed(seed))` as on a CPU, to
    rounding.

    The low 24 bits of each word of a Mersenne Twister give a uniform number, and Box and Muller's
    formula turns pairs into normal numbers, in blocks of 16. A partial last block is drawn anew as
    a whole one.

    Args:
      seed: seed of the generator.
      number: how many to draw, at least 16.

    Returns:
      (number,).

    Raises:
      ValueError: there are fewer than 16, which torch draws in another way.
    """
    if number < _NORMALS:
        raise ValueError(
            f"{number} features are too few to draw torch's magnitudes again; give a world of 16 "
            "or more."
        )
    words = np.random.RandomState(seed)._bit_generator.random_raw(number + _NORMALS)
    uniform = ((words & (2**24 - 1)) * 2.0**-24).astype(np.float32)
    whole = number - number % _NORMALS
    found = np.zeros(number)
    found[:whole] = _box_muller(uniform[:whole])
    if whole < number:
        found[-_NORMALS:] = _box_muller(uniform[number:])
    return found


def _box_muller(uniform):
    pairs = uniform.astype(np.float64).reshape(-1, 2, _NORMALS // 2)
    radius = np.sqrt(-2 * np.log1p(-pairs[:, 0]))
    angle = 2 * np.pi * pairs[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()


def _trees(path, number):
    """Reads parents, levels and the two flags of every node."""
    parent, level = np.full((2, number), -1)
    exclusive, scaled = np.zeros((2, number), bool)
    waiting = [(node, -1, 0) for node in _nodes(read_json(path).get("roots"), path)]
    while waiting:
        node, above, depth = waiting.pop()
        entries = Config(path, node)
        index = entries.size("feature_index", least=0)
        if index >= number or level[index] >= 0:
            raise ValueError(
                f"{path} has feature {index} twice, or beyond its {number} features; download it "
                "again."
            )
        parent[index] = above
        level[index] = depth
        exclusive[index] = entries.flag("mutually_exclusive_children", False)
        scaled[index] = entries.flag("scale_children_by_parent", False)
        waiting += [
            (child, index, depth + 1)
            for child in _nodes(node.get("children", []), path)
        ]
    return parent, level, exclusive, scaled


def _nodes(found, path):
    if not isinstance(found, list) or not all(isinstance(node, dict) for node in found):
        raise ValueError(
            f"{path} must hold lists of trees, from its entry roots on; download it again."
        )
    return found
