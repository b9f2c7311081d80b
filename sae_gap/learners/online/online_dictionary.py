"""Dictionary learning at scale: annealed stochastic steps on codes from a reweighted pursuit; and a
cut of a wider dictionary to the atoms that carry the most energy.
"""

import dataclasses
import functools
import math
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import lax, random
from jax.numpy import arange, sqrt, where
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sae_gap.core import Look, Model, Split, option
from sae_gap.encoders import unit_atoms
from sae_gap.learners import (
    Learner,
    base_of,
    decorrelate_atoms,
    live_share,
    random_atoms,
)
from sae_gap.learners.online.gradient_sums import (
    accumulate,
    by_samples,
    check_slots,
    initial_scales,
    num_visited,
    threshold,
    total_visits,
)
from sae_gap.learners.online.renewal import largest, most_restarts, restart_wasted_atoms

# Rates if samples are visited many times, and if each is seen once.
RATES = (0.5, 0.1, 0.02)
RATES_ONCE = (0.5, 0.05, 0.01)
# The share of a fit after which it only refines.
SETTLE = 0.85
# The least threshold in units of the active codes' root mean square, until then and at the end.
FLOORS = (0.18, 0.03)
# Of the step, in units of the mean energy; it holds rarely used atoms back.
DAMPING = 0.01
# A refining fit stops at this relative change of the dictionary over a round.
TOL = 1e-5
# Half the amplitude of the average use.
WEAK = 0.25
# Running means keep this share at each minibatch. The energy of an atom keeps less: the few uses of
# a rare one should not be divided by a mean that lags behind.
MEMORY = 0.9
ENERGY_MEMORY = 0.7
# Rounds from one restart of wasted atoms to the next, and from one decorrelation to the next, a
# round later.
PERIOD = 3
# Wasted atoms restart, and coherent ones are decorrelated, between these shares of the fit: once
# rates are low enough for atoms to settle, and while there is time to do so.
RESTARTS = (0.4, 0.9)
DECORRELATES = (0.3, 0.97)
# To prune, samples coded for each latent, and the threshold in units of the root mean squares of
# the residual and of the active codes.
PRUNED_VISITS = 3
PRUNED_AT = (2.5, 0.18)
# Wasted atoms may restart from the residuals of a round's last samples, so many a latent.
SEED_SAMPLES = 2


class OnlineState(eqx.Module):
    """The state of a fit after `round` rounds.

    Attributes:
      dictionary: of unit atoms.
      energy: each atom's squared codes, a running sum over a minibatch.
      forgotten: the share of that sum's weights that no minibatch has yet.
      noise, amplitude: running root mean squares, of the residual's coordinates and of the active
        codes.
      change: relative change of the dictionary in the last round.
      live: the share of dimensions in which any signal is non-zero.
      mean: the mean of the signals, or zero if the learner is not `centred`.
      round: number of finished rounds.
      key: draws the order of the samples.
    """

    dictionary: Float[Array, "input_dim num_latents"]
    energy: Float[Array, " num_latents"]
    forgotten: Float[Array, ""]
    noise: Float[Array, ""]
    amplitude: Float[Array, ""]
    change: Float[Array, ""]
    live: Float[Array, ""]
    mean: Float[Array, " input_dim"]
    round: Int[Array, ""]
    key: PRNGKeyArray


# Rows to learn from for each atom; with fewer rows, each is used several times.
VISITS = 150.0


class OnlineDictionary(Learner):
    r"""Learns a dictionary from minibatches, with large noisy steps first and small ones later, and
    a threshold that follows the residual.

    A minibatch Y is coded on the current unit atoms D by `reweighted_lasso` from zero, at
    the threshold

        t = max(margin σ, f a),
        σ² = mean residual² per coordinate,   a² = mean square of the active codes,

    both running means over the samples that the learner saw. With the codes Z and the residual
    `R = Y - Z Dᵀ`, each atom takes a damped least-squares step,

        d_j ← unit(d_j + η (Rᵀ Z)_j / (h_j + .01 mean h)),   h_j = running mean of Σ_i z_ij².

    The rate η is a temperature: the fewer samples of a minibatch use an atom, the noisier its step.
    Far above a critical rate no atom settles; far below it each stays near its first sample. So η
    falls geometrically through that point, from `rates[0]` to `rates[1]`, over the first 85 % of
    the fit, and then on to `rates[2]`, while the floor f falls from .18 to .03. The fit ends early
    once a round of this refinement changes the dictionary by less than 1e-5.
    A dictionary that explains its samples gives a small residual, hence a low threshold and codes
    that hardly shrink; noise, or missing atoms, keep the threshold high. The sparsity, the noise
    and the scale of the codes may all be unknown.

    The critical rate of an atom is about `2 u a² / s²`, with u its uses in a minibatch, a² the mean
    square of its codes and s² that of the signals' norms, while nothing is explained yet: an atom
    is a mean over about its last `2 u / η` uses, and at this rate all other content of those
    signals weighs as much in it as its own concept. If all of K concepts are on equally often, it
    is `2 batch_size / K`, so .4 by default for dictionaries of any size. Rare concepts have a lower
    critical rate.

    Every third round between 40 % and 90 % of the fit, atoms restart from the largest residuals if
    they copy stronger ones, or if their codes are `weak` where they are used.

    The same steps learn from a fixed pool, which they visit many times, and from a stream, which
    shows each sample once: see `visits` and `fit_stream`. In a pool an atom with weak codes fits
    the few samples that it explains by chance. In a stream there are none: such an atom is still
    moving, and a restart discards its progress. Nor is there a chance fit for heat to shake off, so
    rates are lower. One minibatch costs O(n · num_latents · input_dim); it and the samples of a
    round set the memory.

    Args:
      num_steps: number of rounds.
      visits: samples coded in the whole fit for each latent, for at least 500 latents; None takes
        each sample once.
      batch_size: samples in a minibatch, about; None takes num_latents / 5. More raise the critical
        rate; if few visits leave few minibatches, smaller ones with lower rates settle better.
      rates: η at the start, at 85 % of the fit, and at the end; None takes `RATES`, or
        `RATES_ONCE` if each sample is seen once.
      margin: threshold in units of the residual's root mean square.
      num_rounds: rounds of the pursuit, each a product with the dictionary.
      num_slots: the most atoms of a sample, a multiple of 4; None takes about twice the k that
        compressed sensing allows.
      replace: whether wasted atoms restart.
      weak: an atom restarts if the mean square of its active codes is at most this share of that of
        all active codes. None takes `WEAK`, or, if each sample is seen once, 0, so that only unused
        atoms restart.
      centred: whether to learn from the signals less their mean, which becomes the model's bias:
        the mean of all signals, or of those that a stream has brought so far. A network's
        activations have a mean that no atom should spend itself on; the mean of non-negative codes
        on a dictionary is signal, and stays.
      incoherent: whether to decorrelate atoms that are more coherent than by chance while they
        settle; see `sae_gap.learners.online.decorrelation`.

    References:
      Mairal, Bach, Ponce & Sapiro (2010), "Online learning for matrix factorization and sparse
      coding", JMLR 11. Candès, Wakin & Boyd (2008), "Enhancing sparsity by reweighted l1
      minimization". Aharon, Elad & Bruckstein (2006), "K-SVD", for the replacement of atoms.
    """

    name = "online_dl"
    label = "online DL"
    colour = "#332288"
    rank = 3
    version = 2
    looks: ClassVar = {"online_dl_incoherent": Look("online DL, incoherent", "#88CCEE")}

    num_steps: int = option(default=100, kw_only=True)
    visits: int | float | None = option(default=400, above=0, most=1e12)
    batch_size: int | None = option(default=None, static=True)
    rates: tuple[float, float, float] | None = option(default=None, above=0)
    margin: float = option(default=2.5, above=0)
    num_rounds: int = option(default=3)
    num_slots: int | None = option(default=None, static=True)
    replace: bool = option(default=True)
    weak: float | None = option(default=None, least=0, below=1)
    centred: bool = option(default=False)
    incoherent: bool = option(default=False)

    snapshots = (0, 1, 2, 5, *range(10, 100, 10))

    def __check_init__(self):
        check_slots(self.num_slots)

    @classmethod
    def for_activations(
        cls,
        num_latents: int,
        sparsity: float,
        input_dim: int,
        *,
        visits: float = 150.0,
    ) -> "OnlineDictionary":
        """Makes a learner with the options for a network's activations, whose rows are used several
        times.

        Activations have more residual than the paper's world, and use their atoms less evenly. So
        minibatches are larger, and hence colder, and the threshold is higher, up to half of a
        residual's norm, `½ √input_dim σ`, beyond which it reaches hardly any atom. The mean is
        subtracted. A sample has slots for twice the requested latents: compressed sensing allows
        many more, and time grows with the slots. 6a5eb492:benchmarks/NOTES.md tells how the
        values were found.

        Args:
          num_latents: width of the dictionary.
          sparsity: mean L0 at which the dictionary will be used.
          input_dim: dimension of the activations.
          visits: samples coded in the whole fit, for each latent.
        """
        return cls(
            visits=visits,
            batch_size=round(1.43 * num_latents),
            rates=RATES,
            margin=min(4.0, math.sqrt(input_dim) / 2),
            num_slots=4 * math.ceil(sparsity / 2),
            weak=WEAK,
            centred=True,
        )

    def minibatches(self, num_samples: int, num_latents: int) -> tuple[int, int]:
        """Returns the number of minibatches in a round, and the samples in each."""
        total = num_samples
        if self.visits is not None:
            total = total_visits(self.visits, num_latents)
        # As many minibatches of about this size as leave over fewer samples than minibatches.
        share = max(1, total // self.num_steps)
        size = min(self.batch_size or max(16, round(num_latents / 5)), share)
        count = max(1, round(share / size))
        return count, share // count

    def init(self, data: Split, *, num_latents: int, key: PRNGKeyArray) -> OnlineState:
        signals = data.signals
        dtype = signals.dtype
        num_samples = len(signals)
        samples_key, normal_key, key = random.split(key, 3)
        chosen = random.choice(
            samples_key, num_samples, (min(num_samples, num_latents),), replace=False
        )
        mean = jnp.mean(signals, axis=0)
        atoms = unit_atoms((signals[chosen] - mean).T)[0]
        spare = random_atoms(normal_key, signals, num_latents - atoms.shape[1])
        zero = jnp.zeros((), dtype)
        live = live_share(signals)
        if not self.centred:
            mean = jnp.zeros_like(mean)
        return OnlineState(
            dictionary=jnp.concatenate([atoms, spare], axis=1),
            energy=jnp.zeros(num_latents, dtype),
            forgotten=zero + 1,
            # As if the first codes left half of each signal.
            noise=0.5 * sqrt(jnp.mean((signals - mean) ** 2) / live),
            amplitude=zero,
            change=zero + jnp.inf,
            live=live,
            mean=mean,
            round=jnp.zeros((), jnp.int32),
            key=key,
        )

    def step(self, data: Split, state: OnlineState) -> OnlineState:
        num_samples, input_dim = data.signals.shape
        count, size = self.minibatches(num_samples, state.dictionary.shape[1])
        order_key, key = random.split(state.key)
        order = _order(order_key, state.round, num_samples, count * size)
        minibatches = data.signals[order].reshape(count, size, input_dim)
        return self.round(minibatches, dataclasses.replace(state, key=key), size)

    def round(
        self,
        minibatches: Float[Array, "count rows input_dim"],
        state: OnlineState,
        size: int,
    ) -> OnlineState:
        """Returns the state after the minibatches of one round, of any origin.

        Args:
          minibatches: (count, rows, input_dim).
          state: the state before the round.
          size: samples in a minibatch; further zero rows make them divide among devices.
        """
        return by_samples(
            functools.partial(_round, size), self, minibatches, state, dim=1
        )

    def done(self, state: OnlineState) -> Bool[Array, ""]:
        return (state.round > SETTLE * self.num_steps) & (state.change < TOL)

    def model(self, state: OnlineState) -> Model:
        return Model(state.dictionary, state.mean)


def _round(size, learner, minibatches, state, axes):
    """Runs a device's round on its rows of each minibatch of `size` samples, in step with the
    devices along some axes.
    """
    count, rows, dim = minibatches.shape
    num_latents = state.dictionary.shape[1]
    if learner.centred:
        row = arange(rows) + rows * lax.axis_index(axes)
        minibatches = where((row < size)[:, None], minibatches - state.mean, 0)
    progress = (state.round + arange(count) / count) / learner.num_steps
    restarts = _is_due(learner, state.round, RESTARTS, turn=0) & learner.replace
    seeding = min(count, max(1, SEED_SAMPLES * num_latents // size))
    most = most_restarts(num_latents, seeding * size)

    def collect(seeds, residual):
        return largest(jnp.concatenate([seeds, residual]), len(seeds))

    def learn(carry, minibatch):
        state, energy, uses, seeds = carry
        turn, signals, progress = minibatch
        state, sums, residual = _advance(learner, state, signals, size, progress, axes)
        wanted = restarts & (turn >= count - seeding)
        seeds = lax.cond(wanted, collect, lambda seeds, _: seeds, seeds, residual)
        return (state, energy + sums.squares, uses + sums.uses, seeds), None

    zeros = jnp.zeros(num_latents, minibatches.dtype)
    seeds = jnp.zeros((min(most, seeding * rows), dim), minibatches.dtype)
    (new, energy, uses, seeds), _ = lax.scan(
        learn, (state, zeros, zeros, seeds), (arange(count), minibatches, progress)
    )
    change = jnp.linalg.norm(new.dictionary - state.dictionary) / jnp.linalg.norm(
        state.dictionary
    )

    def restart(dictionary, running):
        weak = learner.weak
        if weak is None:
            weak = 0.0 if learner.visits is None else WEAK
        whole = largest(lax.all_gather(seeds, axes, tiled=True), most)
        dictionary, fresh = restart_wasted_atoms(
            dictionary, energy, uses, whole, weak=weak, axes=axes
        )
        return dictionary, where(fresh, jnp.mean(running), running)

    dictionary, running = lax.cond(
        restarts, restart, lambda *same: same, new.dictionary, new.energy
    )
    if learner.incoherent:
        decorrelates = _is_due(learner, state.round, DECORRELATES, turn=1)
        dictionary = lax.cond(
            decorrelates, decorrelate_atoms, lambda same: same, dictionary
        )
    return dataclasses.replace(
        new, dictionary=dictionary, energy=running, change=change, round=state.round + 1
    )


def _is_due(learner, round, between, turn):
    """True for one round in every `PERIOD` that ends between two shares of the fit."""
    progress = (round + 1) / learner.num_steps
    return (progress > between[0]) & (progress < between[1]) & (round % PERIOD == turn)


def _advance(learner: OnlineDictionary, state, signals, size, progress, axes):
    """Returns the state after a minibatch of `size` samples, its gradient sums, and the residual
    of this device's part of it.
    """
    early, late = FLOORS
    floor = _anneal(early, early, late, progress)
    least = threshold(state.noise, state.amplitude, learner.margin, floor)
    sums, found = accumulate(
        signals,
        state.dictionary,
        least,
        least,
        num_slots=learner.num_slots,
        num_rounds=learner.num_rounds,
    )
    sums = lax.psum(sums, axes)
    energy = ENERGY_MEMORY * state.energy + (1 - ENERGY_MEMORY) * sums.squares
    forgotten = ENERGY_MEMORY * state.forgotten
    typical = energy / (1 - forgotten)
    rates = learner.rates or (RATES_ONCE if learner.visits is None else RATES)
    curvature = typical + DAMPING * jnp.mean(typical)
    rate = _anneal(*rates, progress)
    step = rate * sums.gradient.T / where(curvature > 0, curvature, 1)
    left = sums.error / (size * len(state.dictionary))
    noise = sqrt(MEMORY * state.noise**2 + (1 - MEMORY) * left / state.live)
    active = sqrt(jnp.sum(sums.squares) / jnp.maximum(jnp.sum(sums.uses), 1))
    amplitude = MEMORY * state.amplitude + (1 - MEMORY) * active
    state = dataclasses.replace(
        state,
        dictionary=unit_atoms(state.dictionary + step)[0],
        energy=energy,
        forgotten=forgotten,
        noise=noise,
        amplitude=amplitude,
    )
    return state, sums, found.residual


def _anneal(first, middle, last, progress):
    """Interpolates geometrically: from first to middle at `SETTLE`, and from there to last."""
    early = first * (middle / first) ** (progress / SETTLE)
    late = middle * (last / middle) ** ((progress - SETTLE) / (1 - SETTLE))
    return where(progress < SETTLE, early, late)


def _order(key, round, num_samples, total):
    """Returns the samples of a round: all in a fresh order, several times if there are too few, or
    else the next ones in turn.
    """
    if total < num_samples:
        return (round * total + arange(total)) % num_samples
    passes = -(-total // num_samples)
    orders = lax.map(
        lambda key: random.permutation(key, num_samples),
        random.split(key, passes),
    )
    return orders.reshape(-1)[:total]


class Pruned(Learner):
    r"""Keeps the atoms of its base that carry the most energy.

    To get a dictionary with fewer atoms than the signals have concepts, it is better to learn it
    whole and then cut it: concepts without an atom are noise, which blurs the atoms while they are
    learned. Samples are coded on all atoms as in `OnlineDictionary`, by `reweighted_lasso` at
    the threshold `max(2.5 σ, .18 a)`. The `round(share · num_latents)` atoms of greatest
    `Σ_i z_ij²` stay, at least one, in their order.

    Args:
      share: the share of atoms to keep, above 0 and at most 1.
      num_slots: the most atoms of a sample, a multiple of 4; None takes about twice the k that
        compressed sensing allows.
      base: the learner whose dictionary is cut; its codes are non-negative.
    """

    rank = 5
    version = 2
    looks: ClassVar = {
        "online_dl_families_pruned": Look("online DL, families, pruned", "#CC6677")
    }

    share: float = option(default=0.25, static=True, above=0, most=1)
    num_slots: int | None = option(default=None, static=True)

    def __check_init__(self):
        base_of(self)
        check_slots(self.num_slots)

    @property
    def name(self):  # type: ignore[override]
        return f"{base_of(self).name}_pruned"

    def init(self, data: Split, *, num_latents, key, base=None):
        dictionary = unit_atoms(base.decoder)[0].astype(data.signals.dtype)
        bias = jnp.asarray(base.bias, dictionary.dtype)
        slots = self.num_slots
        number = num_visited(PRUNED_VISITS, len(data.signals), dictionary.shape[1])
        signals = data.signals[:number] - bias
        live = live_share(data.signals)
        scales = initial_scales(signals, dictionary, live, *PRUNED_AT, num_slots=slots)
        least = threshold(*scales, *PRUNED_AT)
        sums = accumulate(signals, dictionary, least, least, num_slots=slots)[0]
        # The energy of an atom is the sum of its squared codes.
        return dictionary, bias, sums.squares

    def model(self, state):
        dictionary, bias, energy = state
        kept = lax.top_k(energy, max(1, round(self.share * len(energy))))[1]
        return Model(dictionary[:, jnp.sort(kept)], bias)
