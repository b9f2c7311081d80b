"""What a run is made of: the sizes, lengths and options of a preset, and the settings or worlds that they stand for."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from sae_gap.core.types import Setting
from sae_gap.data.worlds import World, published_world
from sae_gap.data.worlds.named import named_world
from sae_gap.encoders.encoder import Encoder
from sae_gap.encoders.lasso import Lasso

# What columns that runs vary are called above tables.
HEADINGS = {
    "num_latents": "latents",
    "sparsity": "k",
    "num_samples": "samples",
    "input_dim": "dim",
    "noise_db": "noise db",
    "lam": "λ",
    "iterations": "iterations",
    "step": "step",
    "depth": "depth",
    "width": "width",
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes of a run, lengths of training, and what every method is told.

    Args:
      num_latents, sparsity, num_samples, input_dim, noise_db, seeds: the grid; see `Setting`. 0 latents are as many as a world
        has of its own.
      stream: whether all samples are for training.
      world: the name of a world in the place of the paper's model; None takes that. There all samples are for training.
      law: parts of the world's law that differ from what its name stands for.
      width: atoms to learn; None takes as many as the setting has latents.
      world_file: the folder of a published world.
      lam: weights of the l1 norm; a study that does not vary them has one.
      protocol: "strict" or "paper".
      epochs: of an SAE, and of encoders trained on a dictionary.
      rounds: of DL-FISTA, at most.
      visits: of `OnlineDictionary`.
      online, families: other options of `OnlineDictionary` and of `Families` that differ from their own.
      blocks: of Softplus-Adam, of 500 steps each, at most.
      sae_steps: gradient steps of an SAE whose length is not in epochs.
      peer_steps: minibatches of other libraries; None leaves each its own.
      dictionary: which one a study of encoders is about.
      ratios: values of c, for `c k ln(num_latents / k)` dimensions, of a study of dimensions.
    """

    num_latents: tuple[int, ...] = (100,)
    sparsity: tuple[int, ...] = (10,)
    num_samples: tuple[int, ...] = (5_000,)
    input_dim: tuple[int | None, ...] = (None,)
    noise_db: tuple[float | None, ...] = (None,)
    seeds: tuple[int, ...] = (0, 1, 2)
    stream: bool = False
    world: str | None = None
    law: tuple[tuple[str, Any], ...] = ()
    width: tuple[int | None, ...] = (None,)
    world_file: str | None = None
    lam: tuple[float, ...] = (0.1,)
    protocol: str = "strict"
    epochs: int = 500
    rounds: int = 1_000
    visits: int = 400
    online: tuple[tuple[str, Any], ...] = ()
    families: tuple[tuple[str, Any], ...] = ()
    blocks: int = 100
    sae_steps: int = 50_000
    peer_steps: int | None = None
    dictionary: str = "oracle"
    ratios: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)

    @property
    def peer_options(self) -> dict[str, Any]:
        """The length of a learner of another library, where it is not its own."""
        return {} if self.peer_steps is None else {"num_steps": self.peer_steps}

    @property
    def weight(self) -> float:
        """The one λ of a study that does not vary it."""
        return self.lam[0]

    def lasso(self, start: Encoder | None = None, *, lam: float | None = None) -> Lasso:
        """Codes on a fixed dictionary: certified, on unit atoms; or, as published, 100 FISTA iterations on it as it is."""
        weight = self.weight if lam is None else lam
        if self.protocol == "paper":
            return Lasso(weight, start, tol=None, max_iterations=100, unit_atoms=False)
        return Lasso(weight, start)


SMOKE = Preset((20,), (3,), (200,), seeds=(0, 1), epochs=5, rounds=5, visits=4, blocks=2, sae_steps=100, peer_steps=10)


def grid(preset: Preset) -> Sequence[Setting | World]:
    """A setting, or a world, for each combination of sizes and each seed."""
    if preset.world is not None or preset.world_file is not None:
        return _worlds(preset)
    axes = (
        preset.num_latents,
        preset.sparsity,
        preset.num_samples,
        preset.input_dim,
        preset.noise_db,
        preset.width,
        preset.seeds,
    )
    return [
        Setting(n, sparsity, samples, seed, input_dim=input_dim, noise_db=noise_db, stream=preset.stream, width=width)
        for n, sparsity, samples, input_dim, noise_db, width, seed in itertools.product(*axes)
    ]


def _worlds(preset: Preset) -> list[World]:
    axes = (preset.num_latents, preset.num_samples, preset.input_dim, preset.noise_db, preset.width, preset.seeds)
    found = []
    for num_latents, num_samples, input_dim, noise_db, width, seed in itertools.product(*axes):
        size: dict[str, Any] = {"num_samples": num_samples, "noise_db": noise_db, "width": width, "seed": seed}
        if preset.world_file is not None:
            found.append(published_world(preset.world_file, **size))
        else:
            found.append(named_world(str(preset.world), num_latents or None, input_dim=input_dim, **size, **dict(preset.law)))
    return found


__all__ = ["HEADINGS", "SMOKE", "Preset", "grid"]
