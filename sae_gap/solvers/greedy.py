"""Greedy k-sparse coding: matching pursuit; gradient pursuit, which improves all chosen codes; and
orthogonal matching pursuit, which refits them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from sae_gap.core import check_k, product
from sae_gap.loops import host
from sae_gap.runtime import sharding
from sae_gap.solvers import on_host

# Most floats for the Gram matrix of all atoms: of 23,170 atoms.
LARGEST_GRAM = 2**29
# Floats of the orthonormal bases of the samples that step together.
BASES = 2**24
# Most atoms for which matching pursuit updates its correlations by the Gram matrix.
MOST_CARRIED = 4_096


@functools.partial(jax.jit, static_argnames=("num_atoms", "nonneg"))
def matching_pursuit(
    signals: Float[Array, "n input_dim"],
    atoms: Float[Array, "num_latents input_dim"],
    num_atoms: int,
    *,
    nonneg: bool = False,
) -> tuple[Int[Array, "n k"], Float[Array, "n k"]]:
    """Greedy steps: take the unused atom with the largest |correlation| with the residual, with its
    projection as the code, and update the residual.

    Args:
      signals: `(n, input_dim)`.
      atoms: `(num_latents, input_dim)`, of unit norm.
      num_atoms: steps at most; never more than there are atoms.
      nonneg: whether each step takes the atom with the largest correlation, with a code of zero if
        that is negative.

    Returns:
      The chosen atom of each step, and its code.

    References:
      Mallat & Zhang (1993), "Matching pursuits with time-frequency dictionaries", IEEE Trans.
      Signal Processing 41(12).
    """
    latent = jnp.arange(len(atoms))
    most = min(len(signals) * num_atoms, MOST_CARRIED)
    # Updating the correlations by the Gram matrix saves a product a step, if that pays for the
    # matrix.
    paid = len(atoms) <= most
    table = atoms @ atoms.T if paid else atoms

    def pursue(signal):
        def step(state, _):
            carried, unused = state
            pull = carried if paid else carried @ atoms.T
            score = jnp.where(unused, pull if nonneg else jnp.abs(pull), -jnp.inf)
            # A max and a compare use vector registers; XLA's argmax on a CPU does not.
            chosen = jnp.min(jnp.where(score == jnp.max(score), latent, len(atoms) - 1))
            value = pull[chosen].clip(0 if nonneg else None)
            return (carried - value * table[chosen], unused & (latent != chosen)), (
                chosen,
                value,
            )

        begin = signal @ atoms.T if paid else signal, jnp.ones(len(atoms), bool)
        return lax.scan(step, begin, length=min(num_atoms, len(atoms)))[1]

    return jax.vmap(pursue)(signals)


@functools.partial(jax.jit, static_argnames=("num_atoms", "nonneg"))
def gradient_pursuit(signals, atoms, num_atoms: int, *, nonneg: bool = False):
    """Greedy steps: add the atom with the largest |correlation| with the residual, then take a step
    of steepest descent of the error in the codes of all chosen atoms.

    Args:
      signals: `(n, input_dim)`.
      atoms: `(num_latents, input_dim)`, of unit norm.
      num_atoms: k, steps at most; never more than there are atoms.
      nonneg: whether a step takes the atom with the largest correlation and clips codes at zero.

    Returns:
      Codes of at most k atoms, `(n, num_latents)`.

    References:
      Blumensath & Davies (2008), "Gradient pursuits", IEEE Trans. Signal Processing 56(6).
    """
    size = min(num_atoms, len(atoms))

    def follow(i, signal, chosen, pull, rest, codes):
        slope = pull.at[chosen].get(mode="fill", fill_value=0)
        squares = jnp.sum(product(slope, atoms[chosen]) ** 2)
        codes = codes + jnp.sum(slope**2) / jnp.where(squares > 0, squares, 1) * slope
        codes = codes.clip(0 if nonneg else None)
        return signal - product(codes, atoms[chosen]), codes

    begin = jnp.zeros(size, jnp.result_type(signals, atoms))
    return _take_steps(
        signals, atoms, nonneg, begin, follow, lambda signal, codes: codes
    )


def _take_steps(signals, atoms, nonneg, begin, follow, finish):
    """Takes each step for all samples at once, in batches whose orthonormal bases fit in `BASES`.

    A step takes the atom with the largest (|)correlation(|) with the residual that is not chosen;
    `follow` then gives the new residual and the new state, and `finish` the codes of the chosen.
    """
    size = len(jax.tree.leaves(begin)[0])

    def pursue(signal):
        def step(i, carry):
            chosen, rest, state = carry
            pull = product(atoms, rest)
            score = (
                (pull if nonneg else jnp.abs(pull))
                .at[chosen]
                .set(-jnp.inf, mode="drop")
            )
            chosen = chosen.at[i].set(jnp.argmax(score).astype(chosen.dtype))
            return chosen, *follow(i, signal, chosen, pull, rest, state)

        # A place beyond all atoms is still empty.
        none = jnp.full(size, len(atoms), jnp.int32)
        chosen, _, state = lax.fori_loop(0, size, step, (none, signal, begin))
        return chosen, finish(signal, state)

    found = lax.map(
        pursue, signals, batch_size=max(1, BASES // (size * atoms.shape[1]))
    )
    return spread(*found, num_latents=len(atoms))


def orthogonal_matching_pursuit(
    signals, atoms, num_atoms: int, *, nonneg: bool = False
):
    """Matching pursuit that refits every chosen atom by least squares at each step.

    The residual stays orthogonal to all chosen atoms, and the codes solve `min_z ‖y - D_S z‖` on
    the final choice S. Atoms that depend on those chosen before get a code of zero.

    On a CPU and outside of `jit` a compiled loop codes each sample by itself on the Gram matrix of
    all atoms, if that is worth its products and has at most `LARGEST_GRAM` floats. Elsewhere all
    samples take each step together. Both choose the same atoms, except for ties up to rounding and
    atoms within 3e-3 of the span of those chosen before.

    Args:
      signals: `(n, input_dim)`.
      atoms: `(num_latents, input_dim)`, of unit norm or zero.
      num_atoms: k.
      nonneg: whether each step takes the atom with the largest correlation instead of the largest
        |correlation|. The least squares are the same, so some codes may be negative.

    Returns:
      Codes of at most k atoms, `(n, num_latents)`.

    Raises:
      ValueError: `num_atoms` is above input_dim or num_latents.

    References:
      Pati, Rezaiifar & Krishnaprasad (1993), "Orthogonal matching pursuit", Asilomar.
    """
    width = len(atoms)
    kind = jnp.result_type(signals, atoms, jnp.float32)
    check_k(num_atoms, *atoms.shape[::-1])
    worth = width <= len(signals) * num_atoms and width**2 <= LARGEST_GRAM
    here = (
        worth and jax.default_backend() == "cpu" and on_host(signals) and on_host(atoms)
    )
    given = [(np if here else jnp).asarray(part, kind) for part in (signals, atoms)]
    if not here:
        return _pursue_at_once(*given, num_atoms, nonneg)
    given += width, (num_atoms,)
    chosen, codes, _ = host.pursue(
        *given, plain=True, signed=not nonneg, largest=LARGEST_GRAM
    )
    found = sharding.place_rows(jax.device_put((chosen, codes)), signals)
    return spread(*found, num_latents=width)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _pursue_at_once(signals, atoms, num_atoms, nonneg):
    """A sample has an orthonormal basis Q of its chosen atoms, and R with D_S = QᵀR, so that the
    codes are R⁻¹ Q y.
    """
    kind = atoms.dtype

    def follow(i, signal, chosen, pull, rest, state):
        (basis, upper) = state
        new = atoms[chosen[i]]
        column = 0 * upper[0]
        # Orthogonalising twice keeps the basis orthonormal to rounding.
        for _ in range(2):
            share = product(basis, new)
            new = new - product(share, basis)
            column = column + share
        norm = jnp.linalg.norm(new)
        fine = norm > 64 * jnp.finfo(kind).eps
        norm = jnp.where(fine, norm, 1)
        new = jnp.where(fine, new / norm, 0)
        column = column.at[i].set(norm)
        return rest - jnp.sum(new * rest) * new, (
            basis.at[i].set(new),
            upper.at[:, i].set(column),
        )

    def finish(signal, state):
        basis, upper = state
        return jax.scipy.linalg.solve_triangular(upper, product(basis, signal))

    begin = (jnp.zeros((num_atoms, size), kind) for size in (atoms.shape[1], num_atoms))
    return _take_steps(signals, atoms, nonneg, tuple(begin), follow, finish)


@functools.partial(jax.jit, static_argnames="num_latents")
def spread(
    chosen: Int[Array, "n k"], values: Float[Array, "n k"], *, num_latents: int
) -> Float[Array, "n num_latents"]:
    """Dense codes from the values of chosen latents; a latent that comes twice has their sum."""
    rows = jnp.arange(len(chosen))[:, None]
    return (
        jnp.zeros((len(chosen), num_latents), values.dtype).at[rows, chosen].add(values)
    )
