"""The constants of a published world, from three files of a synthetic model of SAELens in a user's
folder.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import float32, float64, full, linalg, linspace, ones, sqrt, stack, zeros

from sae_gap.data import LOUDEST, Atoms, Firing, Flags, Numbers, Parents
from sae_gap.storage import Config, read_json, read_safetensors

# The files of a published world.
_CONFIG = "synthetic_model_config.json"
_TREES = "hierarchy.json"
_TENSORS = "synthetic_model.safetensors"
FILES = (_CONFIG, _TREES, _TENSORS)
# Torch draws normal numbers in blocks of this size.
_NORMALS = 16
# Rounding may move lengths and variances this far from 1.
_ONE = 1 - 1e-3, 1 + 1e-3


def read_sizes(folder: Path) -> tuple[Config, int, int]:
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


def read_atoms(folder: Path) -> tuple[Atoms, Float[np.ndarray, " input_dim"]]:
    """Reads the unit atoms as rows and the bias.

    Raises:
      ValueError: the tensors are damaged, not unit vectors, or of other sizes than in the
        configuration.
    """
    _, number, input_dim = read_sizes(folder)
    tensors = read_safetensors(folder / _TENSORS)
    atoms = tensors.take("feature_vectors", number, input_dim).astype(float32)
    lengths = linalg.norm(atoms, axis=1)
    _check_range("the lengths of feature_vectors", lengths, *_ONE, tensors.path)
    return atoms, tensors.take("bias", input_dim).astype(float32)


def read_firing(folder: Path) -> Firing:
    """Reads the constants. Magnitudes are not in the files: they are drawn again with the seed in
    the configuration.

    Raises:
      ValueError: a file is damaged, does not fit the others, or has values that no world has.
    """
    config, number, _ = read_sizes(folder)
    tensors = read_safetensors(folder / _TENSORS)
    rates = tensors.take("firing_probabilities", number).astype(float64)
    _check_range("firing_probabilities", rates, 0, 1, tensors.path)
    factor = zeros((number, 0))
    rest = ones(number)
    if "correlation_factor" in tensors:
        rank = tensors.shape("correlation_factor")[1]
        factor = tensors.take("correlation_factor", number, rank).astype(float64)
        rest = tensors.take("correlation_diag", number).astype(float64)
        variances = rest + np.sum(factor**2, axis=1)
        _check_range(
            "the variances of correlation_factor", variances, *_ONE, tensors.path
        )
    std = _magnitudes(config, "std_firing_magnitudes", 0.0, number, 1)
    _check_range("std_firing_magnitudes", std, 0, LOUDEST, config.path)
    mean = _magnitudes(config, "mean_firing_magnitudes", 1.0, number, 2)
    _check_range("mean_firing_magnitudes", mean, 1 / LOUDEST, LOUDEST, config.path)
    return Firing(rates, factor, rest, mean, std, *_trees(folder / _TREES, number))


def _check_range(
    name: str, values: Numbers, least: float, most: float, path: Path
) -> None:
    low = values.min()
    high = values.max()
    # NaN lies between no bounds.
    if not (least <= low and high <= most):
        raise ValueError(
            f"{name} in {path} must lie from {least:g} to {most:g}, but they go from {low:.3g} to "
            f"{high:.3g}; download the file again."
        )


def _magnitudes(
    config: Config, name: str, default: float, number: int, stream: int
) -> Numbers:
    """Returns the mean or the deviation of each feature's magnitude, by the rule in the
    configuration.

    Random ones use the configuration's seed plus `stream`.
    """
    if not isinstance(config.entries.get(name), dict):
        return full(number, config.number(name, default))
    rule = config.part(name)
    kind = rule.choice("generator_name", "", ("constant", "linear", "folded_normal"))
    if kind == "constant":
        return full(number, rule.number("value", 1.0))
    if kind == "linear":
        # Ends too far apart give NaN, which the range check refuses.
        with np.errstate(over="ignore", invalid="ignore"):
            return linspace(rule.number("start", 1.0), rule.number("end", 1.0), number)
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
    uniform = ((words & (2**24 - 1)) * 2.0**-24).astype(float32)
    whole = number - number % _NORMALS
    normal = zeros(number)
    normal[:whole] = _box_muller(uniform[:whole])
    if whole < number:
        normal[-_NORMALS:] = _box_muller(uniform[number:])
    return normal


def _box_muller(uniform: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    pairs = uniform.astype(float64).reshape(-1, 2, _NORMALS // 2)
    radius = sqrt(-2 * np.log1p(-pairs[:, 0]))
    angle = 2 * np.pi * pairs[:, 1]
    return stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()


def _trees(path: Path, number: int) -> tuple[Parents, Parents, Flags, Flags]:
    """Reads parents, levels and the two flags of every node."""
    parent = full(number, -1)
    level = full(number, -1)
    exclusive = zeros(number, bool)
    scaled = zeros(number, bool)
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
        children = _nodes(node.get("children", []), path)
        waiting += [(child, index, depth + 1) for child in children]
    return parent, level, exclusive, scaled


def _nodes(nodes: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(nodes, list) or not all(isinstance(node, dict) for node in nodes):
        raise ValueError(
            f"{path} must hold lists of trees, from its entry roots on; download it again."
        )
    return nodes
