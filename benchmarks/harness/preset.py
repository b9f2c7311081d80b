"""What a run is made of: the grid and the lengths of a preset, the knobs of a study, and the settings or worlds of a grid."""

import ast
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sae_gap.core.checks import check_choice
from sae_gap.core.types import Setting
from sae_gap.data.recording import Source
from sae_gap.data.worlds import published_world
from sae_gap.data.worlds.named import named_world
from sae_gap.encoders.encoder import Encoder
from sae_gap.encoders.lasso import Lasso

# What columns that runs vary are called above tables.
HEADINGS = {"num_latents": "latents", "sparsity": "k", "num_samples": "samples", "input_dim": "dim", "lam": "λ"}
# Lengths of training that studies share, each a flag.
LENGTHS = {
    "epochs": "Epochs of an SAE, and of encoders trained on a dictionary.",
    "rounds": "Rounds of dl_fista, at most.",
    "visits": "Samples that online_dl codes for each latent; more find a harder dictionary.",
    "blocks": "Blocks of 500 steps of softplus_adam, at most.",
    "sae_steps": "Gradient steps of a tuned SAE, rounded up to whole epochs.",
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """The grid of a run, the lengths of its training, and what every method is told.

    Args:
      num_latents, sparsity, num_samples, input_dim, noise_db, width, seeds: the grid; see `Setting`. None of num_latents are as
        many as a world has of its own.
      stream: whether all samples are for training.
      world: the name of a world in the place of the paper's model; None takes that. There all samples are for training.
      law: parts of the world's law that differ from what its name stands for.
      world_file: the folder of a published world.
      lam: weight of the l1 norm.
      protocol: "strict" or "paper".
      epochs, rounds, visits, blocks, sae_steps: see `LENGTHS`.
      knobs: values of the study's own knobs, where they are not the defaults.
    """

    num_latents: tuple[int | None, ...] = (100,)
    sparsity: tuple[int, ...] = (10,)
    num_samples: tuple[int, ...] = (5_000,)
    input_dim: tuple[int | None, ...] = (None,)
    noise_db: tuple[float | None, ...] = (None,)
    width: tuple[int | None, ...] = (None,)
    seeds: tuple[int, ...] = (0, 1, 2)
    stream: bool = False
    world: str | None = None
    law: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    world_file: str | None = None
    lam: float = 0.1
    protocol: str = "strict"
    epochs: int = 500
    rounds: int = 1_000
    visits: int = 400
    blocks: int = 100
    sae_steps: int = 50_000
    knobs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def lasso(self, start: Encoder | None = None, *, lam: float | None = None) -> Lasso:
        """Codes on a fixed dictionary: certified, on unit atoms; or, as published, 100 FISTA iterations on it as it is."""
        weight = self.lam if lam is None else lam
        if self.protocol == "paper":
            return Lasso(weight, start, tol=None, max_iterations=100, unit_atoms=False)
        return Lasso(weight, start)


SMOKE = Preset((20,), (3,), (200,), seeds=(0, 1), epochs=5, rounds=5, visits=4, blocks=2, sae_steps=100)
WIDTHS = (50, 100, 500, 1_000, 5_000, 10_000)


class Knob(NamedTuple):
    """An option that one study has of its own, and its flag.

    Attributes:
      default: its value unless a preset or the flag gives another.
      help: of the flag.
      read: from the flag's text to a value; a ValueError says what is wrong with it.
    """

    default: Any
    help: str
    read: Callable[[str], Any]


def read_count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise ValueError(f"{text!r} must be an integer of 1 or more.")
    return int(text)


def read_options(learner: type, text: str) -> dict[str, Any]:
    """Options of a learner, such as `batch_size=1024, rates=(0.3, 0.03, 0.005)`."""
    try:
        call = ast.parse(f"dict({text})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError
        found = {str(option.arg): ast.literal_eval(option.value) for option in call.keywords}
    except (SyntaxError, ValueError):
        raise ValueError(f"{text!r} must list options such as batch_size=1024, rates=(0.3, 0.03, 0.005).") from None
    for name in found:
        check_choice("an option", name, [field.name for field in dataclasses.fields(learner)])
    return found


def grid(preset: Preset) -> Sequence[Source]:
    """A setting, or a world, for each combination of sizes and each seed."""
    is_world = preset.world is not None or preset.world_file is not None
    # The sparsity of a world follows from its law.
    axes = {
        name: getattr(preset, name) for name in ("num_latents", "sparsity", "num_samples", "input_dim", "noise_db", "width")
    }
    axes |= {"sparsity": (None,)} if is_world else {}
    cells = itertools.product(*axes.values(), preset.seeds)
    return [_source(preset, dict(zip((*axes, "seed"), cell, strict=True))) for cell in cells]


def _source(preset: Preset, cell: dict[str, Any]) -> Source:
    if preset.world is None and preset.world_file is None:
        return Setting(**cell, stream=preset.stream)
    del cell["sparsity"]
    if preset.world_file is None:
        return named_world(str(preset.world), **cell, **preset.law)
    return published_world(preset.world_file, **{name: cell[name] for name in ("num_samples", "noise_db", "width", "seed")})
