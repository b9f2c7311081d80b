"""Learns a dictionary with families: co-occurrence tells parents from children, and least squares
solve for the atoms.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.numpy import where, zeros
from jaxtyping import Array, Float, Int

from sae_gap.core import Look, Model, Split, option
from sae_gap.encoders import unit_atoms
from sae_gap.learners import Learner, base_of, decorrelate_children, live_share
from sae_gap.learners.online import family, gradient_sums
from sae_gap.learners.online.cooccurrence import (
    count,
    drop_atoms,
    energy_product,
    uses_of,
)
from sae_gap.learners.online.gradient_sums import (
    accumulate,
    by_samples,
    check_slots,
    initial_scales,
    num_visited,
    threshold,
)
from sae_gap.learners.online.renewal import largest, most_restarts, restart

# Visits are counted per latent, for at least so many latents: it takes many samples to tell which
# atoms are on together.
LEAST_LATENTS = 4_000
# Rounds from one rearrangement to the next, and rounds at the end without any.
PERIOD = 3
LAST = 2
# Each atom keeps this share of its energy from round to round.
ENERGY_MEMORY = 0.7
# Steps of conjugate gradients in a round that solves; the next one continues from them.
SOLVE_STEPS = 32
# e of `reweighted_lasso` in units of its threshold: small, so that codes above the threshold hardly
# shrink.
EPSILON = 0.05
# The least threshold in units of the active codes' root mean square, and ρ of the ridge in units of
# the mean energy of an atom's codes.
FLOOR = 0.18
RIDGE = 0.01


class FamiliesState(eqx.Module):
    """The state of a fit after `round` rounds.

    Attributes:
      dictionary: of unit atoms.
      bias: the base's.
      squares: each atom's squared codes, a running sum over rounds; the usual value for an atom
        that moved.
      noise, amplitude: root mean squares over the last round, of the residual's coordinates and of
        the active codes; before the first round those of a few samples.
      live: the share of dimensions in which any signal is non-zero.
      round: number of finished rounds.
    """

    dictionary: Float[Array, "input_dim num_latents"]
    bias: Float[Array, " input_dim"]
    squares: Float[Array, " num_latents"]
    noise: Float[Array, ""]
    amplitude: Float[Array, ""]
    live: Float[Array, ""]
    round: Int[Array, ""]


class Families(Learner):
    r"""Tells parents from children in the dictionary of its base, whose atoms have absorbed each
    other.

    If a concept is only on beside another, a code has one atom less if its atom is the sum of both.
    A round codes many samples Y on the unit atoms D by `reweighted_lasso`, at the threshold

        t = max(margin σ, .18 a),
        σ² = mean residual² per coordinate,   a² = mean square of the active codes,

    with σ and a of the round before. The codes Z hardly shrink, and the round counts which atoms
    are used together. Every third round, except the last two, rearranges families by `repair`. It
    then restarts idle atoms that did not move from the largest residuals, at most a twentieth of
    all atoms, each only if its energy is below the square of its residual. The other rounds solve
    for the whole dictionary, with a ridge that holds seldom used atoms in place,

        D ← unit(D + r ((ZᵀZ + ρ I)⁻¹ Zᵀ R)ᵀ),   R = Y - Z Dᵀ,   ρ = .01 mean_j (ZᵀZ)_jj.

    Every round ends with `decorrelate_children`, with r times `weight`. In round s after the last
    rearrangement `r = 2 / (s + 1)`, which averages out the noise of a round's samples; before it r
    is 1. README.md beside this file has the mathematics and the thresholds.

    Conjugate gradients solve for it, a few steps a round, on the codes unchanged, and counts only
    cover pairs of which one atom is on in a good share of the other's uses. So nothing is as large
    as the square of the width. Signals are taken less the bias of the base, which stays. Codes are
    non-negative.

    Args:
      num_steps: number of rounds.
      visits: samples coded in a round for each latent, for at least 4,000 latents; no more than
        there are.
      margin: threshold in units of the residual's root mean square. At 2.5 noise alone would seem
        to use a dozen of 2,000 atoms in every sample; at 4 one in 15 samples.
      weight: an atom loses at most this share of its coherence with including atoms a round.
      num_slots: the most atoms of a sample, a multiple of 4; None takes about twice the k that
        compressed sensing allows.
      base: the learner whose dictionary to start from.

    References:
      Engan, Aase & Husoy (1999), "Method of optimal directions". Chanin et al. (2024), "A is for
      absorption", arXiv:2409.14507.
    """

    rank = 4
    version = 5
    constants: ClassVar = {"floor": FLOOR, "ridge": RIDGE}
    looks: ClassVar = {"online_dl_families": Look("online DL, families", "#DDCC77")}

    num_steps: int = option(default=37, kw_only=True)
    visits: int | float = option(default=3, above=0, most=1e12)
    margin: float = option(default=4.0, above=0)
    weight: float = option(default=0.5, least=0, most=1)
    num_slots: int | None = option(default=None, static=True)

    def __check_init__(self):
        base_of(self)
        check_slots(self.num_slots)

    @property
    def name(self):  # type: ignore[override]
        return f"{base_of(self).name}_families"

    def minibatches(self, num_samples: int, num_latents: int) -> tuple[int, int]:
        """Returns the minibatches of a round, which is 1, and the samples in it."""
        return 1, num_visited(self.visits, num_samples, max(num_latents, LEAST_LATENTS))

    def init(self, data, *, num_latents, key, base=None):
        signals = data.signals
        dtype = data.signals.dtype
        dictionary = unit_atoms(base.decoder)[0].astype(dtype)
        bias = jnp.asarray(base.bias, dtype)
        live = live_share(signals)
        squares = zeros(dictionary.shape[1], dtype)
        scales = initial_scales(
            signals - bias,
            dictionary,
            live,
            self.margin,
            FLOOR,
            num_slots=self.num_slots,
            epsilon=EPSILON,
        )
        return FamiliesState(
            dictionary, bias, squares, *scales, live, zeros((), jnp.int32)
        )

    def step(self, data: Split, state: FamiliesState) -> FamiliesState:
        num_samples = len(data.signals)
        _, size = self.minibatches(num_samples, state.dictionary.shape[1])
        order = (state.round * size + jnp.arange(size)) % num_samples
        return self.round(data.signals[order][None], state, size)

    def round(
        self,
        minibatches: Float[Array, "1 rows input_dim"],
        state: FamiliesState,
        size: int,
    ) -> FamiliesState:
        """Returns the state after a round on samples of any origin, like `OnlineDictionary.round`;
        rows beyond `size` are padding.
        """
        own = (jnp.arange(minibatches.shape[1]) < size)[:, None]
        signals = where(own, minibatches[0] - state.bias, 0)
        sums, (places, codes), seeds = by_samples(_code, self, signals, state)
        uses = uses_of(places, codes, state.dictionary.shape[1])
        counts = count(uses, places, codes, size)
        squares = ENERGY_MEMORY * state.squares + sums.squares
        idle = family.idle_energy(squares)
        # The last round that rearranges.
        settled = (self.num_steps - LAST - 1) // PERIOD * PERIOD
        rate = 2 / (jnp.maximum(state.round - settled, 1) + 1)

        def rearrange(dictionary, counts):
            (dictionary, moved), free = family.repair(dictionary, counts, idle)
            # Replace an atom whose total energy is below the residual's.
            worth = where(moved, jnp.inf, free)
            dictionary, new = restart(dictionary, worth, seeds, must_gain=True)
            return dictionary, drop_atoms(counts, moved | new), moved | new

        def solve(dictionary, counts):
            # Positive even for zero signals, which have no energy and nothing to solve for.
            ridge = jnp.maximum(
                RIDGE * jnp.mean(sums.squares), jnp.finfo(dictionary.dtype).tiny ** 0.5
            )
            # Scaled to about 1, to stay within the range of floats.
            unit = jnp.max(sums.squares) + ridge
            step, _ = jax.scipy.sparse.linalg.cg(
                lambda rows: (
                    energy_product(uses, rows / unit, len(codes)) + ridge / unit * rows
                ),
                sums.gradient / unit,
                M=lambda rows: rows / ((sums.squares + ridge) / unit)[:, None],
                maxiter=SOLVE_STEPS,
            )
            return (
                unit_atoms(dictionary + rate * step.T)[0],
                counts,
                zeros(len(squares), bool),
            )

        rearranges = (state.round % PERIOD == 0) & (state.round <= settled)
        dictionary, counts, moved = lax.cond(
            rearranges, rearrange, solve, state.dictionary, counts
        )
        dictionary = decorrelate_children(dictionary, counts, rate * self.weight)
        # An atom that moved counts as used until its uses are known.
        squares = where(moved, family.usual_energy(squares), squares)
        scales = gradient_sums.scales(sums, size, len(dictionary), state.live)
        return FamiliesState(
            dictionary, state.bias, squares, *scales, state.live, state.round + 1
        )

    def model(self, state):
        return Model(state.dictionary, state.bias)


def _code(learner, signals, state, axes):
    """Returns the sums over a round's samples and their codes by slot, for all devices together."""
    num_latents = state.dictionary.shape[1]
    least = threshold(state.noise, state.amplitude, learner.margin, FLOOR)
    sums, found = accumulate(
        signals, state.dictionary, least, EPSILON * least, num_slots=learner.num_slots
    )
    most = most_restarts(num_latents, len(signals) * lax.axis_size(axes))
    seeds = largest(found.residual, min(most, len(signals)))
    codes, seeds = lax.all_gather((found[:2], seeds), axes, tiled=True)
    return lax.psum(sums, axes), codes, largest(seeds, most)
