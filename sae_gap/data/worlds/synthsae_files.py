"""A published world: the three files that SAELens writes of a synthetic model, from a folder that the user has."""

import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float

from sae_gap.data.worlds.law import FEWEST, FILES, LOUDEST
from sae_gap.storage.tensor_files import Config, Tensors, read_json, read_safetensors

_CONFIG, _TREES, _TENSORS = FILES
# Torch draws normal numbers in blocks of so many.
_BLOCK = 16
# How far lengths and variances may be from 1, by rounding.
_ROUNDING = 1e-3


def sizes(folder: pathlib.Path) -> tuple[int, int]:
    """The number of features and the dimension of a published world, by its configuration.

    Raises:
      ValueError: a file is missing, or the configuration is not one.
    """
    try:
        is_folder = folder.is_dir()
    except OSError:
        # A name that is too long to be one.
        is_folder = False
    if not is_folder:
        raise ValueError(f"{folder!s:.200} is not a folder; give the one that holds {', '.join(FILES)}.")
    for name in FILES:
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}; download all of {', '.join(FILES)} into it.")
    config = _config(folder)
    return config.size("num_features"), config.size("hidden_dim")


def read_atoms(folder: pathlib.Path) -> tuple[Float[np.ndarray, "N input_dim"], Float[np.ndarray, " input_dim"]]:
    """The unit atoms as rows and the bias.

    Raises:
      ValueError: the tensors are damaged, of other sizes than the configuration says, or no unit vectors.
    """
    number, input_dim = sizes(folder)
    tensors = _tensors(folder)
    atoms = tensors.take("feature_vectors", number, input_dim).astype(np.float32)
    lengths = np.linalg.norm(atoms, axis=1)
    if np.abs(lengths - 1).max() > _ROUNDING:
        raise ValueError(
            f"feature_vectors in {tensors.path} are not of unit length, but from {lengths.min():.3g} to {lengths.max():.3g}; "
            "download the file again."
        )
    return atoms, tensors.take("bias", input_dim).astype(np.float32)


def read_firing(folder: pathlib.Path) -> dict[str, Any]:
    """The constants of `Firing` by name. Magnitudes are not in the files, but drawn anew from the seed in the configuration.

    Raises:
      ValueError: a file is damaged, does not fit the others, or holds what no world has.
    """
    number, _ = sizes(folder)
    config, tensors = _config(folder), _tensors(folder)
    rates = tensors.take("firing_probabilities", number).astype(np.float64)
    if rates.min() < 0 or rates.max() > 1:
        raise ValueError(
            f"firing_probabilities in {tensors.path} must lie in [0, 1], but they go from {rates.min():.3g} to "
            f"{rates.max():.3g}; download the file again."
        )
    if rates.sum() < FEWEST:
        raise ValueError(f"by firing_probabilities in {tensors.path} hardly any feature ever fires; download the file again.")
    factor, rest = np.zeros((number, 0)), np.ones(number)
    if "correlation_factor" in tensors:
        rank = tensors.shape("correlation_factor")[1]
        factor = tensors.take("correlation_factor", number, rank).astype(np.float64)
        rest = tensors.take("correlation_diag", number).astype(np.float64)
        if rest.min() <= 0 or np.abs(rest + np.sum(factor**2, axis=1) - 1).max() > _ROUNDING:
            raise ValueError(
                f"correlation_factor and correlation_diag in {tensors.path} do not make variances of 1; "
                "download the file again."
            )
    parts = {"rates": rates, "factor": factor, "rest": rest}
    parts["std"] = _magnitudes(config, "std_firing_magnitudes", 0.0, number, 1)
    if not (parts["std"].min() >= 0 and parts["std"].max() <= LOUDEST):
        raise ValueError(
            f"std_firing_magnitudes in {config.path} must not be negative, nor above {LOUDEST:g}; correct the configuration."
        )
    parts["mean"] = _magnitudes(config, "mean_firing_magnitudes", 1.0, number, 2)
    if not (parts["mean"].min() > 0 and parts["mean"].max() <= LOUDEST):
        raise ValueError(
            f"mean_firing_magnitudes in {config.path} must be above 0, and not above {LOUDEST:g}; correct the configuration."
        )
    return parts | _trees(folder / _TREES, number)


def _config(folder: pathlib.Path) -> Config:
    return Config(folder / _CONFIG, read_json(folder / _CONFIG))


def _tensors(folder: pathlib.Path) -> Tensors:
    return read_safetensors(folder / _TENSORS)


def _magnitudes(config: Config, name: str, default: float, number: int, stream: int) -> Float[np.ndarray, " N"]:
    """Mean or standard deviation of each feature's magnitude, by the rule that the configuration names.

    Random ones have the seed of the configuration plus `stream`.
    """
    if not isinstance(config.entries.get(name), dict):
        return np.full(number, config.number(name, default))
    rule = config.part(name)
    kind = rule.text("generator_name", "")
    if kind == "constant":
        return np.full(number, rule.number("value", 1.0))
    if kind == "linear":
        # Ends that are too far apart give NaN, which is refused like other magnitudes.
        with np.errstate(over="ignore", invalid="ignore"):
            return np.linspace(rule.number("start", 1.0), rule.number("end", 1.0), number)
    if kind == "folded_normal":
        if "seed" not in config:
            raise ValueError(f"{name} in {config.path} are random, but the configuration has no seed to draw them by; add it.")
        normal = torch_normal(config.size("seed", least=0) + stream, number)
        drawn = np.abs(rule.number("mean", 0.0) + rule.number("std", 0.1) * normal)
        least = rule.number("min_value", 0.0)
        return np.clip(drawn, least, max(least, rule.number("max_value", 1e30)))
    raise ValueError(f"{name} in {config.path} are of the unknown kind {kind!r:.40}; choose constant, linear or folded_normal.")


def torch_normal(seed: int, number: int) -> Float[np.ndarray, " number"]:
    """What `torch.randn(number, generator=torch.Generator().manual_seed(seed))` gives on a CPU, to rounding.

    Words of the Mersenne Twister, of which the low 24 bits are a uniform number, make pairs of normal ones by Box and Muller
    in blocks of 16; the end of a last, partial block is drawn anew as a whole one.

    Args:
      seed: of the generator.
      number: how many, at least 16.

    Returns:
      (number,).

    Raises:
      ValueError: there are fewer than 16, which torch draws otherwise.
    """
    if number < _BLOCK:
        raise ValueError(f"{number} features are too few for torch's magnitudes to be drawn again; give a world of 16 or more.")
    words = np.random.RandomState(seed)._bit_generator.random_raw(number + _BLOCK)
    uniform = ((words & (2**24 - 1)) * 2.0**-24).astype(np.float32)
    whole = number - number % _BLOCK
    found = np.zeros(number)
    found[:whole] = _box_muller(uniform[:whole])
    if whole < number:
        found[-_BLOCK:] = _box_muller(uniform[number:])
    return found


def _box_muller(uniform: Float[np.ndarray, " blocks"]) -> Float[np.ndarray, " blocks"]:
    pairs = uniform.astype(np.float64).reshape(-1, 2, _BLOCK // 2)
    radius, angle = np.sqrt(-2 * np.log1p(-pairs[:, 0])), 2 * np.pi * pairs[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()


def _trees(path: pathlib.Path, number: int) -> dict[str, np.ndarray]:
    """Parents, levels and the two flags of every node."""
    parent, level = np.full(number, -1), np.full(number, -1)
    flags = {name: np.zeros(number, bool) for name in ("mutually_exclusive_children", "scale_children_by_parent")}
    waiting = [(node, -1, 0) for node in _nodes(read_json(path).get("roots"), path)]
    while waiting:
        node, above, depth = waiting.pop()
        index = node.get("feature_index")
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < number:
            raise ValueError(
                f"{path} has a node whose feature_index is {index!r:.40}, not one of {number} features; download it again."
            )
        if level[index] >= 0:
            raise ValueError(f"{path} has feature {index} in two places; download it again.")
        parent[index], level[index] = above, depth
        for name, flag in flags.items():
            value = node.get(name, False)
            if not isinstance(value, bool):
                raise ValueError(f"{path} has a node whose {name} is {value!r:.40}, not true or false; download it again.")
            flag[index] = value
        waiting += [(child, index, depth + 1) for child in _nodes(node.get("children", []), path)]
    exclusive, scaled = flags.values()
    return {"parent": parent, "level": level, "exclusive": exclusive, "scaled": scaled}


def _nodes(found: Any, path: pathlib.Path) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(node, dict) for node in found):
        raise ValueError(f"{path} is no list of trees below its entry roots; download it again.")
    return found


__all__ = ["read_atoms", "read_firing", "sizes", "torch_normal"]
