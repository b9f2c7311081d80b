"""A world that replaces a `Setting`: its task, and its samples as a stream."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpy import float32
from numpy.random import default_rng
from scipy.sparse import csr_array, vstack

from sae_gap.core import (
    Split,
    Task,
    Tree,
    check_choice,
    check_integer,
    check_path,
    check_size,
    check_type,
    float_type,
    option,
)
from sae_gap.data import (
    FILES,
    Law,
    Sampler,
    atoms_of,
    expected_l0,
    firing_of,
    noise_scale,
    out_of_distribution,
    pieces_of,
    read_sizes,
)
from sae_gap.storage import file_digest

# Samples per piece; each piece has its own random generator.
PIECE = 1_024
# Streams of a seed's random numbers, one for each split.
_SPLITS = {"train": 4, "id": 5, "ood": 6}
# The stream for the direction in which the mean drifts.
_DRIFT = 48


@dataclass(frozen=True, kw_only=True)
class World(Law):
    """A synthetic world after SynthSAEBench, `y = b + Σ_i z_i d_i`; it replaces a `Setting`.

    All `num_samples` are for training, and come without their codes. Out of distribution the
    features fire as often and below the same parents, but together with others: the factor of their
    correlation is drawn anew.

    Args:
      width: atoms of the dictionaries to learn; None takes one for each feature. Narrower ones are
        expected to learn the most frequent features.
      num_samples: number of training samples.
      scored: samples in each scored split; None takes the number of training samples, but at most
        20,000.
      noise_db: signal-to-noise ratio in decibels of additive Gaussian noise; None adds none. The
        signal's power is its mean square over the first piece of the training samples, bias
        included.

    `Law` describes the other arguments.

    Raises:
      ValueError: a value is out of range, or the trees do not fit the features (see the message).
      TypeError: a folder is given without its digest.

    References:
      Chanin & Garriga-Alonso (2026), "SynthSAEBench", arXiv:2602.14687.
    """

    width: int | None = option(default=None)
    num_samples: int = option(default=200_000, least=4)
    scored: int | None = option(default=None)
    noise_db: float | None = option(default=None, least=-200, most=200)

    def __post_init__(self):
        super().__post_init__()
        if self.width == self.num_latents:
            # One world has one key: a width equal to the truth's becomes None.
            object.__setattr__(self, "width", None)

    @property
    def num_train(self) -> int:
        """Number of training samples."""
        return self.num_samples

    @property
    def num_scored(self) -> int:
        """Number of samples in each scored split."""
        return self.scored or min(self.num_samples, 20_000)

    @property
    def sparsity(self) -> int:
        """The k for SAEs: how many of the first `width` features fire in a sample, on average over
        2,048, rounded.
        """
        width = self.width or self.num_latents
        return max(1, min(round(expected_l0(self.law, width)), width - 1))

    @property
    def magnitude(self) -> float:
        """The mean over features of their mean magnitudes, in the units of the codes."""
        return float(firing_of(self.law).mean.mean())

    def task(self) -> Task:
        """Draws the task: training signals without codes, and both scored splits with sparse
        codes.
        """
        train = WorldStream(self)
        firing = firing_of(self.law)

        def scored(split: str) -> Split:
            signals, codes = WorldStream(self, split).samples(0, self.num_scored)
            return Split(jnp.asarray(signals), codes)

        return Task(
            Split(jnp.asarray(train(0, self.num_samples))),
            scored("id"),
            scored("ood"),
            dictionary=jnp.asarray(train.atoms.T),
            width=self.width or self.num_latents,
            seed=self.seed,
            tree=Tree(firing.parent, firing.level),
        )

    def asdict(self) -> dict[str, Any]:
        """Returns the values that tell worlds apart, as in rows and keys."""
        names = (
            "num_latents",
            "sparsity",
            "num_samples",
            "input_dim",
            "seed",
            "noise_db",
        )
        values = {"world": self.title} | {name: getattr(self, name) for name in names}
        for name in ("width", "scored"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)
        return values


class WorldStream:
    """Samples of a world, drawn on request: a source for `fit_stream`, of any length.

    `stream(start, count)` returns the `count` signals from number `start` on, `(count, input_dim)`.
    A signal does not depend on the pieces in which it is requested.

    Args:
      world: the world.
      split: "train", "id" or "ood".
    """

    def __init__(self, world: World, split: str = "train"):
        check_type("world", world, World, "make it by sae_gap.World() or named_world")
        check_choice("split", split, _SPLITS)
        law = world.law
        self._seed = (world.seed, _SPLITS[split])
        self._sampler = Sampler(
            out_of_distribution(law) if split == "ood" else firing_of(law)
        )
        dtype = float_type()
        atoms, bias = atoms_of(law)
        self.atoms = atoms.astype(dtype)
        self.bias = bias.astype(dtype)
        number = world.num_samples if split == "train" else world.num_scored
        way = default_rng([world.seed, _DRIFT]).standard_normal(law.input_dim)
        # The step of the mean from a sample to the next.
        self._drift = law.drift / max(1, number - 1) * way / np.linalg.norm(way)
        self._piece = lru_cache(maxsize=1)(self._draw)
        self._noise = 0.0
        if world.noise_db is not None:
            first = WorldStream(replace(world, noise_db=None))(0, PIECE)
            self._noise = noise_scale(first, world.noise_db)

    def __call__(self, start: int, count: int) -> Float[np.ndarray, "count input_dim"]:
        return self.samples(start, count)[0]

    def samples(
        self, start: int, count: int
    ) -> tuple[Float[np.ndarray, "count input_dim"], csr_array]:
        """Returns signals with their codes, (count, N)."""
        check_integer("start", start, least=0, most=2**62)
        check_size("count", count)
        signals = np.empty((count, self.atoms.shape[1]), self.atoms.dtype)
        codes = []
        for index, rows, place in pieces_of(int(start), int(count), PIECE):
            drawn, their_codes = self._piece(index)
            signals[place] = drawn[rows]
            codes.append(their_codes[rows])
        return signals, csr_array(vstack(codes, format="csr"))

    def _draw(
        self, index: int
    ) -> tuple[Float[np.ndarray, "piece input_dim"], csr_array]:
        rng = default_rng([*self._seed, index])
        codes = self._sampler.codes(rng, PIECE).astype(self.atoms.dtype)
        signals = codes @ self.atoms
        signals += self.bias
        if self._drift.any():
            numbers = index * PIECE + np.arange(PIECE)
            signals += np.outer(numbers, self._drift).astype(signals.dtype)
        if self._noise:
            signals += signals.dtype.type(self._noise) * rng.standard_normal(
                signals.shape, float32
            )
        return signals, codes


def published_world(folder: str | Path, **options: Any) -> World:
    """Opens the world in a folder of files that SAELens wrote, such as SynthSAEBench-16k: vectors,
    rates, correlation and trees.

    Args:
      folder: holds `synthetic_model_config.json`, `hierarchy.json` and
        `synthetic_model.safetensors`.
      **options: fields beside the law's: `width`, `num_samples`, `seed`, `scored`, `noise_db`.

    Returns:
      The world. Its seed only seeds samples and learners.

    Raises:
      ValueError: a file is missing, damaged or does not fit the others, or an option is out of
        range.
      TypeError: the folder is not a path.
    """
    place = check_path("folder", folder)
    for name in options:
        check_choice(
            "an option of a published world", name, (*World.__annotations__, "seed")
        )
    _, num_latents, input_dim = read_sizes(place)
    world = World(
        num_latents=num_latents,
        input_dim=input_dim,
        folder=place,
        digest=file_digest(*(place / name for name in FILES)),
        **options,
    )
    # Read the files now, so that their faults show early.
    firing_of(world.law)
    atoms_of(world.law)
    return world
