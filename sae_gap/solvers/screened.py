"""The form of the screened pursuit for XLA, its choice of an engine, and the gains of atoms."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.lax import fori_loop, top_k, while_loop
from jax.numpy import eye, where, zeros
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from sae_gap.core import (
    EXCHANGES,
    MOST,
    SLACK,
    eliminate,
    is_traced,
    product,
    whole_pays,
)
from sae_gap.loops import host
from sae_gap.runtime import sharding
from sae_gap.solvers import coding
from sae_gap.solvers.omp import by_row, omp

# Floats for the samples that are coded at once.
CHUNK = 2**24


def screened_pursuit(options, atoms, lengths, targets, proposals, threshold):
    """The codes of a screened pursuit, (n, num_latents), NaN for a row that is not finite, and the
    largest rise in squared error up to the drop of each atom, (n, size); zero for an unused atom.

    Args:
      options: candidates of a screen, and the numbers of atoms after the screens.
      atoms: of unit length or zero, (num_latents, input_dim).
      lengths: the lengths of the atoms that codes are of.
      targets: (n, input_dim).
      proposals: (n, num_latents), of which the first screen takes the largest; None takes
        correlations.
      threshold: τ; an atom is dropped while that raises the squared error by less than τ². None
        drops none and leaves all gains zero.
    """
    given = atoms, lengths, targets, proposals, threshold
    traced = any(map(is_traced, given))
    kind = targets.dtype
    # A call back from a program of several devices would keep the others waiting for ever.
    if not coding.runs_on_host(given) or (traced and jax.device_count() > 1):
        return _compiled(options, *given)
    run = partial(_on_host, *options)
    if not traced:
        return sharding.place_rows(jax.device_put(run(*given)), targets)
    shapes = (len(targets), len(atoms)), (len(targets), options[1][-1])
    kinds = [jax.ShapeDtypeStruct(shape, kind) for shape in shapes]
    return jax.pure_callback(run, kinds, *given, vmap_method="sequential")


def backward_elimination(
    dictionary: Float[Array, "input_dim num_latents"],
    codes: Float[ArrayLike, "n num_latents"],
) -> Float[Array, "n num_latents"]:
    """Drops the atom whose absence raises the least-squares error least, `z_j² / [(D_SᵀD_S)⁻¹]_jj`,
    refits the rest, and goes on until none is left.

    Args:
      dictionary: D, unit atoms, (input_dim, num_latents).
      codes: z, least squares on their supports S, (n, num_latents).

    Returns:
      For each atom the largest rise up to its own, (n, num_latents): those above a threshold are
      the atoms left once each costs more than that. Zero for an atom that depends on others.
    """
    codes = jnp.asarray(codes)
    largest = jnp.max(jnp.sum(codes != 0, axis=1), initial=1)
    return _eliminate(dictionary.T, codes, int(largest))


@partial(jax.jit, static_argnames="size")
def _eliminate(
    atoms: Float[Array, "num_latents input_dim"],
    codes: Float[Array, "n num_latents"],
    size: int,
) -> Float[Array, "n num_latents"]:
    # A ridge of a few roundings of the trace keeps the Gram matrix of dependent atoms definite.
    ridge = 8 * jnp.finfo(atoms.dtype).eps * size * eye(size, dtype=atoms.dtype)

    def gains_of(codes: Array) -> Array:
        chosen = top_k(jnp.abs(codes), size)[1]
        held = atoms[chosen]
        gains = prune(product(held, held.T) + ridge, codes[chosen])
        return jnp.zeros_like(codes).at[chosen].set(gains)

    batch = max(1, CHUNK // (size * atoms.shape[1]))
    return lax.map(gains_of, codes, batch_size=batch)


def prune(gram: Float[Array, "k k"], codes: Float[Array, " k"]) -> Float[Array, " k"]:
    """The largest rise of the squared error up to the drop of each atom, if all are dropped."""
    inverse = _solve(_restricted(gram, codes != 0), eye(len(gram), dtype=gram.dtype))
    begin = jnp.vstack([inverse, codes]), 0 * codes

    def drop(_: ArrayLike, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        return eliminate(jnp, *carry)

    return fori_loop(0, len(gram), drop, begin)[1]


def _on_host(num_candidates, sizes, *given):
    """Codes and gains by the loops of a CPU."""
    atoms, lengths, targets, proposals, threshold = jax.tree.map(np.asarray, given)
    lost = ~np.isfinite(np.einsum("ij,ij->i", targets, targets))
    if lost.any():
        targets = np.where(lost[:, None], 0, targets)
    if threshold is not None:
        threshold = float(threshold)
    chosen, values, gains = host.screened_pursuit(
        targets, atoms, num_candidates, sizes, threshold, proposals
    )
    codes = host.spread(chosen, values / lengths[chosen], len(atoms))
    codes[lost] = np.nan
    return codes, gains


@partial(jax.jit, static_argnums=0)
def _compiled(options, atoms, lengths, targets, proposals, threshold):
    """The same by a program of XLA. For many samples it pays to compute the Gram matrix of all
    atoms, and to read the candidates' off it.
    """
    (m, sizes) = options
    (width, dim) = atoms.shape
    paid = whole_pays(width, len(targets), m, sizes)
    whole = product(atoms, atoms.T) if paid else None
    most = CHUNK // (width + m * (m + sizes[-1]) + (sizes[-1] if paid else m) * dim)
    count = max(1, -(-len(targets) // max(1, most)))
    code = jax.vmap(partial(_code_one, atoms, whole, m, sizes, threshold))
    codes, gains = sharding.in_batches(
        lambda part: code(*part), (targets, proposals), -(-len(targets) // count)
    )
    # A NaN chooses no atom, but must remain visible, and so must an overflow.
    finite = jnp.isfinite(jnp.linalg.norm(targets, axis=1, keepdims=True))
    return where(finite, codes / lengths, jnp.nan), gains


def _code_one(atoms, whole, m, sizes, threshold, signal, proposal):
    chosen = zeros(0, jnp.int32)
    on = zeros(0, bool)
    toward = product(atoms, signal)
    pull = toward if proposal is None else proposal
    slack = SLACK * jnp.linalg.norm(signal)
    for size in sizes:
        # Atoms chosen before are proposed first.
        candidates = top_k(pull.at[chosen].max(where(on, jnp.inf, -jnp.inf)), m)[1]
        own = atoms[candidates]
        gram = (
            product(own, own.T)
            if whole is None
            else whole[candidates[:, None], candidates]
        )
        correlation = toward[candidates]
        places, on, codes = omp(
            gram.__getitem__,
            jnp.diagonal(gram),
            correlation,
            size=size,
            slack=slack,
            begun=jnp.sum(on),
        )
        chosen = candidates[places]
        pull = product(atoms, signal - product(codes, atoms[chosen]))
    gram = gram[jnp.ix_(places, places)]
    correlation = correlation[places]
    codes, on = nonnegative_least_squares(gram, correlation, on, slack)
    gains = 0 * codes
    if threshold is not None:
        gains = prune(gram, codes)
        kept = on & (gains >= threshold**2)
        codes, _ = nonnegative_least_squares(gram, correlation, kept, slack)
    return zeros(len(atoms), codes.dtype).at[chosen].add(codes), gains


@by_row
def _solve(gram: Array, correlation: Array) -> Array:
    return jax.scipy.linalg.cho_solve(
        jax.scipy.linalg.cho_factor(gram, lower=True), correlation
    )


def _restricted(gram: Array, on: Array) -> Array:
    """Returns the Gram matrix of the atoms that are on, with the identity for the others."""
    return where(on[:, None] & on, gram, eye(len(gram), dtype=gram.dtype))


def nonnegative_least_squares(
    gram: Float[Array, "k k"],
    correlation: Float[Array, " k"],
    allowed: Bool[Array, " k"],
    slack: Float[Array, ""],
) -> tuple[Float[Array, " k"], Bool[Array, " k"]]:
    """Solves least squares over `z ≥ 0` on the allowed atoms, by block principal pivoting; returns
    the codes, and which of them may differ from zero.
    """

    def solve(on: Array) -> Array:
        return _solve(_restricted(gram, on), where(on, correlation, 0))

    def wrong(on: Array, codes: Array) -> Array:
        excess = correlation - product(gram, codes)
        return where(on, codes < -slack, allowed & (excess > slack))

    def exchange(carry: Any) -> Any:
        count, on, codes = carry
        swap = wrong(on, codes)
        last = jnp.arange(len(swap)) == len(swap) - 1 - jnp.argmax(swap[::-1])
        on = on ^ where(count < EXCHANGES, swap, swap & last)
        return count + 1, on, solve(on)

    def more(carry: Any) -> Array:
        count, on, codes = carry
        return (count < MOST) & jnp.any(wrong(on, codes))

    _, on, codes = while_loop(more, exchange, (0, allowed, solve(allowed)))
    return where(on, codes, 0).clip(0), on & (codes > 0)
