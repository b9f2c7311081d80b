"""The law of a world as plain data: how often features fire, together with which others, how loud,
and below which parents.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_gap.core import SEED, check_number, option, settle, shown

# Larger magnitudes leave no room for sums of their squares.
LOUDEST = 1e6
# A world in which fewer features fire per sample, on average, gives nothing to learn from.
FEWEST = 0.01
# Only a world's own law correlates features, and all are as loud as the benchmark's, so that one λ
# serves all worlds.
TOY = {
    "rank": 0,
    "loudest": 5.0,
    "softest": 5.0,
    "spread": (0.75, 0.0),
    "scale_children": False,
    "bias": 0.0,
    "exponent": -1.0,
}
# A title leaves these out: they have columns of their own.
_SIZES = ("num_latents", "input_dim", "seed", "folder", "digest")


@dataclass(frozen=True, kw_only=True)
class Law:
    """The law that a world's samples are drawn by; the defaults are the published benchmark's.

    Features differ in frequency, by a Zipf law. A Gaussian copula of low rank correlates their
    firing. Trees let a child fire only if its parent does, and none of its siblings.

    Args:
      num_latents: N. Feature i is the i-th most frequent, before the trees act.
      input_dim: d, dimension of the signals.
      seed: seeds atoms, correlation and magnitudes.
      roots: number of trees; the most frequent features are their roots. 0 plants none.
      branching: children of each node that has any.
      depth: levels of children below the roots.
      exponent: s of the Zipf law `p_i = least + (most - least) (r_i - r_{N-1}) / (r_0 - r_{N-1})`
        with `r_i = (i + 1)^-s`. It may be negative: -1 makes p_i linear in i.
      most: p_0, the base probability of the most frequent feature.
      least: p_{N-1}, the base probability of the least frequent one.
      rank: rank of the correlation; 0 makes features independent except for their trees.
      correlation: standard deviation of the entries of the correlation's factor, (num_latents,
        rank).
      loudest: mean magnitude of feature 0.
      softest: mean magnitude of the last feature; between the two it is linear in i.
      spread: mean and standard deviation of a normal variable; a feature's own deviation is its
        size, `|N(mean, sd)|`.
      lognormal: σ of log-normal magnitudes `mean exp(σ η - σ²/2)`, η ~ N(0, 1); 0 keeps normal
        ones.
      dense: how many of the last features fire in half of the samples.
      antipodal: how many pairs of features before those have atoms that are each other's negatives.
      drift: the distance that the mean moves, in a direction of its own, from the first sample of a
        split to the last.
      exclusive: whether at most one child of a parent fires.
      scale_children: whether a child's magnitude is proportional to its parent's, as in the second
        version of the published world; the first, uploaded by mistake, only switches children off
        with their parents.
      orthogonal_steps: Adam steps that push the random atoms apart.
      bias: length of the bias.
      folder: the folder of a published world, whose vectors, probabilities, correlation, magnitudes
        and trees replace drawn ones; see `published_world`.
      digest: the digest of the files in that folder.

    Raises:
      ValueError: a value is out of range, or the trees do not fit the features (see the message).
      TypeError: a folder is given without its digest.
    """

    num_latents: int = option(default=16_384)
    input_dim: int = option(default=768)
    seed: int = option(default=0, **SEED)
    roots: int = option(default=128, least=0)
    branching: int = option(default=4, least=0)
    depth: int = option(default=3, least=0)
    exponent: float = option(default=0.5, least=-100, most=100)
    most: float = option(default=0.4, above=0, below=1)
    least: float = option(default=5e-4, above=0, below=1)
    rank: int = option(default=25, least=0, most=100_000)
    correlation: float = option(default=0.1, least=0, most=10)
    loudest: float = option(default=5.0, least=1e-6, most=LOUDEST)
    softest: float = option(default=4.0, least=1e-6, most=LOUDEST)
    spread: tuple[float, float] = option(
        default=(0.5, 0.5), least=-LOUDEST, most=LOUDEST
    )
    lognormal: float = option(default=0.0, least=0, most=3)
    dense: int = option(default=0, least=0)
    antipodal: int = option(default=0, least=0)
    drift: float = option(default=0.0, least=0, most=LOUDEST)
    exclusive: bool = option(default=True)
    scale_children: bool = option(default=True)
    orthogonal_steps: int = option(default=100, least=0, most=100_000)
    bias: float = option(default=0.5, least=0, most=LOUDEST)
    folder: Path | None = None
    digest: str | None = None

    def __post_init__(self):
        settle(self)
        check_number("the standard deviation of spread", self.spread[1], least=0)
        if self.least > self.most:
            raise ValueError(
                f"probabilities need 0 < least <= most < 1, but least is {self.least} and most is "
                f"{self.most}."
            )
        if self.most * self.num_latents < FEWEST:
            raise ValueError(
                f"of {self.num_latents} features at a probability of at most {self.most} hardly "
                "any ever fires; raise most."
            )
        # Nearer to 0, rounding would make all rates equal.
        if abs(self.exponent) < 1e-6 and self.most != self.least:
            raise ValueError(
                f"exponent {self.exponent:g} gives every feature one probability; give most and "
                "least the same value, or an exponent of at least 1e-06 in size."
            )
        if (self.folder is None) != (self.digest is None):
            raise TypeError(
                f"folder is {shown(self.folder)}, but digest {self.digest}; read a world by "
                "published_world(folder)."
            )
        if self.folder:
            return
        beside = self.dense + 2 * self.antipodal
        needed = beside
        level = self.roots
        for _ in range(self.depth + 1 if level else 1):
            needed += level
            level *= self.branching
            if needed > self.num_latents:
                raise ValueError(
                    f"{self.roots} trees with {self.depth} levels of {self.branching} children "
                    f"each, and {beside} features that are dense or antipodal, do not fit the "
                    f"{self.num_latents} features; lower roots, branching, depth, dense or "
                    "antipodal, or raise num_latents."
                )

    @property
    def law(self) -> "Law":
        """The law alone, without the fields of a world."""
        return Law(
            **{
                field.name: getattr(self, field.name)
                for field in dataclasses.fields(Law)
            }
        )

    @property
    def title(self) -> str:
        """The law in words: "synthsae", and its differences from the published benchmark, without
        sizes and seed.
        """
        if self.folder:
            return f"synthsae file={self.digest}"
        differ = (
            f"{name}={_said(getattr(self, name))}"
            for name, usual in _parts().items()
            if getattr(self, name) != usual
        )
        return " ".join(["synthsae", *differ])


def _parts() -> Any:
    """The default values of the parts of a law, without sizes and seed."""
    fields = dataclasses.fields(Law)
    return {field.name: field.default for field in fields if field.name not in _SIZES}


def _said(value: Any) -> str:
    return ",".join(map(_said, value)) if isinstance(value, tuple) else str(value)


def parse_law(entries: Sequence[str]) -> dict[str, Any]:
    """Reads parts of a law, such as "roots=64" and "scale_children=false"; a spread is "0.5:0.5".

    Raises:
      ValueError: an entry is not such a pair, or names no part of a law.
    """
    fields = _parts()
    parts: dict[str, Any] = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if name not in fields or not equals or name in parts:
            raise ValueError(
                f"the law has {shown(entry)}; it must list different pairs such as roots=64, of "
                f"{', '.join(fields)}."
            )
        try:
            parts[name] = _parse(value, type(fields[name]))
        except (KeyError, ValueError):
            usual = _said(fields[name]).replace(",", ":").lower()
            raise ValueError(
                f"the law has {shown(entry)}; give a value such as {name}={usual}."
            ) from None
    return parts


def _parse(value: str, kind: Any) -> Any:
    if kind is tuple:
        return tuple(map(float, value.split(":", 1)))
    return {"true": True, "false": False}[value] if kind is bool else kind(value)


@dataclass(frozen=True)
class NamedWorld:
    """A world by its name.

    Attributes:
      name: the value of `--world`.
      options: returns the arguments of `World` for a number of features, or for the world's own
        number if given None.
    """

    name: str
    options: Callable[[int | None], Mapping[str, Any]]
