"""A narrower dictionary from a wider one: the atoms that carry the most energy."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sae_gap.checks import check_number, check_size
from sae_gap.encoders.base import unit_atoms
from sae_gap.learners.base import Learner, live_share
from sae_gap.learners.pulls import check_slots, pull, scales, threshold
from sae_gap.types import Model, Split


class PrunedState(eqx.Module):
    """The base's unit atoms and bias, and the energy of each: the sum of its squared codes."""

    dictionary: Float[Array, "input_dim num_latents"]
    bias: Float[Array, " input_dim"]
    energy: Float[Array, " num_latents"]


class Pruned(Learner):
    r"""Keeps the atoms of its base that carry the most energy, and drops the others.

    To a dictionary that is narrower than the signals have concepts, those that it lacks are noise, which blurs the atoms that
    it learns. It is better learned whole and then cut. Samples are coded on all atoms as `OnlineDictionary` codes them, by
    `pursue` at the threshold `max(margin σ, floor a)`; kept are the `round(share · num_latents)` atoms j of greatest
    `Σ_i z_ij²`, at least one, in their order.

    Args:
      share: of the atoms that is kept, above 0 and at most 1.
      visits: samples coded for each latent, or for each of 500 where they are fewer; no more than there are.
      margin: threshold in units of the residual's root mean square.
      floor: least threshold in units of the active codes' root mean square.
      num_slots: atoms that a sample may use, a multiple of 4; None takes about twice the k that compressed sensing allows.
      base: the learner whose dictionary it is; its codes are non-negative.
    """

    num_steps: int = eqx.field(static=True, default=1, kw_only=True)
    share: float = eqx.field(static=True, default=0.25)
    visits: int | float = eqx.field(static=True, default=3)
    margin: float = 2.5
    floor: float = 0.18
    num_slots: int | None = eqx.field(static=True, default=None)

    side_by_side = False

    def __check_init__(self):
        if self.base is None:
            raise ValueError("pruning needs a base, the learner whose atoms are kept or dropped; give base.")
        check_size("num_steps", self.num_steps)
        check_number("share", self.share, above=0, most=1)
        check_number("visits", self.visits, above=0, most=1e12)
        check_number("margin", self.margin, above=0)
        check_number("floor", self.floor, above=0)
        check_slots(self.num_slots)

    @property
    def name(self):
        return "pruned" if self.base is None else f"{self.base.name}_pruned"

    def init(self, data: Split, *, num_latents, key, base=None):
        dictionary = unit_atoms(base.decoder)[0].astype(data.signals.dtype)
        bias = jnp.asarray(base.bias, dictionary.dtype)
        return PrunedState(dictionary, bias, jnp.zeros(dictionary.shape[1], dictionary.dtype))

    def step(self, data: Split, state: PrunedState) -> PrunedState:
        number = min(len(data.signals), max(1, round(self.visits * max(state.dictionary.shape[1], 500))))
        signals = data.signals[:number] - state.bias
        noise, amplitude = scales(
            signals, state.dictionary, live_share(data.signals), self.margin, self.floor, num_slots=self.num_slots
        )
        least = threshold(noise, amplitude, self.margin, self.floor)
        sums, _, _ = pull(signals, state.dictionary, least, least, num_slots=self.num_slots)
        return eqx.tree_at(lambda s: s.energy, state, sums.squares)

    def model(self, state):
        num_latents = state.dictionary.shape[1]
        kept = lax.top_k(state.energy, max(1, round(self.share * num_latents)))[1]
        return Model(state.dictionary[:, jnp.sort(kept)], state.bias)


__all__ = ["Pruned", "PrunedState"]
