"""Working sets of a batch of samples: slots with an atom and its code, and the lasso on them."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sae_gap.solvers import pivoting
from sae_gap.solvers.compensated import dot, two_sum

# Slots and blocks are multiples of this, to fill vector registers evenly.
LANES = 16
# Number of blocks of atoms; each sends one violator a round.
NUM_BLOCKS = 256
# Most violators that enter in a round.
MOST_CANDIDATES = 128


class Samples(NamedTuple):
    """The data of each sample.

    The weight of sample i and atom j is `row_i column_ij`; if `column` is None, all samples share
    the problem's.
    """

    signals: Float[Array, "n input_dim"]
    row: Float[Array, "n 1"]
    column: Float[Array, "n _"] | None


class Problem(eqx.Module):
    """The data that all samples share: atoms as rows, padded to whole blocks for `leaders`.

    The weight of sample i and atom j is `row_i column_j`, unless samples have their own columns.
    """

    atoms: Float[Array, "num_padded input_dim"]
    column: Float[Array, "1 num_padded"]
    norms: Float[Array, " num_padded"]
    tol: Float[Array, ""]
    limit: Int[Array, ""]
    num_blocks: int = eqx.field(static=True)
    nonneg: bool = eqx.field(static=True)


def pose(
    samples: Samples,
    dictionary: Float[Array, "input_dim num_latents"],
    column: Float[Array, "1 num_latents"] | None,
    *,
    tol: Float[Array, ""] | float,
    limit: Int[Array, ""] | int,
    nonneg: bool,
) -> tuple[Problem, Samples]:
    """The problem, and the samples with columns padded alike; see `working_set.solve`."""
    num_latents = dictionary.shape[1]
    num_blocks = min(NUM_BLOCKS, LANES * -(-num_latents // LANES))
    spare = (0, -num_latents % num_blocks)
    atoms = jnp.pad(dictionary.T, (spare, (0, 0)))
    column = jnp.ones((1, num_latents), dictionary.dtype) if column is None else column
    wide = [jnp.pad(each, ((0, 0), spare)) for each in (column, samples.column) if each is not None]
    problem = Problem(
        atoms=atoms,
        column=wide[0],
        norms=jnp.linalg.norm(atoms, axis=1),
        tol=jnp.asarray(tol, dictionary.dtype),
        limit=jnp.asarray(limit, jnp.int32),
        num_blocks=num_blocks,
        nonneg=nonneg,
    )
    return problem, samples if len(wide) == 1 else samples._replace(column=wide[1])


class State(NamedTuple):
    """The working sets.

    Attributes:
      places: the atoms of the slots.
      code: their codes; a slot with code 0 is free.
      theta: the residual, more accurate than the codes' precision: the dual candidate.
      tail: rounding error of theta.
      candidate: the atoms that most violate optimality.
      lead: their correlations with theta; 0 for no candidate.
      rounds: products with the dictionary so far.
      settled: number of last rounds that did not change the basis.
      objective: objective of the codes.
      gap: their duality gaps at theta.
    """

    places: Int[Array, "n slots"]
    code: Float[Array, "n slots"]
    theta: Float[Array, "n input_dim"]
    tail: Float[Array, "n input_dim"]
    candidate: Int[Array, "n candidates"]
    lead: Float[Array, "n candidates"]
    rounds: Int[Array, " n"]
    settled: Int[Array, " n"]
    objective: Float[Array, " n"]
    gap: Float[Array, " n"]


def merge(
    places: Int[Array, "n slots"],
    used: Bool[Array, "n slots"],
    candidate: Int[Array, "n candidates"],
    lead: Float[Array, "n candidates"],
) -> tuple[Int[Array, "n slots"], Float[Array, "n slots"]]:
    """Keeps the slots in use, and fills free ones with candidates of non-zero lead.

    Returns:
      The atoms of the slots, and the lead of new ones, 0 for all others.
    """
    repeated = jnp.any((candidate[:, :, None] == places[:, None, :]) & used[:, None, :], axis=2)
    # A product counts the free slots up to each one: a cumulative sum would run one row at a time.
    upto = jnp.triu(jnp.ones((used.shape[1], used.shape[1]), lead.dtype))
    rank = jnp.matmul((~used).astype(lead.dtype), upto).astype(jnp.int32) - 1
    seat = jnp.clip(rank, 0, candidate.shape[1] - 1)
    fresh = jnp.take_along_axis(jnp.where(repeated, 0, lead), seat, axis=1)
    fresh = jnp.where(used | (rank >= candidate.shape[1]), 0, fresh)
    entrant = jnp.take_along_axis(candidate, seat, axis=1)
    return jnp.where(used, places, jnp.where(fresh != 0, entrant, 0)), fresh


def solve(
    atoms: Float[Array, "num_padded input_dim"],
    signals: Float[Array, "n input_dim"],
    places: Int[Array, "n slots"],
    sign: Float[Array, "n slots"],
    weight: Float[Array, "n slots"],
) -> tuple[
    Float[Array, "n slots input_dim"],
    tuple[Float[Array, "n slots"], Float[Array, "n slots slots"], Bool[Array, "n slots"]],
]:
    """Minimises `½‖y - Σ_w z_w s_w a_w‖² + Σ_w λ_w z_w` over `z ≥ 0` for each sample; slots with
    `s_w = 0` are free.

    Returns:
      The atoms of the slots with their signs, zeros in free slots; and the result of
      `pivoting.solve`.
    """
    own = sign[:, :, None] * atoms[places]
    gram = jnp.einsum("nwm,nvm->nwv", own, own, precision="highest")
    gram = gram + jnp.where(sign[:, :, None] == 0, jnp.eye(sign.shape[1], dtype=sign.dtype), 0)
    linear = jnp.where(sign != 0, correlate(own, signals) - weight, 0)
    return own, pivoting.solve(gram, linear, rank=signals.shape[1], max_pivots=4 * sign.shape[1])


def correlate(
    atoms: Float[Array, "n slots input_dim"], theta: Float[Array, "n input_dim"]
) -> Float[Array, "n slots"]:
    """The products of each sample's slot atoms with its vector."""
    return jnp.einsum("nwm,nm->nw", atoms, theta, precision="highest")


def residual(
    signals: Float[Array, "n input_dim"],
    atoms: Float[Array, "n slots input_dim"],
    code: Float[Array, "n slots"],
) -> Float[Array, "n input_dim"]:
    """The signals less their reconstruction."""
    return signals - jnp.einsum("nw,nwm->nm", code, atoms, precision="highest")


def proceed(problem: Problem, samples: Samples, state: State) -> State:
    """Takes the violators in, and solves every sample on its slots.

    Refinement steps with newly computed correlations remove the roundoff of the pivots, the later
    ones as if in twice the precision: with `e = Aᵀ θ - λ` on the basis, `z ← z + G⁻¹ e` and
    `θ ← θ - A G⁻¹ e`. They reveal violations that the pivots' roundoff hid.
    """
    used = state.code != 0
    places, lead = merge(state.places, used, state.candidate, state.lead)
    sign, weight = jnp.sign(state.code + lead), weights_at(problem, samples, places)
    atoms, (code, swept, basic) = solve(problem.atoms, samples.signals, places, sign, weight)
    theta = residual(samples.signals, atoms, code)
    tail = jnp.zeros_like(theta)
    for product in (correlate, exact, exact):
        wrong = product(atoms, theta) + correlate(atoms, tail) - weight
        here = jnp.where(basic, wrong, 0)
        fix = -jnp.einsum("nwv,nv->nw", swept, here, precision="highest")
        late = jnp.where(basic | (sign == 0), 0, wrong)
        last = jnp.argmax(late, axis=1)[:, None]
        column = jnp.take_along_axis(swept, last[:, :, None], axis=2)[:, :, 0]
        energy, lead = (jnp.take_along_axis(each, last, axis=1) for each in (column, late))
        rise = jnp.where((lead > 0) & (energy > 1e-3), lead / jnp.maximum(energy, 1e-3), 0)
        entering = jnp.arange(late.shape[1]) == last
        fix = jnp.where(basic, fix - rise * column, jnp.where(entering, rise, 0))
        fix = jnp.where(code + fix > 0, fix, -code)
        code = jnp.maximum(code + fix, 0)
        theta, tail = two_sum(theta, residual(tail, atoms, fix))
    same = jnp.all((code > 0) == used, axis=1)
    return state._replace(
        places=places,
        code=sign * code,
        theta=theta,
        tail=tail,
        settled=jnp.where(same, state.settled + 1, 0),
    )


def exact(atoms, theta):
    """`correlate`, as if in twice the precision."""
    return dot(atoms, theta[:, None])


def weights_at(
    problem: Problem, samples: Samples, places: Int[Array, "n some"]
) -> Float[Array, "n some"]:
    """The weights of some atoms for each sample."""
    if samples.column is not None:
        return samples.row * jnp.take_along_axis(samples.column, places, axis=1)
    return samples.row * problem.column[0, places]


def ratio(problem: Problem, samples: Samples, pull):
    """Correlations over weights. A weight of zero counts as very small, so that every correlation
    violates it.
    """
    column = problem.column if samples.column is None else samples.column
    return pull * (1 / jnp.maximum(samples.row, 1e-20)) * (1 / jnp.maximum(column, 1e-15))
