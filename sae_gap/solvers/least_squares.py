"""Least squares on the support of each sample, compiled for all samples at once."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import fori_loop, switch, top_k
from jax.numpy import einsum, where, zeros
from jax.typing import ArrayLike

from sae_gap.core import product
from sae_gap.runtime import in_batches
from sae_gap.solvers import spread

# Floats of the dictionaries of the samples in one batch.
CHUNK = 2**24
# Refinements of the regularised least squares; at an eigenvalue equal to the regulariser each
# halves the remaining error.
REFINEMENTS = 20


@eqx.filter_jit
def least_squares(signals, dictionary, on, pull=None):
    """The least-norm solution of `min ½‖y - D_S z‖² - v_Sᵀ z`, that is
    `D_SᵀD_S z_S = D_Sᵀ y + v_S`, on each support S.

    With the smaller Gram matrix of the support and v = 0, `z ← z + (D_SᵀD_S + μI)⁻¹ D_Sᵀ r` or
    `z ← z + D_Sᵀ (D_S D_Sᵀ + μI)⁻¹ r`, where `r = y - D z`, removes a share `s² / (s² + μ)` of the
    residual along each singular vector. After `REFINEMENTS` steps the regulariser μ, a few
    roundoffs of the trace, matters only along those that the type cannot tell from dependence. In
    float32 that begins at condition numbers of several hundred, which few supports have unless
    their size is input_dim.

    The time of a sample grows with its support: its atoms are gathered in as few slots as hold it.

    Args:
      signals: (n, input_dim).
      dictionary: (input_dim, num_latents), atoms of any norm; one of zeros counts as off.
      on: (n, num_latents), booleans; the supports.
      pull: v, (n, num_latents); None for zero.

    Returns:
      (n, num_latents) signed codes, zero off the support.
    """
    input_dim, num_latents = dictionary.shape
    scale = jnp.max(jnp.abs(dictionary))
    scale = where(scale > 0, scale, 1)
    atoms = dictionary / scale
    on = on & jnp.any(atoms != 0, axis=0)
    pull = (
        zeros(on.shape, signals.dtype) if pull is None else where(on, pull / scale, 0)
    )
    most = min(input_dim, num_latents)
    # Half as many, a quarter, …, down to about 16.
    sizes = [
        most >> halvings for halvings in reversed(range(max(1, most.bit_length() - 4)))
    ]

    forms = [partial(_few, atoms=atoms, most=count) for count in sizes]
    forms.append(partial(_many, atoms=atoms))

    def chunk(part: list[Array]) -> Array:
        width = jnp.searchsorted(
            jnp.asarray(sizes), jnp.max(jnp.sum(part[1], axis=1), initial=0)
        )
        return switch(width, forms, *part)

    # A chunk costs as much as its largest support, so sort by size; the smallest ones fill up the
    # last chunk.
    order = jnp.argsort(-jnp.sum(on, axis=1))
    rows = [array[order] for array in (signals, on, pull)]
    size = CHUNK // (input_dim * num_latents)
    return in_batches(chunk, rows, max(1, size))[jnp.argsort(order)] / scale


def _few(signals: Array, on: Array, pull: Array, atoms: Array, most: int) -> Array:
    """Solves on supports of at most `most` atoms, gathered."""
    chosen = top_k(on.astype(jnp.float32), most)[1]
    filled = jnp.take_along_axis(on, chosen, axis=1)
    own = where(filled[:, :, None], atoms.T[chosen], 0)
    gram = einsum("nwm,nvm->nwv", own, own, precision="highest")
    factor = _factor(gram)
    pull = jnp.take_along_axis(pull, chosen, axis=1)

    def refine(_: ArrayLike, codes: Array) -> Array:
        rest = signals - einsum("nw,nwm->nm", codes, own, precision="highest")
        left = pull + einsum("nwm,nm->nw", own, rest, precision="highest")
        return codes + _solve(factor, where(filled, left, 0))

    codes = fori_loop(0, REFINEMENTS, refine, zeros(filled.shape, signals.dtype))
    return spread(chosen, where(filled, codes, 0), num_latents=on.shape[1])


def _many(signals: Array, on: Array, pull: Array, atoms: Array) -> Array:
    """Solves on supports of any size, for some of more atoms than dimensions."""
    weights = on.astype(signals.dtype)
    gram = einsum(
        "nj,mj,lj->nml",
        weights,
        atoms,
        atoms,
        precision="highest",
        optimize=[(0, 1), (0, 1)],
    )
    factor = _factor(gram)
    # Only the part of the pull in the span of the rows of D_S has a solution.
    signals = signals + _solve(factor, product(weights * pull, atoms.T))

    def refine(_: ArrayLike, codes: Array) -> Array:
        return codes + weights * product(
            _solve(factor, signals - product(codes, atoms.T)), atoms
        )

    return fori_loop(0, REFINEMENTS, refine, zeros(on.shape, signals.dtype))


def _factor(gram: Array) -> Array:
    trace = jnp.trace(gram, axis1=1, axis2=2)
    regulariser = 8 * jnp.finfo(gram.dtype).eps * where(trace > 0, trace, 1)
    return jnp.linalg.cholesky(
        gram + regulariser[:, None, None] * jnp.eye(gram.shape[1], dtype=gram.dtype)
    )


def _solve(factor: Array, right: Array) -> Array:
    return jax.scipy.linalg.cho_solve((factor, True), right[:, :, None])[:, :, 0]
