"""Tests for families among atoms of activations, without the truth: do two seeds agree more?"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from sae_gap.core.matching import match_atoms
from sae_gap.core.types import Model
from sae_gap.dictionaries.training import as_task
from sae_gap.learners.learner import Learner, base_of
from sae_gap.learners.online.families import LEAST_LATENTS, Families
from sae_gap.learners.online.gradient_sums import LEAST_LATENTS as LEAST_OF_BASE
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.study.fitting import fit

# Settings of a trial fit: rows coded per atom, counted for at least `FEWEST` atoms, and rounds.
# Families take as many again.
VISITS, FEWEST, ROUNDS = 20.0, 1_000, 6
# A larger difference, in standard errors, is more than the chance of which atoms are found: on
# white noise it was up to 1.8, on worlds with trees 7 and more at 512 atoms.
BEYOND = 2


class Structure(NamedTuple):
    """The agreement of two seeds' dictionaries, in mean matched |cosine|.

    Attributes:
      plain: agreement of `online_dl` with `incoherent`.
      families: agreement of `Families` that start from those.
      error: standard error of the difference, over atoms.
    """

    plain: float
    families: float
    error: float

    @property
    def has_families(self) -> bool:
        """True if the seeds agree more with families, by more than two standard errors."""
        return self.families - self.plain > BEYOND * self.error

    def __repr__(self) -> str:
        found = "families suit these activations" if self.has_families else "no structure found"
        return (
            f"{found}: dictionaries of two seeds agree to {self.families:.3f} with families and to "
            f"{self.plain:.3f} without; the standard error of the difference is {self.error:.3f}"
        )


def with_families(learner: OnlineDictionary) -> Families:
    """Returns `Families` that start from a learner of activations, made `incoherent`."""
    base = dataclasses.replace(learner, incoherent=True)
    return Families(margin=learner.margin, num_slots=learner.num_slots, base=base)


def compare_seeds(
    signals: Float[np.ndarray, "n input_dim"],
    learner: OnlineDictionary,
    width: int,
    seed: int = 0,
    *,
    show_progress: bool = True,
) -> Structure:
    """Fits two seeds shortly, without families and with them, by some 80 visits per atom in all.

    On the drawn worlds of RESULTS.md families make the seeds agree more, except on a larger one
    without trees; on activations of transformers they agree less.

    Args:
      signals: rows to learn from, (n, input_dim).
      learner: how to learn.
      width: number of atoms.
      seed: the seed of the first fit; the second takes the next one.
      show_progress: whether to show lines of progress on a terminal or in a notebook.

    Returns:
      The agreement of the seeds.
    """
    rows = VISITS * max(width, FEWEST)
    base = dataclasses.replace(learner, visits=rows / max(width, LEAST_OF_BASE))
    each = rows / (ROUNDS * max(width, LEAST_LATENTS))
    families = dataclasses.replace(with_families(base), num_steps=ROUNDS, visits=each)
    tasks, seeds = [as_task(signals, width)] * 2, [seed, (seed + 1) % 2**32]

    def ends(learner: Learner, **options: Any) -> list[Model]:
        fits = fit(learner, tasks, seeds, show_progress=show_progress, **options)
        return [found.end.model for found in fits]

    bases = ends(base_of(families))
    # Atoms keep their columns, so both pairs follow the atoms of the second seed.
    before, after = (
        np.abs(match_atoms(*(model.decoder for model in pair)).cosine)
        for pair in (bases, ends(families, bases=bases))
    )
    error = np.std(after - before) / np.sqrt(width)
    return Structure(before.mean(), after.mean(), error)
