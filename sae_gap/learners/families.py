"""A dictionary put in order by who is used with whom, and solved for by least squares."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from sae_gap.checks import check_number, check_numbers, check_size
from sae_gap.encoders.base import unit_atoms
from sae_gap.learners.base import Learner, live_share
from sae_gap.learners.kinship import Company, count, nobody, push, rearrange
from sae_gap.learners.pulls import Pulls, check_slots, pull
from sae_gap.sharding import SAMPLES, axis_size
from sae_gap.solvers.reweighted import Pursuit
from sae_gap.types import Model, Split

# Counts are squares of the width, of which several must fit in memory.
LARGEST = 16_384
# Rounds between two that rearrange families, and rounds at the end of which none does.
_EVERY, _LAST = 3, 6
# Samples from which the first threshold is found, and how often they are coded for that.
_FIRST, _TRIES = 1_024, 3
# A code above the threshold is hardly shrunk: e of `pursue` in units of it.
_EPSILON = 0.05


class FamiliesState(eqx.Module):
    """Where a fit stands after `round` rounds.

    `noise` and `amplitude` are root mean squares over the last round, of the residual's coordinates and of the active codes;
    `change` is that of the dictionary in it, relative to the dictionary.
    """

    dictionary: Float[Array, "input_dim num_latents"]
    bias: Float[Array, " input_dim"]
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

    with codes Z that are hardly shrunk, and counts who is used with whom. Then every third round rearranges families, by
    `sae_gap.learners.kinship.rearrange`: a base that is the wrong one, and a parent that is one of its children as well. The
    other rounds solve for the whole dictionary, held by what it was where its atoms are seldom used,

        D ← unit(D + ((ZᵀZ + ρ I)⁻¹ Zᵀ R)ᵀ),   R = Y - Z Dᵀ,   ρ = ridge · mean_j (ZᵀZ)_jj.

    Every round ends with `push`, which takes out of each atom what it shares with atoms that include it. The last six
    rounds rearrange nothing, and in them the floor falls.

    Signals are taken less the bias of the base, which stays. Codes are not negative.

    Args:
      num_steps: rounds.
      visits: samples coded in a round, for each latent, or for each of 500 where they are fewer; no more than there are.
      margin: threshold in units of the residual's root mean square.
      floors: least threshold in units of the active codes' root mean square, while families are rearranged and at the end.
      ridge: ρ in units of the mean energy of an atom's codes.
      weight: share of its coherence with what includes it that an atom loses in a round.
      num_slots: atoms that a sample may use, a multiple of 4; None takes about twice the k that compressed sensing allows.
      base: the learner whose dictionary to go on from.

    References:
      Engan, Aase & Husoy (1999), "Method of optimal directions". Chanin et al. (2024), "A is for absorption",
      arXiv:2409.14507.
    """

    num_steps: int = eqx.field(static=True, default=24, kw_only=True)
    visits: int | float = eqx.field(static=True, default=10)
    margin: float = 2.5
    floors: tuple[float, float] = (0.18, 0.03)
    ridge: float = 0.01
    weight: float = 0.5
    num_slots: int | None = eqx.field(static=True, default=None)

    side_by_side = False

    def __check_init__(self):
        if self.base is None:
            raise ValueError("families need a base, the learner whose dictionary they are found in; give base.")
        check_size("num_steps", self.num_steps)
        check_number("visits", self.visits, above=0, most=1e12)
        for name in ("margin", "ridge"):
            check_number(name, getattr(self, name), above=0)
        check_numbers("floors", self.floors, 2, above=0)
        check_number("weight", self.weight, least=0, most=1)
        check_slots(self.num_slots)

    @property
    def name(self):
        return "families" if self.base is None else f"{self.base.name}_families"

    def needs(self, task):
        narrow = (
            None if task.num_latents <= LARGEST else f"a width of at most {LARGEST:,} latents, which families are told among"
        )
        return super().needs(task) or narrow

    def work(self, num_samples, input_dim, num_latents):
        return 4.0 * self.num_steps * self._samples(num_samples, num_latents) * input_dim * num_latents

    def init(self, data, *, num_latents, key, base=None):
        if num_latents > LARGEST:
            raise ValueError(
                f"families are told apart among at most {LARGEST:,} latents, but there are {num_latents:,}; learn fewer."
            )
        signals, dtype = data.signals, data.signals.dtype
        zero = jnp.zeros((), dtype)
        dictionary, bias = unit_atoms(base.decoder)[0].astype(dtype), jnp.asarray(base.bias, dtype)
        some = signals[:_FIRST] - bias
        begun = FamiliesState(
            dictionary,
            bias,
            zero,
            # Until codes are known: as if the signals were single atoms.
            jnp.sqrt(jnp.mean(jnp.sum(some**2, axis=1))),
            live_share(signals),
            zero + jnp.inf,
            jnp.zeros((), jnp.int32),
        )

        def measured(state, _):
            sums, _ = self._pull(state, some, None)
            return self._measure(state, sums, len(some)), None

        return lax.scan(measured, begun, length=_TRIES)[0]

    def step(self, data: Split, state: FamiliesState) -> FamiliesState:
        num_samples = data.signals.shape[0]
        number = self._samples(num_samples, state.dictionary.shape[1])
        order = (state.round * number + jnp.arange(number)) % num_samples
        sums, company = self._counts(data.signals[order], state)
        rearranges = (state.round % _EVERY == 0) & (state.round < self.num_steps - _LAST)

        def solved(dictionary, company):
            # Signals of zeros have no energy, which leaves nothing to solve for, and pull nowhere.
            held = jnp.maximum(self.ridge * jnp.mean(sums.squares), jnp.finfo(dictionary.dtype).tiny ** 0.5)
            energy = company.products + held * jnp.eye(len(sums.squares), dtype=dictionary.dtype)
            step = jax.scipy.linalg.solve(energy, sums.pull, assume_a="pos")
            return unit_atoms(dictionary + step.T)[0], company

        dictionary, company = lax.cond(rearranges, rearrange, solved, state.dictionary, company)
        dictionary = push(dictionary, company, self.weight)
        change = jnp.linalg.norm(dictionary - state.dictionary) / jnp.linalg.norm(state.dictionary)
        moved = dictionary, change, state.round + 1
        return eqx.tree_at(lambda s: (s.dictionary, s.change, s.round), self._measure(state, sums, number), moved)

    def model(self, state):
        return Model(state.dictionary, state.bias)

    def _samples(self, num_samples: int, num_latents: int) -> int:
        return min(num_samples, max(1, round(self.visits * max(num_latents, 500))))

    def _counts(self, signals, state: FamiliesState) -> tuple[Pulls, Company]:
        """What the samples of a round tell, which the devices share."""
        begun = nobody(state.dictionary.shape[1], signals.dtype)
        if axis_size(SAMPLES) == 1:
            sums, company = self._pull(state, signals - state.bias, begun)
            assert company is not None
            return sums, company
        spare = -len(signals) % axis_size(SAMPLES)
        signals = jnp.pad(signals - state.bias, ((0, spare), (0, 0)))

        def run(learner, signals, state, begun):
            return lax.psum(learner._pull(state, signals, begun), SAMPLES)

        specs = PartitionSpec(), PartitionSpec(SAMPLES), PartitionSpec(), PartitionSpec()
        run_on_all = jax.shard_map(
            run, in_specs=specs, out_specs=PartitionSpec(), axis_names=frozenset([SAMPLES]), check_vma=False
        )
        return run_on_all(self, signals, state, begun)

    def _pull(self, state: FamiliesState, signals, begun: Company | None) -> tuple[Pulls, Company | None]:
        # Falls in half of the rounds after the last one that may rearrange.
        late = jnp.clip(2 * (state.round - self.num_steps + _LAST + 1) / _LAST, 0, 1)
        floor = self.floors[0] * (self.floors[1] / self.floors[0]) ** late
        threshold = jnp.maximum(self.margin * state.noise, floor * state.amplitude)
        # Signals of zeros have neither noise nor amplitude, and still need a threshold.
        threshold = threshold + jnp.finfo(signals.dtype).tiny ** 0.5
        epsilon, slots = _EPSILON * threshold, self.num_slots
        sums, _, company = pull(signals, state.dictionary, threshold, epsilon, num_slots=slots, tally=_tally, begun=begun)
        return sums, company

    def _measure(self, state: FamiliesState, sums: Pulls, number: int) -> FamiliesState:
        """The state with the noise and the amplitude of samples that were coded."""
        noise = jnp.sqrt(sums.lost / (number * len(state.dictionary) * state.live))
        amplitude = jnp.sqrt(jnp.sum(sums.squares) / jnp.maximum(jnp.sum(sums.uses), 1))
        return eqx.tree_at(lambda s: (s.noise, s.amplitude), state, (noise, amplitude))


def _tally(company: Company | None, found: Pursuit) -> Company | None:
    return None if company is None else count(company, found.places, found.codes)


__all__ = ["LARGEST", "Families", "FamiliesState"]
