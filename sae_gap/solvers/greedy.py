"""Greedy k-sparse coding: matching pursuit; gradient pursuit, which improves all chosen codes; and
orthogonal matching pursuit, which refits them.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from sae_gap.core import check_integer, product
from sae_gap.loops import host
from sae_gap.runtime import sharding
from sae_gap.solvers import on_host

# Most floats for the Gram matrix of all atoms: of 23,170 atoms.
LARGEST_GRAM = 2**29
# Floats of the orthonormal bases of the samples that step together.
BASES = 2**24
# Most atoms for which matching pursuit updates its correlations by the Gram matrix.
MOST_CARRIED = 4_096


def _unit(atoms, axis, np):
    """Atoms of unit norm; an atom of zeros stays."""
    # Squares of much larger or smaller entries overflow or underflow.
    largest = np.abs(atoms).max(axis, keepdims=True)
    atoms = atoms / np.where(largest != 0, largest, 1)
    norms = np.linalg.norm(atoms, axis=axis, keepdims=True)
    return atoms / np.where(norms != 0, norms, 1)


@functools.partial(jax.jit, static_argnames=("num_atoms", "nonneg"))
def matching_pursuit(
    signals: Float[Array, "n input_dim"],
    atoms: Float[Array, "num_latents input_dim"],
    num_atoms: int,
    *,
    nonneg: bool = False,
) -> tuple[Int[Array, "k n"], Float[Array, "k n"]]:
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
    num_latents = len(atoms)
    latent = jnp.arange(num_latents)
    # Updating the correlations by the Gram matrix saves a product a step, if that pays for the
    # matrix.
    gram = (
        atoms @ atoms.T
        if num_latents <= len(signals) * num_atoms and num_latents <= MOST_CARRIED
        else None
    )

    def step(state, _):
        carried, unused = state
        correlation = carried if gram is not None else carried @ atoms.T
        score = jnp.where(unused, correlation if nonneg else jnp.abs(correlation), -jnp.inf)
        # A max and a compare use vector registers; XLA's argmax on a CPU does not.
        best = jnp.max(score, axis=1, keepdims=True)
        chosen = jnp.min(jnp.where(score == best, latent, num_latents - 1), axis=1)
        value = jnp.take_along_axis(correlation, chosen[:, None], axis=1)
        value = value.clip(0) if nonneg else value
        carried = carried - value * (atoms if gram is None else gram)[chosen]
        return (carried, unused & (latent != chosen[:, None])), (chosen, value[:, 0])

    carried = signals if gram is None else signals @ atoms.T
    unused = jnp.ones((len(signals), num_latents), bool)
    return lax.scan(step, (carried, unused), length=min(num_atoms, num_latents))[1]


@functools.partial(jax.jit, static_argnames=("num_atoms", "nonneg"))
def gradient_pursuit(
    signals: Float[Array, "n input_dim"],
    atoms: Float[Array, "num_latents input_dim"],
    num_atoms: int,
    *,
    nonneg: bool = False,
) -> Float[Array, "n num_latents"]:
    """Greedy steps: add the atom with the largest |correlation| with the residual, then take a step
    of steepest descent of the error in the codes of all chosen atoms.

    Args:
      signals: `(n, input_dim)`.
      atoms: `(num_latents, input_dim)`, of unit norm.
      num_atoms: k, steps at most; never more than there are atoms.
      nonneg: whether a step takes the atom with the largest correlation and clips codes at zero.

    Returns:
      Codes of at most k atoms.

    References:
      Blumensath & Davies (2008), "Gradient pursuits", IEEE Trans. Signal Processing 56(6).
    """
    num_atoms, kind = min(num_atoms, len(atoms)), jnp.result_type(signals, atoms)

    def pursue(signal):
        def step(i, carry):
            places, codes = carry
            pull = product(atoms, signal - product(codes, atoms[places]))
            score = (pull if nonneg else jnp.abs(pull)).at[places].set(-jnp.inf, mode="drop")
            places = places.at[i].set(jnp.argmax(score).astype(places.dtype))
            slope = pull.at[places].get(mode="fill", fill_value=0)
            squares = jnp.sum(product(slope, atoms[places]) ** 2)
            codes = codes + jnp.sum(slope**2) / jnp.where(squares > 0, squares, 1) * slope
            return places, codes.clip(0) if nonneg else codes

        # A place beyond all atoms is still empty.
        none = jnp.full(num_atoms, len(atoms))
        return lax.fori_loop(0, num_atoms, step, (none, jnp.zeros(num_atoms, kind)))

    found = lax.map(pursue, signals, batch_size=max(1, BASES // (num_atoms * atoms.shape[1])))
    return spread(*found, num_latents=len(atoms))


def orthogonal_matching_pursuit(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    num_atoms: int,
    *,
    nonneg: bool = False,
) -> Float[Array, "n num_latents"]:
    """Matching pursuit that refits every chosen atom by least squares at each step.

    The residual stays orthogonal to all chosen atoms, and the codes solve `min_z ‖y - D_S z‖` on
    the final choice S. Atoms that depend on those chosen before get a code of zero.

    On a CPU and outside of `jit` a compiled loop codes each sample by itself on the Gram matrix of
    all atoms, if that is worth its products and has at most `LARGEST_GRAM` floats. Elsewhere all
    samples take each step together. Both choose the same atoms, except for ties up to rounding and
    atoms within 3e-3 of the span of those chosen before.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`; atoms are scaled to unit norm first.
      num_atoms: k, at most input_dim.
      nonneg: whether each step takes the atom with the largest correlation instead of the largest
        |correlation|. The least squares are the same, so some codes may be negative.

    Returns:
      `(n, num_latents)` coefficients of the *unit* atoms.

    Raises:
      ValueError: `num_atoms` is not an integer from 1 to `min(input_dim, num_latents)`.

    References:
      Pati, Rezaiifar & Krishnaprasad (1993), "Orthogonal matching pursuit", Asilomar.
    """
    found = pursuit_order(signals, dictionary, num_atoms, nonneg=nonneg)
    return spread(*found, num_latents=dictionary.shape[1])


def pursuit_order(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    num_atoms: int,
    *,
    nonneg: bool = False,
) -> tuple[Int[Array, "n num_atoms"], Float[Array, "n num_atoms"]]:
    """The atoms of `orthogonal_matching_pursuit` in the order of their choice, and their codes.

    The first k of each row are the choice of a pursuit of k atoms, so that one pursuit serves every
    smaller k.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`; atoms are scaled to unit norm first.
      num_atoms: as in `orthogonal_matching_pursuit`.
      nonneg: likewise.

    Returns:
      `(n, num_atoms)` numbers of atoms, and the coefficients of the unit atoms; each atom once in
      its row, but for those of code zero.

    Raises:
      ValueError: as `orthogonal_matching_pursuit`.
    """
    num_samples, num_latents = len(signals), dictionary.shape[1]
    check_integer("num_atoms", num_atoms, least=1, most=min(dictionary.shape))
    dtype, num_atoms = jnp.result_type(signals, dictionary, jnp.float32), int(num_atoms)
    worth = num_latents <= num_samples * num_atoms and num_latents**2 <= LARGEST_GRAM
    if not (worth and jax.default_backend() == "cpu" and on_host(signals) and on_host(dictionary)):
        return _pursue_at_once(
            jnp.asarray(signals, dtype), jnp.asarray(dictionary, dtype), num_atoms, nonneg
        )
    atoms = np.ascontiguousarray(np.asarray(dictionary, dtype).T)
    given = np.asarray(signals, dtype), _unit(atoms, 1, np), num_latents, (num_atoms,)
    chosen, codes, _ = host.pursue(*given, plain=True, signed=not nonneg, largest=LARGEST_GRAM)
    return sharding.place_rows(jax.device_put((chosen.astype(np.int32), codes)), signals)


@functools.partial(jax.jit, static_argnames="num_latents")
def spread(
    chosen: Int[Array, "n k"], values: Float[Array, "n k"], *, num_latents: int
) -> Float[Array, "n num_latents"]:
    """Dense codes from the values of chosen latents; a latent that comes twice has their sum."""
    return (
        jnp.zeros((len(chosen), num_latents), values.dtype)
        .at[jnp.arange(len(chosen))[:, None], chosen]
        .add(values)
    )


@functools.partial(jax.jit, static_argnums=(2, 3))
def _pursue_at_once(signals, dictionary, num_atoms, nonneg):
    """Takes each step for all samples at once, in batches whose orthonormal bases fit in `BASES`.

    A sample has an orthonormal basis Q of its chosen atoms, and R with D_S = QᵀR, so that the codes
    are R⁻¹ Q y.
    """
    atoms = _unit(dictionary, 0, jnp)
    input_dim, num_latents = atoms.shape
    cutoff = 64 * jnp.finfo(atoms.dtype).eps

    def step(i, carry):
        rest, basis, upper, chosen, taken = carry
        correlations = product(rest, atoms)
        best = jnp.argmax(
            jnp.where(taken, -jnp.inf, correlations if nonneg else jnp.abs(correlations))
        )
        atom = atoms.T[best]
        # Orthogonalising twice keeps the basis orthonormal to rounding.
        first = product(basis, atom)
        new = atom - product(first, basis)
        second = product(basis, new)
        new = new - product(second, basis)
        norm = jnp.linalg.norm(new)
        fine = norm > cutoff
        new = jnp.where(fine, new / jnp.where(fine, norm, 1), 0)
        column = (first + second).at[i].set(jnp.where(fine, norm, 1))
        rest = rest - jnp.sum(new * rest) * new
        chosen, taken = chosen.at[i].set(best.astype(jnp.int32)), taken.at[best].set(True)
        return rest, basis.at[i].set(new), upper.at[:, i].set(column), chosen, taken

    def pursue(signal):
        basis, upper = (
            jnp.zeros((num_atoms, input_dim), atoms.dtype),
            jnp.zeros((num_atoms, num_atoms), atoms.dtype),
        )
        begun = signal, basis, upper, jnp.zeros(num_atoms, jnp.int32), jnp.zeros(num_latents, bool)
        _, basis, upper, chosen, _ = lax.fori_loop(0, num_atoms, step, begun)
        return chosen, jax.scipy.linalg.solve_triangular(upper, product(basis, signal))

    return lax.map(pursue, signals, batch_size=max(1, BASES // (num_atoms * input_dim)))
