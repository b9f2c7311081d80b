"""The law of a world as plain data: how often features fire, together with which others, how loud, and below which parents."""

import dataclasses
import functools
import hashlib
import pathlib
from typing import Any

import numpy as np

from sae_gap.core.checks import check_flag, check_integer, check_number, check_numbers, check_seed, check_size, shown

# Files of a published world, as SAELens names them.
FILES = ("synthetic_model_config.json", "hierarchy.json", "synthetic_model.safetensors")
# Features that fire in a sample at most, on average, below which there is nothing to learn from.
FEWEST = 0.01
# Exponents nearer to 0 than this leave no digits in which the rates of features differ.
FLATTEST = 1e-6
# Magnitudes beyond this leave no room for their squares' sums.
LOUDEST = 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Law:
    """What a world is but for the samples that are drawn from it; by default the published benchmark's.

    Features differ in frequency, by a Zipf law; a Gaussian copula of low rank correlates which of them fire; and trees make a
    child fire only where its parent does, beside none of its siblings.

    Args:
      num_latents: N. Feature i is the i-th most frequent, but for what the trees take from it.
      input_dim: d, dimension of the signals.
      seed: seeds atoms, correlation and magnitudes.
      roots: number of trees, of which the most frequent features are the roots; 0 plants none.
      branching: children of each node that has any.
      depth: levels of children below the roots.
      exponent: s of the Zipf law `p_i = least + (most - least) (r_i - r_{N-1}) / (r_0 - r_{N-1})` with `r_i = (i + 1)^-s`. It
        may be negative: -1 makes p_i linear in i.
      most: p_0, the base probability of the most frequent feature.
      least: p_{N-1}, that of the least frequent one.
      rank: of the correlation; 0 leaves features independent but for their trees.
      correlation: standard deviation of the entries of the correlation's factor, (num_latents, rank).
      loudest: mean magnitude of feature 0.
      softest: mean magnitude of the last one; between them it is linear in i.
      spread: mean and standard deviation of the normal variable whose size is a feature's own deviation, `|N(mean, sd)|`.
      exclusive: whether of the children of one parent at most one fires.
      scale_children: whether a child's magnitude is in proportion to its parent's. The published world has it so in its
        second version; the first, uploaded by mistake, only switches children off with their parents.
      orthogonal_steps: Adam steps that push the random atoms apart.
      bias: length of the bias.
      folder: of a published world, whose vectors, probabilities, correlation, magnitudes and trees take the place of drawn
        ones; made by `sae_gap.data.worlds.synthsae_files`.

    Raises:
      ValueError: a value is out of range, or the trees do not fit the features (see the message).
      TypeError: the folder is no path.
    """

    num_latents: int = 16_384
    input_dim: int = 768
    seed: int = 0
    roots: int = 128
    branching: int = 4
    depth: int = 3
    exponent: float = 0.5
    most: float = 0.4
    least: float = 5e-4
    rank: int = 25
    correlation: float = 0.1
    loudest: float = 5.0
    softest: float = 4.0
    spread: tuple[float, float] = (0.5, 0.5)
    exclusive: bool = True
    scale_children: bool = True
    orthogonal_steps: int = 100
    bias: float = 0.5
    folder: pathlib.Path | None = None

    def __post_init__(self):
        check_size("num_latents", self.num_latents)
        check_size("input_dim", self.input_dim)
        check_seed(self.seed)
        for name in ("roots", "branching", "depth"):
            check_integer(name, getattr(self, name), least=0)
        for name in ("rank", "orthogonal_steps"):
            check_integer(name, getattr(self, name), least=0, most=100_000)
        for name in ("most", "least"):
            check_number(name, getattr(self, name), above=0, below=1)
        check_number("exponent", self.exponent, least=-100, most=100)
        check_number("correlation", self.correlation, least=0, most=10)
        for name in ("loudest", "softest"):
            check_number(name, getattr(self, name), least=1e-6, most=LOUDEST)
        check_numbers("spread", self.spread, 2, least=-LOUDEST, most=LOUDEST)
        check_number("the standard deviation of spread", self.spread[1], least=0)
        check_number("bias", self.bias, least=0, most=1e6)
        for name in ("exclusive", "scale_children"):
            check_flag(name, getattr(self, name))
        # Rows and titles have numbers of Python.
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if hasattr(value, "item") and np.ndim(value) == 0:
                object.__setattr__(self, field.name, value.item())
        spread = tuple(value.item() if hasattr(value, "item") else value for value in self.spread)
        object.__setattr__(self, "spread", spread)
        if not self.least <= self.most:
            raise ValueError(f"probabilities need 0 < least <= most < 1, but least is {self.least} and most is {self.most}.")
        if self.most * self.num_latents < FEWEST:
            raise ValueError(
                f"of {self.num_latents} features at a probability of at most {self.most} hardly any ever fires; raise most."
            )
        if abs(self.exponent) < FLATTEST and self.most != self.least:
            raise ValueError(
                f"exponent {self.exponent:g} gives every feature one probability; give most and least the same value, or an "
                f"exponent of at least {FLATTEST:g} in size."
            )
        if self.folder is not None and not isinstance(self.folder, pathlib.Path):
            raise TypeError(f"folder must be a path, but it is {shown(self.folder)}; read a world by published_world(folder).")
        if self.folder is None:
            self._check_trees()

    def _check_trees(self) -> None:
        needed, level = 0, self.roots
        for _ in range(self.depth + 1):
            if not level:
                return
            needed, level = needed + level, level * self.branching
            if needed > self.num_latents:
                raise ValueError(
                    f"{self.roots} trees with {self.depth} levels of {self.branching} children each do not fit the "
                    f"{self.num_latents} features; lower roots, branching or depth, or raise num_latents."
                )

    @property
    def law(self) -> "Law":
        """The law alone, of whatever else goes by it."""
        return Law(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Law)})

    @property
    def title(self) -> str:
        """The law in words: "synthsae", and what differs from the published benchmark's but sizes and seed."""
        if self.folder is not None:
            return f"synthsae file={digest(self.folder)}"
        told = [field for field in dataclasses.fields(Law) if field.name not in ("num_latents", "input_dim", "seed", "folder")]
        differ = [field.name for field in told if getattr(self, field.name) != field.default]
        return " ".join(["synthsae", *(f"{name}={_said(getattr(self, name))}" for name in differ)])


def _said(value: Any) -> str:
    return ",".join(map(_said, value)) if isinstance(value, tuple) else str(value)


def digest(folder: pathlib.Path) -> str:
    """A digest of a published world's files, read again only when one of them has changed."""
    try:
        modified = tuple((folder / name).stat().st_mtime_ns for name in FILES)
    except OSError as error:
        raise ValueError(f"the world's file {error.filename} cannot be read: {error.strerror}; put it back.") from None
    return _digest(folder, modified)


@functools.lru_cache(maxsize=4)
def _digest(folder: pathlib.Path, modified: tuple[int, ...]) -> str:
    found = hashlib.sha256()
    for name in FILES:
        with (folder / name).open("rb") as opened:
            while block := opened.read(2**20):
                found.update(block)
    return found.hexdigest()[:16]


__all__ = ["FILES", "Law", "digest"]
