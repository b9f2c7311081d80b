"""Greedy k-sparse coding: non-negative matching pursuit, and orthogonal matching pursuit, which refits all chosen atoms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from sae_gap.core import lasso_problem
from sae_gap.core.checks import check_unmasked, is_integer, is_traced, shown
from sae_gap.runtime import sharding
from sae_gap.solvers import host_pursuits
from sae_gap.solvers.problem import holds, on_host

# Bytes that the Gram matrix of all atoms may take: those of 23,170 atoms in single precision.
LARGEST_GRAM = 2**31
# Floats of the orthonormal bases of the samples that take their steps at once.
BASES = 2**24


def _unit(atoms, axis, np):
    """Atoms of unit norm; an atom of zeros stays."""
    # Squares of far larger or smaller entries overflow or vanish.
    largest = np.abs(atoms).max(axis, keepdims=True)
    atoms = atoms / np.where(largest != 0, largest, 1)
    norms = np.linalg.norm(atoms, axis=axis, keepdims=True)
    return atoms / np.where(norms != 0, norms, 1)


def _check(signals, dictionary, num_atoms):
    """The type to compute in, and the number of atoms as an integer of Python."""
    for name, array in (("signals", signals), ("dictionary", dictionary)):
        check_unmasked(name, array)
        kinds = jnp.integer, jnp.floating
        if getattr(array, "ndim", None) != 2 or not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
            raise ValueError(f"{name} must be an array of two dimensions, of real numbers, but it is {shown(array)}; give one.")
    if signals.shape[1] != len(dictionary):
        raise ValueError(
            f"signals of shape {signals.shape} and a dictionary of shape {dictionary.shape} disagree on input_dim; atoms are "
            "the columns of the dictionary."
        )
    if not is_integer(num_atoms) or not 1 <= num_atoms <= dictionary.shape[1]:
        raise ValueError(
            f"num_atoms must be an integer from 1 to num_latents = {dictionary.shape[1]}, but it is {num_atoms!r}."
        )
    if not is_traced(dictionary) and not holds(lambda a, np: np.isfinite(a).all(), dictionary):
        raise ValueError("dictionary has a NaN or an infinity; remove or replace the non-finite values.")
    return jnp.result_type(signals, dictionary, jnp.float32), int(num_atoms)


def nonneg_matching_pursuit(
    signals: Float[Array, "n input_dim"], dictionary: Float[Array, "input_dim num_latents"], num_atoms: int
) -> Float[Array, "n num_latents"]:
    """`num_atoms` greedy steps: `z_j = max(d_jᵀ r, 0)` for the new atom of largest `d_jᵀ r`, then `r ← r - z_j d_j`.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`; atoms are scaled to unit norm first.
      num_atoms: k, the steps taken, each on a new atom.

    Returns:
      `(n, num_latents)` coefficients of the *unit* atoms.

    Raises:
      ValueError: `num_atoms` is not an integer between 1 and num_latents, the arrays are no real matrices that fit, or the
        dictionary is not finite.

    References:
      Mallat & Zhang (1993), "Matching pursuits with time-frequency dictionaries", IEEE Trans. Signal Processing 41(12).
    """
    dtype, num_atoms = _check(signals, dictionary, num_atoms)
    signals, atoms = jnp.asarray(signals, dtype), _unit(jnp.asarray(dictionary, dtype), 0, jnp)
    rows = jnp.arange(signals.shape[0])

    def step(_, carry):
        rest, codes, taken = carry
        correlations = jnp.where(taken, -jnp.inf, lasso_problem.product(rest, atoms))
        best = jnp.argmax(correlations, axis=1)
        value = jnp.maximum(correlations[rows, best], 0)
        rest = rest - value[:, None] * atoms.T[best]
        return rest, codes.at[rows, best].set(value), taken.at[rows, best].set(True)

    codes = jnp.zeros((signals.shape[0], dictionary.shape[1]), signals.dtype)
    return lax.fori_loop(0, num_atoms, step, (signals, codes, jnp.zeros(codes.shape, bool)))[1]


def orthogonal_matching_pursuit(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    num_atoms: int,
    *,
    nonneg: bool = False,
) -> Float[Array, "n num_latents"]:
    """Matching pursuit that refits every chosen atom by least squares at each step.

    The residual is kept orthogonal to all chosen atoms, and the codes solve `min_z ‖y - D_S z‖` on the final choice S. Atoms
    that depend on those chosen before get a code of zero. A signal that is not finite has codes of NaN, and under `jit` so
    has every signal where the dictionary is not finite.

    On a CPU and outside of `jit` each sample goes its own way, in a compiled loop on the Gram matrix of all atoms, where that
    is worth its products and takes at most `LARGEST_GRAM` bytes. Elsewhere all samples take a step at once. Both choose the
    same atoms, but for ties up to rounding and atoms within 3e-4 of the span of those chosen before.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`; atoms are scaled to unit norm first.
      num_atoms: k, at most input_dim.
      nonneg: whether each step takes the atom of largest correlation, and not of largest |correlation|. The least squares are
        the same, so that some codes may be negative all the same.

    Returns:
      `(n, num_latents)` coefficients of the *unit* atoms.

    Raises:
      ValueError: `num_atoms` is not an integer between 1 and `min(input_dim, num_latents)`, the arrays are no real matrices
        that fit, or the dictionary is not finite.

    References:
      Pati, Rezaiifar & Krishnaprasad (1993), "Orthogonal matching pursuit", Asilomar.
    """
    chosen, values = _pursue(signals, dictionary, num_atoms, nonneg)
    return _spread(chosen, values, num_latents=dictionary.shape[1])


def pursuit_order(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    num_atoms: int,
    *,
    nonneg: bool = False,
) -> Int[Array, "n num_atoms"]:
    """The atoms of `orthogonal_matching_pursuit` in the order in which it chooses them.

    The first k of each row are the choice of a pursuit of k atoms, so that one pursuit serves every smaller k.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`; atoms are scaled to unit norm first.
      num_atoms: as there.
      nonneg: as there.

    Returns:
      `(n, num_atoms)` numbers of atoms, each once in its row.

    Raises:
      ValueError: as there.
    """
    return _pursue(signals, dictionary, num_atoms, nonneg)[0]


def _pursue(signals, dictionary, num_atoms, nonneg):
    """The atoms that a pursuit chooses and their codes, both (n, num_atoms)."""
    dtype, num_atoms = _check(signals, dictionary, num_atoms)
    (num_samples, input_dim), num_latents = signals.shape, dictionary.shape[1]
    if num_atoms > input_dim:
        raise ValueError(f"num_atoms {num_atoms} is above input_dim {input_dim}, beyond which atoms are dependent; lower it.")
    worth = num_latents <= num_samples * num_atoms and num_latents**2 * dtype.itemsize <= LARGEST_GRAM
    if not (worth and jax.default_backend() == "cpu" and on_host(signals) and on_host(dictionary)):
        return _pursue_at_once(jnp.asarray(signals, dtype), jnp.asarray(dictionary, dtype), num_atoms, nonneg)
    atoms = np.ascontiguousarray(np.asarray(dictionary, dtype).T)
    targets = np.asarray(signals, dtype)
    chosen, values = host_pursuits.match(targets, _unit(atoms, 1, np), num_atoms, nonneg=bool(nonneg))
    broken = ~np.isfinite(targets).all(axis=1)
    chosen[broken], values[broken] = np.arange(num_atoms), np.nan
    return sharding.place_rows(jax.device_put((chosen, values)), signals)


@functools.partial(jax.jit, static_argnames="num_latents")
def _spread(chosen, values, *, num_latents):
    return jnp.zeros((len(chosen), num_latents), values.dtype).at[jnp.arange(len(chosen))[:, None], chosen].set(values)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _pursue_at_once(signals, dictionary, num_atoms, nonneg):
    """All samples in the same steps, as many at a time as there is room for their orthonormal bases."""
    # A traced dictionary that is not finite is told by codes of NaN.
    atoms, signals = _unit(dictionary, 0, jnp), jnp.where(jnp.isfinite(dictionary).all(), signals, jnp.nan)
    size = max(1, BASES // (num_atoms * len(atoms)))
    if len(signals) <= size:
        return _take_steps(signals, atoms, num_atoms, nonneg)

    def pursue(one):
        chosen, values = _take_steps(one[None], atoms, num_atoms, nonneg)
        return chosen[0], values[0]

    return lax.map(pursue, signals, batch_size=size)


def _take_steps(signals, atoms, num_atoms, nonneg):
    """A pursuit with an orthonormal basis Q of the atoms chosen, and R with D_S = QᵀR, so that the codes are R⁻¹ Q y."""
    num_samples, input_dim = signals.shape
    rows = jnp.arange(num_samples)
    cutoff = 64 * jnp.finfo(signals.dtype).eps
    basis = jnp.zeros((num_samples, num_atoms, input_dim), signals.dtype)
    upper = jnp.zeros((num_samples, num_atoms, num_atoms), signals.dtype)
    chosen = jnp.zeros((num_samples, num_atoms), jnp.int32)

    def step(i, carry):
        rest, basis, upper, chosen, taken = carry
        correlations = lasso_problem.product(rest, atoms)
        best = jnp.argmax(jnp.where(taken, -jnp.inf, correlations if nonneg else jnp.abs(correlations)), axis=1)
        atom = atoms.T[best]
        # Orthogonalising twice keeps the basis orthonormal to rounding.
        first = jnp.einsum("nkm,nm->nk", basis, atom, precision=lax.Precision.HIGHEST)
        new = atom - jnp.einsum("nk,nkm->nm", first, basis, precision=lax.Precision.HIGHEST)
        second = jnp.einsum("nkm,nm->nk", basis, new, precision=lax.Precision.HIGHEST)
        new = new - jnp.einsum("nk,nkm->nm", second, basis, precision=lax.Precision.HIGHEST)
        norm = jnp.linalg.norm(new, axis=1)
        fine = norm > cutoff
        new = jnp.where(fine[:, None], new / jnp.where(fine, norm, 1)[:, None], 0)
        rest = rest - jnp.sum(new * rest, axis=1, keepdims=True) * new
        column = (first + second).at[:, i].set(jnp.where(fine, norm, 1))
        return (
            rest,
            basis.at[:, i].set(new),
            upper.at[:, :, i].set(column),
            chosen.at[:, i].set(best.astype(jnp.int32)),
            taken.at[rows, best].set(True),
        )

    taken = jnp.zeros((num_samples, atoms.shape[1]), bool)
    _, basis, upper, chosen, _ = lax.fori_loop(0, num_atoms, step, (signals, basis, upper, chosen, taken))
    target = jnp.einsum("nkm,nm->nk", basis, signals, precision=lax.Precision.HIGHEST)
    return chosen, lax.linalg.triangular_solve(upper, target[:, :, None], left_side=True, lower=False)[:, :, 0]
