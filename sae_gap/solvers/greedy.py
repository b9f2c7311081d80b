"""Greedy k-sparse coding: matching pursuit; gradient pursuit, which improves all chosen codes; and
orthogonal matching pursuit, which refits them.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import jit, lax
from jax.numpy import inf, where
from jaxtyping import Array, Float, Int

from sae_gap.core import check_k, product
from sae_gap.loops import host
from sae_gap.runtime import sharding
from sae_gap.solvers import on_host
from sae_gap.solvers.omp import omp

# Most floats for the Gram matrix of all atoms: of 23,170 atoms.
LARGEST_GRAM = 2**29
# Floats of the chosen atoms, or of the tables, of the samples that step together.
FLOATS = 2**24
# Most atoms for which matching pursuit updates its correlations by the Gram matrix.
MOST_CARRIED = 4_096


@partial(jit, static_argnames=("num_atoms", "nonneg"))
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
    # Updating the correlations by the Gram matrix saves a product a step, if that pays for the
    # matrix.
    paid = len(atoms) <= min(len(signals) * num_atoms, MOST_CARRIED)
    table = atoms @ atoms.T if paid else atoms

    def code(signal):
        def step(state, _):
            carried, unused = state
            pull = carried if paid else carried @ atoms.T
            score = where(unused, pull if nonneg else jnp.abs(pull), -inf)
            # A max and a compare use vector registers; XLA's argmax on a CPU does not.
            chosen = jnp.min(where(score == jnp.max(score), latent, len(atoms) - 1))
            value = pull[chosen].clip(0 if nonneg else None)
            return (carried - value * table[chosen], unused & (latent != chosen)), (
                chosen,
                value,
            )

        begin = signal @ atoms.T if paid else signal, jnp.ones(len(atoms), bool)
        return lax.scan(step, begin, length=min(num_atoms, len(atoms)))[1]

    return jax.vmap(code)(signals)


@partial(jit, static_argnames=("num_atoms", "nonneg"))
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
      Codes of at most k atoms, `(n, num_latents)`.

    References:
      Blumensath & Davies (2008), "Gradient pursuits", IEEE Trans. Signal Processing 56(6).
    """
    size = min(num_atoms, len(atoms))

    def code(signal):
        def step(i, carry):
            chosen, rest, codes = carry
            pull = product(atoms, rest)
            score = pull if nonneg else jnp.abs(pull)
            score = score.at[chosen].set(-inf, mode="drop")
            chosen = chosen.at[i].set(jnp.argmax(score).astype(chosen.dtype))
            slope = pull.at[chosen].get(mode="fill", fill_value=0)
            squares = jnp.sum(product(slope, atoms[chosen]) ** 2)
            codes = codes + jnp.sum(slope**2) / where(squares > 0, squares, 1) * slope
            codes = codes.clip(0 if nonneg else None)
            return chosen, signal - product(codes, atoms[chosen]), codes

        # A place beyond all atoms is still empty.
        none = jnp.full(size, len(atoms), jnp.int32)
        begin = none, signal, jnp.zeros(size, jnp.result_type(signals, atoms))
        chosen, _, codes = lax.fori_loop(0, size, step, begin)
        return chosen, codes

    batch = max(1, FLOATS // (size * atoms.shape[1]))
    return spread(*lax.map(code, signals, batch_size=batch), num_latents=len(atoms))


def orthogonal_matching_pursuit(
    signals, atoms, num_atoms: int, *, nonneg: bool = False
):
    """Matching pursuit that refits every chosen atom by least squares at each step.

    The residual stays orthogonal to all chosen atoms, and the codes solve `min_z ‖y - D_S z‖` on
    the final choice S. Atoms that depend on those chosen before get a code of zero.

    On a CPU and outside of `jit` a compiled loop codes each sample by itself on the Gram matrix of
    all atoms, if that is worth its products and has at most `LARGEST_GRAM` floats. Elsewhere all
    samples take each step together. Both choose the same atoms, except for ties up to rounding.

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
    if not here:
        signals = jnp.asarray(signals, kind)
        return _compiled(signals, jnp.asarray(atoms, kind), num_atoms, nonneg, worth)
    chosen, codes, _ = host.screened_pursuit(
        np.asarray(signals, kind),
        np.asarray(atoms, kind),
        width,
        (num_atoms,),
        plain=True,
        signed=not nonneg,
        largest=LARGEST_GRAM,
    )
    placed = sharding.place_rows(jax.device_put((chosen, codes)), signals)
    return spread(*placed, num_latents=width)


@partial(jit, static_argnums=(2, 3, 4))
def _compiled(
    signals: Float[Array, "n input_dim"],
    atoms: Float[Array, "num_latents input_dim"],
    num_atoms: int,
    nonneg: bool,
    worth: bool,
) -> Float[Array, "n num_latents"]:
    """The same by a program of XLA."""
    gram = product(atoms, atoms.T) if worth else None

    def products(latent: Array) -> Array:
        return product(atoms, atoms[latent]) if gram is None else gram[latent]

    def code(signal):
        start = jnp.sum(atoms**2, axis=1), product(atoms, signal)
        chosen, _, codes = omp(
            products, *start, size=num_atoms, slack=-inf, signed=not nonneg
        )
        return chosen, codes

    batch = max(1, FLOATS // (num_atoms * len(atoms)))
    return spread(*lax.map(code, signals, batch_size=batch), num_latents=len(atoms))


@partial(jit, static_argnames="num_latents")
def spread(
    chosen: Int[Array, "n k"], values: Float[Array, "n k"], *, num_latents: int
) -> Float[Array, "n num_latents"]:
    """Dense codes from the values of chosen latents; a latent that comes twice has their sum."""
    rows = jnp.arange(len(chosen))[:, None]
    return (
        jnp.zeros((len(chosen), num_latents), values.dtype).at[rows, chosen].add(values)
    )
