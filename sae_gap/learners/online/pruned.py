"""Cuts a wider dictionary to the atoms that carry the most energy."""

from typing import ClassVar

import jax.numpy as jnp
from jax import lax

from sae_gap.core import Look, Model, Split, option
from sae_gap.encoders import unit_atoms
from sae_gap.learners import Learner, base_of, live_share
from sae_gap.learners.online import gradient_sums

# Samples coded for each latent, and the threshold in units of the root mean squares of the residual
# and of the active codes.
VISITS, MARGIN, FLOOR = 3, 2.5, 0.18


class Pruned(Learner):
    r"""Keeps the atoms of its base that carry the most energy.

    To get a dictionary with fewer atoms than the signals have concepts, it is better to learn it
    whole and then cut it: concepts without an atom are noise, which blurs the atoms while they are
    learned. Samples are coded on all atoms as in `OnlineDictionary`, by `pursue` at the threshold
    `max(2.5 σ, .18 a)`. The `round(share · num_latents)` atoms of greatest `Σ_i z_ij²` stay, at
    least one, in their order.

    Args:
      share: the share of atoms to keep, above 0 and at most 1.
      num_slots: the most atoms of a sample, a multiple of 4; None takes about twice the k that
        compressed sensing allows.
      base: the learner whose dictionary is cut; its codes are non-negative.
    """

    rank = 5
    looks: ClassVar = {"online_dl_families_pruned": Look("online DL, families, pruned", "#CC6677")}

    share: float = option(default=0.25, static=True, above=0, most=1)
    num_slots: int | None = option(default=None, static=True)

    def __check_init__(self):
        base_of(self)
        gradient_sums.check_slots(self.num_slots)

    @property
    def name(self):  # type: ignore[override]
        return f"{base_of(self).name}_pruned"

    def init(self, data: Split, *, num_latents, key, base=None):
        dictionary = unit_atoms(base.decoder)[0].astype(data.signals.dtype)
        bias, slots = jnp.asarray(base.bias, dictionary.dtype), self.num_slots
        number = gradient_sums.num_visited(VISITS, len(data.signals), dictionary.shape[1])
        signals, live = data.signals[:number] - bias, live_share(data.signals)
        scales = gradient_sums.initial_scales(
            signals, dictionary, live, MARGIN, FLOOR, num_slots=slots
        )
        least = gradient_sums.threshold(*scales, MARGIN, FLOOR)
        sums = gradient_sums.accumulate(signals, dictionary, least, least, num_slots=slots)[0]
        # The energy of an atom is the sum of its squared codes.
        return dictionary, bias, sums.squares

    def model(self, state):
        dictionary, bias, energy = state
        kept = lax.top_k(energy, max(1, round(self.share * len(energy))))[1]
        return Model(dictionary[:, jnp.sort(kept)], bias)
