"""What to measure: SAEs, dictionaries and controls, on activations with a held-out part.

Activations are read in chunks, and memory is set by a chunk. The gap, its parts and the overlap of supports are sums over all
activations, or over the held-out documents. Fronts code at most `front_samples` of the held-out part; controls learn from the
other part.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sae_gap.core import lasso_problem
from sae_gap.data.activations import Activations
from sae_gap.measure.controls import check_control
from sae_gap.measure.front import CHUNK, check_varies
from sae_gap.measure.subject import Subject, digest

# Rows by which a file of activations is told from another.
_FINGERPRINT_ROWS = 256
# A lasso code of more non-zeros than this share of the dimensions is no sparse code; an encoder that fires more is held to it.
DENSEST = 1 / 4


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure, and how.

    Args:
      subjects: SAEs and dictionaries; the first sets the width and the sparsity of the controls.
      activations: all of them.
      lam: the weight; None finds it.
      l0: the mean L0 at which a weight is sought; None takes the encoder's own.
      controls: names of control dictionaries.
      held_out: whether the gap is summed over the held-out part alone, as an SAE needs that was trained on the other.
      max_samples: samples over which the gap is summed, evenly spread; None takes all.
      front_samples: held-out samples that fronts are about, at most.
      seed: of the split, and of whatever controls draw.
    """

    subjects: Sequence[Subject]
    activations: Activations
    lam: float | None = None
    l0: float | None = None
    controls: Sequence[str] = ()
    held_out: bool = False
    max_samples: int | None = None
    front_samples: int = 2_000
    seed: int = 0

    @functools.cached_property
    def parts(self) -> tuple[Activations, Activations]:
        """The activations that controls learn from, and those held out."""
        return self.activations.split(seed=self.seed)

    @functools.cached_property
    def scored(self) -> Float[np.ndarray, "n input_dim"]:
        """The held-out samples that fronts are about, evenly spread."""
        held = self.parts[1]
        return held.take(evenly_spaced(held.num_samples, self.front_samples))

    @property
    def summed(self) -> Activations:
        """The activations whose gap is summed."""
        return self.parts[1] if self.held_out else self.activations

    @functools.cached_property
    def places(self) -> Int[np.ndarray, " samples"]:
        """The numbers of those rows of `summed` that are taken."""
        return evenly_spaced(self.summed.num_samples, self.max_samples or self.summed.num_samples)

    @functools.cached_property
    def mean(self) -> Float[np.ndarray, " input_dim"]:
        """Of the samples whose gap is summed."""
        starts = range(0, len(self.places), CHUNK)
        sums = (self.summed.take(self.places[start : start + CHUNK]).sum(axis=0, dtype=np.float64) for start in starts)
        return sum(sums, np.zeros(self.summed.input_dim)) / len(self.places)

    @functools.cached_property
    def fingerprint(self) -> str:
        """What tells these activations from others."""
        rows = self.activations.take(evenly_spaced(self.activations.num_samples, _FINGERPRINT_ROWS))
        documents = [] if self.activations.documents is None else [self.activations.documents]
        return digest([np.array([self.activations.num_samples, self.activations.input_dim]), rows, *documents])

    def check(self) -> None:
        """Raises a ValueError where a fault would show only after minutes, or as figures of another thing."""
        names = [*(subject.name for subject in self.subjects), *self.controls]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"two of the SAEs, dictionaries and controls are called {twice!r}; give each a name of its own.")
        train, held = self.parts
        if held.num_samples < 2:
            raise ValueError(
                f"of {self.activations.num_samples} activations only {held.num_samples} is held out, "
                "which has no variance to explain; give some hundreds."
            )
        check_varies(self.scored)
        for subject in self.subjects if self.lam is not None else ():
            target = subject.target(self.scored)
            top = float(jnp.max(lasso_problem.lambda_max(target, subject.dictionary, nonneg=not subject.signed)))
            if self.lam >= top:  # type: ignore[operator]
                raise ValueError(
                    f"lam is {self.lam:g}, which is not below {top:.3g}, the largest λ_max of the samples on {subject.name!r}, "
                    "and leaves no code; give less."
                )
        densest = min(DENSEST * subject.input_dim for subject in self.subjects)
        if self.l0 is not None and self.l0 > densest:
            raise ValueError(
                f"a mean L0 of {self.l0:g} is more than a quarter of the dimensions, where codes are no longer sparse; "
                f"ask for at most {densest:g}."
            )
        for name in self.controls:
            check_control(name, train.num_samples, self.subjects[0].num_latents)


def evenly_spaced(count: int, most: int) -> Int[np.ndarray, " chosen"]:
    """At most so many indices below `count`, evenly spread, each once."""
    return np.arange(count) if most >= count else np.arange(most) * count // most
