"""The slots of a batch of samples: each holds an atom and its code, and a tableau holds the Gram
matrix of a sample's slots.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from sae_gap.core.lasso_problem import product
from sae_gap.runtime import sharding
from sae_gap.solvers.atoms import Held, Problem, correlate, hold, leaders

# The most violators that enter in a round.
MOST_CANDIDATES = 64


class Samples(NamedTuple):
    """What belongs to each sample.

    The weight of sample i and atom j is `row_i column_ij`; where `column` is None, all samples
    share that of the problem.
    """

    signals: Float[Array, "n input_dim"]
    row: Float[Array, "n 1"]
    column: Float[Array, "n _"] | None


class State(NamedTuple):
    """The working sets. Slot w of a sample holds the atom `sign[w] atoms[places[w]]` with the code
    `code[w] ≥ 0`.

    Attributes:
      samples: the signals and their weights.
      places: the atoms of the slots.
      sign: 1, or -1 where a slot holds the negative of its atom.
      code: the codes.
      basic: the slots of the basis; all others are free.
      swept: the Gram matrix of the slots, swept on the basis; see `pivoting`.
      theta: the residual, to better than the precision of the codes: the dual candidate.
      candidate: the atoms that most violate optimality; `-1 - j` stands for the negative of atom j.
      lead: by how much the correlation of a candidate exceeds its weight; -inf where there is no
        candidate.
      scale: the factor that makes theta feasible.
      pull: the products of theta with the atoms of the slots.
      rounds: products with the dictionary so far.
      settled: the last rounds that left the basis as it was.
      done: whether a sample needs no round more.
    """

    samples: Samples
    places: Int[Array, "n slots"]
    sign: Float[Array, "n slots"]
    code: Float[Array, "n slots"]
    basic: Bool[Array, "n slots"]
    swept: Float[Array, "n slots slots"]
    theta: Float[Array, "n input_dim"]
    candidate: Int[Array, "n candidates"]
    lead: Float[Array, "n candidates"]
    scale: Float[Array, " n"]
    pull: Float[Array, "n slots"]
    rounds: Int[Array, " n"]
    settled: Int[Array, " n"]
    done: Bool[Array, " n"]

    @property
    def full(self) -> Bool[Array, " n"]:
        """Whether no slot is free or, while the basis still changes, fewer than an eighth."""
        free = jnp.sum(~self.basic, axis=1)
        return jnp.where(self.settled > 0, free == 0, free < self.basic.shape[1] // 8)


def start(problem: Problem, samples: Samples, num_slots: int) -> State:
    """Samples whose slots are all free, with no candidates yet."""
    num_samples, dtype = samples.signals.shape[0], samples.signals.dtype
    count = num_candidates(problem, num_slots)
    zeros, none = jnp.zeros((num_samples, num_slots), dtype), jnp.zeros(num_samples, jnp.int32)
    return State(
        samples=samples,
        places=zeros.astype(jnp.int32),
        sign=zeros + 1,
        code=zeros,
        basic=zeros > 0,
        swept=jnp.broadcast_to(
            jnp.eye(num_slots, dtype=dtype), (num_samples, num_slots, num_slots)
        ),
        theta=samples.signals,
        candidate=jnp.zeros((num_samples, count), jnp.int32),
        lead=jnp.full((num_samples, count), -jnp.inf, dtype),
        scale=zeros[:, 0],
        pull=zeros,
        rounds=none,
        settled=none,
        done=none > 0,
    )


def propose(problem: Problem, state: State, init: Float[Array, "n num_latents"]) -> State:
    """The atoms of the largest codes of `init` as the first candidates."""
    count = state.candidate.shape[1]
    if problem.latents is None:
        given, chosen = lax.top_k(jnp.abs(init), min(count, init.shape[1]))
        spare = ((0, 0), (0, count - chosen.shape[1]))
        given, chosen = jnp.pad(given, spare), jnp.pad(chosen.astype(jnp.int32), spare)
    else:
        # One device alone would have to sort the codes of all atoms.
        sizes = whole_blocks(problem, jnp.abs(init))
        chosen = leaders(sizes, problem.num_blocks, count)
        given = jnp.take_along_axis(sizes, chosen, axis=1)
    pull = correlate(hold(problem, chosen), state.samples.signals, given > 0)
    excess = (pull if problem.nonneg else jnp.abs(pull)) - weights_at(
        problem, state.samples, chosen
    )
    signed = chosen if problem.nonneg else jnp.where(pull < 0, -1 - chosen, chosen)
    return state._replace(candidate=signed, lead=jnp.where(given > 0, excess, -jnp.inf))


def whole_blocks(
    problem: Problem, values: Float[Array, "n num_latents"]
) -> Float[Array, "n num_padded"]:
    """Values of each sample for all atoms, with zeros for the padding."""
    padded = jnp.pad(values, ((0, 0), (0, problem.atoms.shape[0] - values.shape[1])))
    return sharding.shard(padded, problem.latents, 1)


def num_candidates(problem: Problem, num_slots: int) -> int:
    """Violators sought in a round: as many as half the slots, but no more than pay."""
    return min(num_slots // 2, MOST_CANDIDATES, problem.num_blocks)


def widen(problem: Problem, state: State, num_slots: int) -> State:
    """The same working sets with `num_slots` slots; the new ones are free."""

    def within(wide, old):
        return wide.at[tuple(slice(size) for size in old.shape)].set(old)

    return jax.tree.map(within, start(problem, state.samples, num_slots), state)


def merge(
    places: Int[Array, "n slots"],
    sign: Float[Array, "n slots"],
    used: Bool[Array, "n slots"],
    candidate: Int[Array, "n candidates"],
    lead: Float[Array, "n candidates"],
) -> tuple[
    Int[Array, "n slots"],
    Float[Array, "n slots"],
    Float[Array, "n slots"],
    Bool[Array, "n slots candidates"],
]:
    """Keep the slots in use, and fill free ones with the candidates whose lead is not -inf.

    Returns:
      The atoms and the signs of the slots, the lead of those that are new, and which candidate each
      of these holds.
    """
    atom = jnp.where(candidate < 0, -1 - candidate, candidate)
    repeated = jnp.any((atom[:, :, None] == places[:, None, :]) & used[:, None, :], axis=2)
    # The count of free slots up to each one, as a product: a cumulative sum would run one row at a
    # time.
    upto = jnp.triu(jnp.ones((used.shape[1], used.shape[1]), lead.dtype))
    rank = jnp.matmul((~used).astype(lead.dtype), upto).astype(jnp.int32) - 1
    seat = jnp.clip(rank, 0, candidate.shape[1] - 1)
    fresh = jnp.take_along_axis(jnp.where(repeated, -jnp.inf, lead), seat, axis=1)
    entrant = jnp.take_along_axis(candidate, seat, axis=1)
    new = ~used & (rank < candidate.shape[1]) & (fresh > -jnp.inf)
    places = jnp.where(
        used, places, jnp.where(new, jnp.where(entrant < 0, -1 - entrant, entrant), 0)
    )
    sign = jnp.where(used, sign, jnp.where(new & (entrant < 0), -1, 1))
    holds = new[:, :, None] & (seat[:, :, None] == jnp.arange(candidate.shape[1]))
    return places, sign, fresh, holds


def border(
    problem: Problem,
    state: State,
    held: Held,
    sign: Float[Array, "n slots"],
    holds: Bool[Array, "n slots candidates"],
) -> Float[Array, "n slots slots"]:
    """The tableau bordered by the new slots: the Gram matrix of all slots, swept on the basis.

    With B the basis, N the new slots and G the Gram matrix, it holds `-G_BB⁻¹`, `G_BB⁻¹ G_BN` and
    `G_NN - G_NB G_BB⁻¹ G_BN`. A free slot is orthogonal to all others.
    """
    enter = holds.astype(state.code.dtype)
    atom = jnp.where(state.candidate < 0, -1 - state.candidate, state.candidate)
    new = hold(problem, atom, often=True)
    among = jnp.einsum("nwm,ncm->nwc", held.all(), new.all(), precision="highest")
    if not problem.nonneg:
        among = (
            sign[:, :, None]
            * jnp.where(state.candidate < 0, -1, 1).astype(enter.dtype)[:, None, :]
            * among
        )
    both = state.basic[:, :, None] & state.basic[:, None, :]
    old = jnp.where(both, state.swept, 0)
    solved = -product(old, jnp.where(state.basic[:, :, None], among, 0))
    # The columns of new slots are those of `solved`, whose rows off the basis are zero, and between
    # two of them of `rest`.
    rest = product(jnp.swapaxes(enter - solved, 1, 2), among)
    corner = product(solved + product(enter, 0.5 * rest), jnp.swapaxes(enter, 1, 2))
    filled = state.basic | jnp.any(holds, axis=2)
    free = jnp.where(filled[:, :, None], 0, jnp.eye(sign.shape[1], dtype=enter.dtype))
    return old + corner + jnp.swapaxes(corner, 1, 2) + free


def refresh(problem: Problem, state: State) -> Float[Array, "n slots slots"]:
    """The tableau with less of the rounding that sweeps leave in it: a step of Newton's for the
    inverse.

    With G the Gram matrix of the basis and X the inverse that the tableau holds, the error of
    `X + X (I - G X)` is the square of that of X.

    References:
      Schulz (1933), "Iterative Berechnung der reziproken Matrix", ZAMM 13(1).
    """
    both = state.basic[:, :, None] & state.basic[:, None, :]
    atoms = hold(problem, state.places, often=True).all()
    among = jnp.einsum("nwm,nvm->nwv", atoms, atoms, precision="highest")
    if not problem.nonneg:
        among = state.sign[:, :, None] * state.sign[:, None, :] * among
    inverse = jnp.where(both, -state.swept, 0)
    left = jnp.eye(both.shape[1], dtype=inverse.dtype) - product(jnp.where(both, among, 0), inverse)
    step = product(inverse, jnp.where(both, left, 0))
    return jnp.where(both, state.swept - 0.5 * (step + jnp.swapaxes(step, 1, 2)), state.swept)


def weights_at(
    problem: Problem, samples: Samples, places: Int[Array, "n some"]
) -> Float[Array, "n some"]:
    """The weights of some atoms of each sample."""
    if samples.column is not None:
        return samples.row * jnp.take_along_axis(samples.column, places, axis=1)
    return samples.row * problem.column[0, places]


def dense(problem: Problem, state: State, num_latents: int) -> Float[Array, "n num_latents"]:
    """The codes of all atoms."""
    rows = jnp.arange(state.code.shape[0])[:, None]
    codes = sharding.shard(
        jnp.zeros((state.code.shape[0], num_latents), state.code.dtype), problem.latents, 1
    )
    # A slot may point at the padding, but never with a code.
    return sharding.shard(
        codes.at[rows, state.places].add(state.sign * state.code, mode="drop"), problem.latents, 1
    )
