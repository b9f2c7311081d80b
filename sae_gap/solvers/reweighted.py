"""Reweighted pursuit: a few rounds of a log penalty on a handful of atoms a sample; the inner coder
of dictionary learning.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from sae_gap.core import lasso_problem
from sae_gap.solvers import slots
from sae_gap.solvers.leaders import leaders


class Pursuit(NamedTuple):
    """Codes by slot: sample i is `sum_w codes[i, w] atom(places[i, w])` plus its residual. Free
    slots have code 0.
    """

    places: Int[Array, "n slots"]
    codes: Float[Array, "n slots"]
    residual: Float[Array, "n input_dim"]


def atom_rows(
    dictionary: Float[Array, "input_dim num_latents"], num_slots: int
) -> Float[Array, "num_padded input_dim"]:
    """The atoms as rows, padded with rows of zeros to whole blocks, as `pursue` takes them.

    Args:
      dictionary: `(input_dim, num_latents)`.
      num_slots: as in `pursue`.

    Returns:
      `(num_padded, input_dim)`.
    """
    padded = jnp.pad(dictionary.T, ((0, -dictionary.shape[1] % num_blocks(num_slots)), (0, 0)))
    # Without the barrier a loop of pursuits would transpose at every step.
    return lax.optimization_barrier(padded)


def pursue(
    signals: Float[Array, "n input_dim"],
    atoms: Float[Array, "num_padded input_dim"],
    threshold: Float[Array, ""] | float,
    epsilon: Float[Array, ""] | float,
    *,
    num_slots: int,
    num_rounds: int = 3,
) -> Pursuit:
    """Approximately minimises `½‖y - D z‖² + t e Σ_j log(1 + z_j / e)` over `z ≥ 0`, a penalty that
    hardly shrinks large codes.

    A round admits the atoms whose correlation with the residual exceeds the threshold t. On these
    and the atoms in use it solves exactly the lasso with the weights `t e / (z_j + e)` at the last
    round's codes. The first round is thus a lasso at t, and each later one lowers the objective by
    majorising its concave penalty. A round costs a product with the dictionary and a solve on the
    slots. On a CPU `host_pursuits.pursue` does the same sample by sample, which is faster.

    Args:
      signals: `(n, input_dim)`.
      atoms: `(num_padded, input_dim)`, unit atoms from `atom_rows`.
      threshold: t, positive, in units of the codes.
      epsilon: e, positive, in units of the codes.
      num_slots: atoms that a sample may use at most, a multiple of 4.
      num_rounds: rounds.

    Returns:
      A `Pursuit`.

    References:
      Candès, Wakin & Boyd (2008), "Enhancing sparsity by reweighted l1 minimization", J. Fourier
      Anal. Appl. 14.
    """
    blocks = num_blocks(num_slots)
    limit = jnp.asarray(threshold, signals.dtype)

    def advance(_, carry):
        places, code, residual = carry
        correlations = lasso_problem.product(residual, atoms.T)
        candidate = leaders(jnp.maximum(correlations - limit, 0), blocks, num_slots // 2)
        lead = jnp.take_along_axis(correlations, candidate, axis=1)
        places, lead = slots.merge(places, code > 0, candidate, jnp.where(lead > limit, lead, 0))
        sign = jnp.sign(code + lead)
        weight = limit * epsilon / (code + epsilon)
        own, (code, *_) = slots.solve(atoms, signals, places, sign, weight)
        return Pursuit(places, code, slots.residual(signals, own, code))

    zeros = jnp.zeros((len(signals), num_slots), signals.dtype)
    return lax.fori_loop(0, num_rounds, advance, Pursuit(zeros.astype(jnp.int32), zeros, signals))


def num_blocks(num_slots: int) -> int:
    """The number of blocks of atoms; each sends one candidate a round."""
    return 8 * num_slots
