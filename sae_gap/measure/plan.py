"""What to measure: SAEs, dictionaries and controls, all on the same rows of held-out documents.

Curves, gaps and verdicts score at most `samples` rows of the held-out part of the activations;
controls learn from the other part.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sae_gap.core import lasso_problem
from sae_gap.core.checks import check_number, check_sequence, check_type
from sae_gap.data.activations import Activations
from sae_gap.data.activations.rows import BLOCKS
from sae_gap.measure.check import FEWEST, Check
from sae_gap.measure.coding import DENSEST, evenly_spaced
from sae_gap.measure.controls import check_control
from sae_gap.measure.curve import check_varies
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage.results import Row, digest

# The name of the study in its rows.
STUDY = "measure_sae"
# Raised whenever a row comes to hold something else, so that earlier rows are measured again.
FORM = 8


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to measure, and how.

    Args:
      saes: SAEs and dictionaries; the first sets the width of the controls and the L0 at which
        dictionaries are compared.
      activations: all of them or, with `held_out`, those that controls learn from.
      lam: the weight of the gap; None finds it.
      l0: the mean L0 at which the gap's weight is sought and dictionaries are compared; None takes
        the encoder's own.
      controls: names of control dictionaries.
      samples: held-out samples to score, at most.
      keep_outliers: whether rows beyond ten times the median norm are looked at, learned from and
        scored like others.
      seed: of the split, and of whatever controls draw.
      held_out: what is scored; None holds a tenth of the activations out.
      loaded: by name, what `check` says of SAEs on the scored samples.
    """

    saes: Sequence[SAE]
    activations: Activations
    lam: float | None = None
    l0: float | None = None
    controls: Sequence[str] = ()
    samples: int = 5_000
    keep_outliers: bool = False
    seed: int = 0
    held_out: Activations | None = None
    loaded: Mapping[str, Check] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def kept(self) -> Activations:
        """The activations without outlier tokens, unless these are kept."""
        return self.activations if self.keep_outliers else self.activations.without_outliers()

    @functools.cached_property
    def parts(self) -> tuple[Activations, Activations]:
        """The activations that controls learn from, and those held out."""
        if self.held_out is None:
            return self.kept.split(seed=self.seed)
        return self.kept, self.held_out if self.keep_outliers else self.held_out.without_outliers()

    @property
    def whole(self) -> Activations:
        """What the scored samples are a part of, outlier tokens too."""
        return self.activations if self.held_out is None else self.held_out

    @functools.cached_property
    def left_out(self) -> Float[np.ndarray, "n input_dim"]:
        """Outlier tokens of what is held out: the share of them that is scored of the others, and
        one at least.
        """
        if self.keep_outliers:
            return np.zeros((0, self.activations.input_dim), np.float32)
        whole = self.whole
        held = whole.split(seed=self.seed)[1] if self.held_out is None else whole
        rows = np.flatnonzero(np.isin(held.numbers, whole.numbers[whole.outliers.rows]))
        most = -(-len(rows) * len(self.places) // self.parts[1].num_samples)
        return held.take(rows[evenly_spaced(len(rows), most)])

    @functools.cached_property
    def places(self) -> Int[np.ndarray, " n"]:
        """The numbers, within the held-out part, of the rows that are scored, evenly spread."""
        return evenly_spaced(self.parts[1].num_samples, self.samples)

    @functools.cached_property
    def scored(self) -> Float[np.ndarray, "n input_dim"]:
        """The held-out samples that are scored.

        Raises:
          ValueError: they do not vary.
        """
        held = self.parts[1]
        rows = held.take(self.places)
        if len(rows) < FEWEST:
            raise ValueError(
                f"{len(rows)} held-out activations are too few to judge by; give some hundreds."
            )
        check_varies(rows)
        return rows

    @functools.cached_property
    def members(self) -> tuple[Int[np.ndarray, " n"], bool]:
        """The document of each scored sample, counted from 0, and True; or contiguous blocks where
        none are named.
        """
        documents, count = self.parts[1].documents, len(self.places)
        if documents is not None:
            return np.unique(documents[self.places], return_inverse=True)[1], True
        return np.arange(count) * min(BLOCKS, count) // count, False

    @functools.cached_property
    def mean(self) -> Float[np.ndarray, " input_dim"]:
        """Of the scored samples."""
        return self.scored.mean(axis=0, dtype=np.float64)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of every row of the activations and of their documents."""
        parts = (self.activations, self.held_out)
        return digest("none" if part is None else part.fingerprint() for part in parts)

    @property
    def settings(self) -> Row:
        """What decides every row: the rows and which of them are scored."""
        return {
            "study": STUDY,
            "form": FORM,
            "activations": self.fingerprint,
            "seed": self.seed,
            "samples": self.samples,
            "keep_outliers": self.keep_outliers,
        }

    def check(self) -> None:
        """Raises a ValueError or a TypeError where a fault would show only after minutes, or as
        figures of another thing.
        """
        mend = "open them by sae_gap.open_activations"
        check_type("activations", self.activations, Activations, mend)
        check_type("held_out", self.held_out, (Activations, type(None)), mend)
        check_sequence("saes", self.saes, SAE, "give some that sae_gap.load_sae returned")
        for word in ("lam", "l0"):
            if getattr(self, word) is not None:
                check_number(word, getattr(self, word), above=0)
        names = [*(sae.name for sae in self.saes), *self.controls]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"two of the SAEs, dictionaries and controls are called {name!r}; give each a "
                    "name of its own."
                )
        if self.lam is not None:
            for sae in self.saes:
                target, atoms = sae.target(self.scored), sae.unit_dictionary
                top = jnp.max(lasso_problem.lambda_max(target, atoms, nonneg=not sae.signed))
                if self.lam >= top:
                    raise ValueError(
                        f"lam is {self.lam:g}, which is not below {top:.3g}, the largest λ_max of "
                        f"the samples on {sae.name!r}, and leaves no code; give less."
                    )
        densest = min(DENSEST * sae.input_dim for sae in self.saes)
        if self.l0 is not None and self.l0 > densest:
            raise ValueError(
                f"a mean L0 of {self.l0:g} is more than a quarter of the dimensions, where codes "
                "are no longer sparse; "
                f"ask for at most {densest:g}."
            )
        for name in self.controls:
            check_control(name, self.parts[0].num_samples, self.saes[0].num_latents)
