"""The grid and the lengths of a run as a preset, each a flag, and the settings or worlds of its
grid.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from benchmarks.options import Options, option
from sae_gap.core import SEED
from sae_gap.data import (
    WORLDS,
    Setting,
    Source,
    named_world,
    parse_law,
    published_world,
)
from sae_gap.encoders import FISTA, Encoder, Lasso
from sae_gap.study import PROTOCOLS

_AXES = "num_latents sparsity num_samples input_dim noise_db width seeds"


@dataclasses.dataclass(frozen=True)
class Preset(Options):
    """The grid of a run, the lengths of its training, and the settings that every method gets.

    A study with its own options derives a class with further fields, or other sources. In a world
    all samples are for training, and None among `num_latents` means as many as the world has.

    Attributes:
      without: options that make no sense in the study.
    """

    without: ClassVar[tuple[str, ...]] = ()
    num_latents: tuple[int | None, ...] = option((100,), "Numbers of latents.", least=1)
    sparsity: tuple[int, ...] = option(
        (10,), "Numbers of active latents a sample.", least=1
    )
    num_samples: tuple[int, ...] = option(
        (5_000,),
        "Numbers of ID samples, half of them for training; all of them with --stream.",
        least=1,
    )
    input_dim: tuple[int | None, ...] = option(
        (None,),
        "Dimensions of the signals; by default the compressed-sensing bound.",
        least=1,
    )
    noise_db: tuple[float | None, ...] = option(
        (None,), "Signal-to-noise ratios in decibels; none for no noise."
    )
    width: tuple[int | None, ...] = option(
        (None,),
        "Numbers of atoms to learn; by default as many as there are latents.",
        least=1,
    )
    seeds: tuple[int, ...] = option((0, 1, 2), "Seeds.", **SEED)
    stream: bool = option(
        False,
        "Whether all samples are for training, with at most 2500 more to score on.",
    )
    world: str | None = option(
        None, f"A world in the place of the paper's model: {', '.join(WORLDS)}."
    )
    law: tuple[str, ...] = option(
        (), "Parts of the world's law, such as roots=64,depth=2,most=0.4."
    )
    world_file: str | None = option(
        None, "The folder of a published world, such as SynthSAEBench-16k."
    )
    lam: float = option(0.1, "Weight of the l1 norm.", least=1e-30)
    protocol: str = option(
        "strict",
        "strict: learners see train only, codes are certified; paper: as published.",
        choices=PROTOCOLS,
    )
    epochs: int = option(
        500, "Epochs of an SAE, and of encoders trained on a dictionary.", least=1
    )
    rounds: int = option(1_000, "Rounds of dl_fista, at most.", least=1)
    visits: int = option(
        400,
        "Samples that online_dl codes for each latent; more find a harder dictionary.",
        least=1,
    )
    blocks: int = option(100, "Blocks of 500 steps of softplus_adam, at most.", least=1)
    sae_steps: int = option(
        50_000, "Gradient steps of a tuned SAE, rounded up to whole epochs.", least=1
    )
    # Options of OnlineDictionary and of Families, for example num_slots.
    online: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    families: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def lasso(self, start: Encoder | None = None) -> Lasso | FISTA:
        """Codes on a fixed dictionary: certified, on unit atoms; or, as published, 100 FISTA
        iterations on the unscaled atoms.
        """
        if self.protocol == "paper":
            return FISTA(self.lam, start, iterations=100, unit_atoms=False)
        return Lasso(self.lam, start)

    def sources(self) -> Sequence[Source]:
        """A setting, or a world, for each combination of sizes and each seed."""
        axes = {name: getattr(self, name) for name in _AXES.split()}
        axes["seed"] = axes.pop("seeds")
        if self.world or self.world_file:
            # The sparsity of a world follows from its law.
            del axes["sparsity"]
        return [
            self._source(dict(zip(axes, cell, strict=True)))
            for cell in itertools.product(*axes.values())
        ]

    def _source(self, cell: dict[str, Any]) -> Source:
        if self.world_file:
            names = "num_samples", "noise_db", "width", "seed"
            return published_world(
                self.world_file, **{name: cell[name] for name in names}
            )
        if self.world:
            return named_world(self.world, **cell, **parse_law(self.law))
        return Setting(**cell, stream=self.stream)


_SMOKE: Any = {
    "num_latents": (20,),
    "sparsity": (3,),
    "num_samples": (200,),
    "seeds": (0, 1),
    "epochs": 5,
    "rounds": 5,
    "visits": 4,
    "blocks": 2,
    "sae_steps": 100,
}
WIDTHS = (50, 100, 500, 1_000, 5_000, 10_000)


def presets(
    kind: type[Preset] = Preset, **changes: Mapping[str, Any]
) -> dict[str, Preset]:
    """Presets by name: "smoke" and "quick", and others that `changes` names; each of these gives
    the fields that are not the default, or not those of a trial for "smoke".
    """
    changes = {"smoke": {}, "quick": {}, **changes}
    changes["smoke"] = {**_SMOKE, **changes["smoke"]}
    return {name: kind(**fields) for name, fields in changes.items()}


# The presets of most studies: one number of latents, or a few.
PRESETS = presets(paper={"num_latents": WIDTHS})
PRESETS_BY_LATENTS = presets(
    smoke={"num_latents": (20, 30)},
    quick={"num_latents": (50, 100)},
    paper={"num_latents": WIDTHS},
)
