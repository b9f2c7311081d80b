"""A dictionary put in order by who is used with whom, and solved for by least squares."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from sae_gap.core.checks import check_number, check_size
from sae_gap.core.registry import Look
from sae_gap.core.types import Model, Split
from sae_gap.encoders.encoder import unit_atoms
from sae_gap.learners.learner import Learner, live_share
from sae_gap.learners.online import renewal
from sae_gap.learners.online.cooccurrence import Company, count, forget, idle_energy, nobody, push, rearrange, usual_energy
from sae_gap.learners.online.gradient_sums import FIRST, Pulls, check_slots, pull, scales, spreads, threshold, visited
from sae_gap.learners.online.renewal import Seeds, restart
from sae_gap.runtime.sharding import SAMPLES, axis_size
from sae_gap.solvers.reweighted import Pursuit

# Counts are squares of the width, of which several must fit in memory.
LARGEST = 16_384
# Rounds from one rearrangement to the next; last rounds without any; share of the energies kept from round to round.
_EVERY, _LAST, _MEMORY = 3, 2, 0.7
# e of `pursue` in units of its threshold: small, so that codes above the threshold are hardly shrunk.
_EPSILON = 0.05


class FamiliesState(eqx.Module):
    """Where a fit stands after `round` rounds.

    `squares` is a running sum over rounds, of each atom's squared codes; an atom that moved has the usual one. `noise` and
    `amplitude` are root mean squares over the last round, of the residual's coordinates and of the active codes, and before the
    first round those of a few samples. `live` is the share of the coordinates in which any signal is not zero. `change` is
    that of the dictionary in the last round, relative to the dictionary.
    """

    dictionary: Float[Array, "input_dim num_latents"]
    bias: Float[Array, " input_dim"]
    squares: Float[Array, " num_latents"]
    noise: Float[Array, ""]
    amplitude: Float[Array, ""]
    live: Float[Array, ""]
    change: Float[Array, ""]
    round: Int[Array, ""]


class Families(Learner):
    r"""Goes on from a dictionary whose atoms have absorbed each other, and tells parents from children.

    A concept that is on only beside another costs a sparse code one atom less where its own atom is the sum of both. A round
    codes many samples Y on the unit atoms D by `pursue`, at the threshold

        t = max(margin σ, floor a),   σ² = mean residual² per coordinate,   a² = mean square of the active codes,

    both of the round before, with codes Z that are hardly shrunk, and counts who is used with whom. Every third round then
    rearranges families, by `cooccurrence.rearrange`: a parent that is one of its children as well, one that has no
    atom because each of its children has absorbed it, and a base that is the wrong one. Then atoms of little energy that did
    not move start anew from the largest residuals, at most a twentieth of all, each only if its energy is below the squared
    length of its residual. The other rounds solve for the whole dictionary, held by what it was where atoms are seldom used,

        D ← unit(D + ((ZᵀZ + ρ I)⁻¹ Zᵀ R)ᵀ),   R = Y - Z Dᵀ,   ρ = ridge · mean_j (ZᵀZ)_jj.

    Every round ends with `push`, which takes out of each atom what it shares with atoms that include it. The last two
    rounds rearrange nothing.

    Signals are taken less the bias of the base, which stays. Codes are not negative. A task of more than 16,384 latents is
    refused, even where the base learns fewer.

    Args:
      num_steps: rounds.
      visits: samples coded in a round, for each latent, or for each of 500 where they are fewer; no more than there are.
      margin: threshold in units of the residual's root mean square. At 2.5 noise alone would be taken for uses of a dozen of
        2,000 atoms in every sample, and counted as company; at 4 for one use in 15 samples.
      floor: least threshold in units of the active codes' root mean square.
      ridge: ρ in units of the mean energy of an atom's codes.
      weight: share of its coherence with what includes it that an atom loses in a round.
      num_slots: atoms that a sample may use, a multiple of 4; None takes about twice the k that compressed sensing allows.
      base: the learner whose dictionary to go on from.

    References:
      Engan, Aase & Husoy (1999), "Method of optimal directions". Chanin et al. (2024), "A is for absorption",
      arXiv:2409.14507.
    """

    rank = 4
    looks: ClassVar = {"online_dl_families": Look("online DL, families", "#DDCC77")}

    num_steps: int = eqx.field(static=True, default=36, kw_only=True)
    visits: int | float = eqx.field(static=True, default=3)
    margin: float = 4.0
    floor: float = 0.18
    ridge: float = 0.01
    weight: float = 0.5
    num_slots: int | None = eqx.field(static=True, default=None)

    side_by_side = False

    def __check_init__(self):
        if self.base is None:
            raise ValueError("families need a base, the learner whose dictionary they are found in; give base.")
        check_size("num_steps", self.num_steps)
        check_number("visits", self.visits, above=0, most=1e12)
        for name in ("margin", "floor", "ridge"):
            check_number(name, getattr(self, name), above=0)
        check_number("weight", self.weight, least=0, most=1)
        check_slots(self.num_slots)

    @property
    def name(self):  # type: ignore[override]
        return "families" if self.base is None else f"{self.base.name}_families"

    def needs(self, task):
        narrow = None if task.width <= LARGEST else f"a width of at most {LARGEST:,} latents, which families are told among"
        return super().needs(task) or narrow

    def work(self, num_samples, input_dim, num_latents):
        return 4.0 * self.num_steps * visited(self.visits, num_samples, num_latents) * input_dim * num_latents

    def init(self, data, *, num_latents, key, base=None):
        width = base.decoder.shape[1]
        if width > LARGEST:
            raise ValueError(
                f"families are told apart among at most {LARGEST:,} latents, but there are {width:,}; learn fewer."
            )
        signals, dtype = data.signals, data.signals.dtype
        dictionary, bias = unit_atoms(base.decoder)[0].astype(dtype), jnp.asarray(base.bias, dtype)
        live = live_share(signals)
        noise, amplitude = scales(
            signals[:FIRST] - bias,
            dictionary,
            live,
            self.margin,
            self.floor,
            num_slots=self.num_slots,
            epsilon=_EPSILON,
        )
        squares = jnp.zeros(width, dtype)
        change, round = jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32)
        return FamiliesState(dictionary, bias, squares, noise, amplitude, live, change, round)

    def step(self, data: Split, state: FamiliesState) -> FamiliesState:
        num_samples = data.signals.shape[0]
        number = visited(self.visits, num_samples, state.dictionary.shape[1])
        order = (state.round * number + jnp.arange(number)) % num_samples
        sums, company, seeds = self._counts(data.signals[order], state)
        company = company._replace(number=jnp.asarray(number, company.number.dtype))
        rearranges = (state.round % _EVERY == 0) & (state.round < self.num_steps - _LAST)
        state = self._measure(state, sums, number)
        idle = idle_energy(state.squares)

        def rearranged(dictionary, company):
            dictionary, moved = rearrange(dictionary, company, idle)
            # A residual is worth an atom that explains less in all.
            dictionary, new = restart(dictionary, jnp.where(moved, jnp.inf, idle), seeds, nonneg=True, gains=True)
            return dictionary, forget(company, moved | new), moved | new

        def solved(dictionary, company):
            # Signals of zeros have no energy, which leaves nothing to solve for, and pull nowhere.
            held = jnp.maximum(self.ridge * jnp.mean(sums.squares), jnp.finfo(dictionary.dtype).tiny ** 0.5)
            energy = company.products + held * jnp.eye(len(sums.squares), dtype=dictionary.dtype)
            step = jax.scipy.linalg.solve(energy, sums.pull, assume_a="pos")
            return unit_atoms(dictionary + step.T)[0], company, jnp.zeros(len(idle), bool)

        dictionary, company, moved = lax.cond(rearranges, rearranged, solved, state.dictionary, company)
        dictionary = push(dictionary, company, self.weight)
        change = jnp.linalg.norm(dictionary - state.dictionary) / jnp.linalg.norm(state.dictionary)
        # What moved counts as used until it is known whether it is.
        squares = jnp.where(moved, usual_energy(state.squares), state.squares)
        new = dictionary, squares, change, state.round + 1
        return eqx.tree_at(lambda s: (s.dictionary, s.squares, s.change, s.round), state, new)

    def model(self, state):
        return Model(state.dictionary, state.bias)

    def _counts(self, signals, state: FamiliesState) -> tuple[Pulls, Company, Seeds]:
        """What the samples of a round tell, which the devices share."""
        most = min(max(1, state.dictionary.shape[1] // 20), len(signals))
        if axis_size(SAMPLES) == 1:
            sums, residual, company = self._pull(state, signals - state.bias)
            return sums, company, renewal.collect(renewal.no_seeds(most, signals), residual)
        spare = -len(signals) % axis_size(SAMPLES)
        signals = jnp.pad(signals - state.bias, ((0, spare), (0, 0)))

        def run(learner, signals, state):
            sums, residual, company = learner._pull(state, signals)
            seeds = renewal.collect(renewal.no_seeds(min(most, len(signals)), signals), residual)
            return *lax.psum((sums, company), SAMPLES), renewal.merge(seeds, most, SAMPLES)

        specs = PartitionSpec(), PartitionSpec(SAMPLES), PartitionSpec()
        run_on_all = jax.shard_map(
            run, in_specs=specs, out_specs=PartitionSpec(), axis_names=frozenset([SAMPLES]), check_vma=False
        )
        return run_on_all(self, signals, state)

    def _pull(self, state: FamiliesState, signals):
        least = threshold(state.noise, state.amplitude, self.margin, self.floor)
        begun = nobody(state.dictionary.shape[1], signals.dtype)
        return pull(signals, state.dictionary, least, _EPSILON * least, num_slots=self.num_slots, tally=_tally, begun=begun)

    def _measure(self, state: FamiliesState, sums: Pulls, number: int) -> FamiliesState:
        """The state with the noise and the amplitude of samples that were coded."""
        noise, amplitude = spreads(sums, number, len(state.dictionary), state.live)
        squares = _MEMORY * state.squares + sums.squares
        return eqx.tree_at(lambda s: (s.noise, s.amplitude, s.squares), state, (noise, amplitude, squares))


def _tally(company: Company, found: Pursuit) -> Company:
    return count(company, found.places, found.codes)


__all__ = ["LARGEST", "Families", "FamiliesState"]
