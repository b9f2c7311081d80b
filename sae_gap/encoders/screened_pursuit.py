"""A pursuit that looks at few atoms: sparse codes on a dictionary that is given, at the price of
two products with it.
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp

from sae_gap.core import matching
from sae_gap.core.checks import check_integer, check_number, check_size
from sae_gap.core.lasso_problem import product
from sae_gap.encoders.encoder import Encoder, as_floats, unit_atoms

# Floats that the candidates of the samples coded at once take.
CHUNK = 2**24
# An atom with less than this share of its energy outside the span of those chosen adds nothing.
DEPENDENT = 1e-5
# Exchanges of all values of the wrong sign at once, and then of one at a time; hardly any sample
# takes ten.
EXCHANGES, MOST = 20, 200
# What a value may lie below zero, where the signal and the atoms have unit norm.
SLACK = 1e-6


class ScreenedPursuit(Encoder):
    r"""Orthogonal matching pursuit among the atoms that a screen proposes, then least squares over
    `z ≥ 0`.

    Screen s of S proposes the m atoms of largest `d_jᵀ r` with the residual `r = y - b - D z`,
    those chosen before among them. Orthogonal matching pursuit among these goes on to `⌈k s / S⌉`
    atoms, and z are the least squares on them. A screen is one product with the dictionary, which
    is what an encoder costs; the pursuit works on the Gram matrix of m atoms. With one screen of
    all atoms it is the pursuit itself.

    With a `threshold` τ each sample is left as many of the k atoms as it needs: those go whose
    absence would add less than τ² to the squared error,

        z_j² / [(D_SᵀD_S)⁻¹]_jj < τ²,

    S being the support and z_S its least squares on unit atoms.

    Args:
      k: atoms in each code, at most input_dim.
      candidates: m, at least k; None takes 2 k.
      screens: S.
      threshold: τ, in the unit of the signals.

    References:
      Pati, Rezaiifar & Krishnaprasad (1993), "Orthogonal matching pursuit". Donoho et al. (2012),
      "Sparse solution of underdetermined systems of linear equations by stagewise orthogonal
      matching pursuit". Reeves (1999), "An efficient implementation of the backward greedy
      algorithm for sparse signal reconstruction".
    """

    name = "screened_pursuit"
    label = "screened pursuit"
    colour = "#0072B2"
    rank = 14

    k: int = eqx.field(static=True, default=10)
    candidates: int | None = eqx.field(static=True, default=None)
    screens: int = eqx.field(static=True, default=2)
    threshold: float = 0.0

    def __check_init__(self):
        check_size("k", self.k)
        check_size("screens", self.screens)
        check_number("threshold", self.threshold, least=0)
        if self.candidates is not None:
            check_integer("candidates", self.candidates, least=self.k)

    def __call__(self, model, signals):
        codes = _code(self, model, signals)[0]
        # A NaN chooses no atom, and must show.
        return jnp.where(jnp.isfinite(signals).all(axis=1, keepdims=True), codes, jnp.nan)

    def at_l0(self, model, signals, l0):
        """The same encoder with the threshold at which signals have a mean L0.

        Args:
          model: whose dictionary it is.
          signals: to find it on, (n, input_dim), such as training rows.
          l0: the mean L0, below k.
        """
        check_number("l0", l0, above=0, most=self.k)
        signals = as_floats("signals", matching.as_matrix("signals", signals))
        gains = _code(dataclasses.replace(self, threshold=0.0), model, signals)[1]
        ordered = jnp.sort(gains.ravel())[::-1]
        least = ordered[min(max(1, round(l0 * len(signals))), len(ordered)) - 1]
        return dataclasses.replace(self, threshold=float(jnp.sqrt(least)))

    def flops(self, input_dim, num_latents):
        """Floating-point operations for a sample, those on k by k matrices apart."""
        m, sizes = self.sizes(input_dim, num_latents)
        products = 2 * input_dim * (num_latents + m + m**2)
        return sum(products + m * size**2 for size in sizes)

    def sizes(self, input_dim, num_latents):
        """The candidates of a screen, and the atoms after each."""
        k = min(self.k, input_dim, num_latents)
        sizes = [-(-k * screen // self.screens) for screen in range(1, self.screens + 1)]
        return min(self.candidates or 2 * self.k, num_latents), sizes


@eqx.filter_jit
def _code(encoder, model, signals):
    """The codes, and what each atom of a support adds to the squared error if it goes."""
    # Half precision has no Cholesky factor.
    kind = jnp.promote_types(jnp.result_type(model.decoder, signals), jnp.float32)
    atoms, norms = unit_atoms(model.decoder.astype(kind))
    m, sizes = encoder.sizes(*atoms.shape)
    code = functools.partial(_code_one, atoms.T, m, sizes, encoder.threshold)
    size = max(1, CHUNK // (m * (len(atoms) + m) + len(norms)))
    codes, gains = jax.lax.map(code, (signals - model.bias).astype(kind), batch_size=size)
    return codes / norms, gains


def _code_one(atoms, m, sizes, threshold, signal):
    rest, chosen = signal, jnp.zeros(0, jnp.int32)
    for size in sizes:
        pull = product(atoms, rest)
        # Those chosen before are proposed first.
        candidates = jax.lax.top_k(pull.at[chosen].set(jnp.inf), m)[1]
        own = atoms[candidates]
        gram, correlation = product(own, own.T), product(own, signal)
        places, on, codes = _pursue(gram, correlation, len(chosen), size)
        chosen, support = candidates[places], own[places]
        rest = signal - product(codes, support)
    gram, correlation = gram[jnp.ix_(places, places)], correlation[places]
    slack = SLACK * jnp.linalg.norm(signal)
    codes, on = _nonnegative(gram, correlation, on, slack)
    # The diagonal of the inverse of L Lᵀ is that of L⁻ᵀ L⁻¹.
    lower = jnp.linalg.cholesky(_restricted(gram, on))
    half = jax.scipy.linalg.solve_triangular(
        lower, jnp.eye(len(gram), dtype=gram.dtype), lower=True
    )
    gains = jnp.where(on, codes**2 / jnp.sum(half**2, axis=0), 0)
    codes, _ = _nonnegative(gram, correlation, on & (gains >= threshold**2), slack)
    return jnp.zeros(len(atoms), codes.dtype).at[chosen].add(codes), gains


def _pursue(gram, correlation, begun, size):
    """Orthogonal matching pursuit by the Gram matrix of the candidates, the first `begun` of which
    are taken first.

    Row i of `basis` has the inner products of the candidates with the i-th vector of an orthonormal
    basis of the atoms chosen, which is what their least squares take too.

    Returns:
      The places of the atoms chosen, whether each adds anything, and their least squares.
    """

    def step(i, carry):
        basis, pull, left, places, values, on = carry
        # A candidate that was chosen has no energy left.
        best = jnp.argmax(jnp.where(left > DEPENDENT, pull, -jnp.inf))
        best = jnp.where(i < begun, i, best).astype(places.dtype)
        fine = (left[best] > DEPENDENT) & ((pull[best] > 0) | (i < begun))
        new = (gram[best] - product(basis[:, best], basis)) / jnp.sqrt(left[best])
        new = jnp.where(fine, new, 0)
        value = jnp.where(fine, pull[best] / jnp.sqrt(left[best]), 0)
        return (
            basis.at[i].set(new),
            pull - value * new,
            left - new**2,
            places.at[i].set(best),
            values.at[i].set(value),
            on.at[i].set(fine),
        )

    m, kind = len(gram), gram.dtype
    begin = (
        jnp.zeros((size, m), kind),
        correlation,
        jnp.diagonal(gram),
        jnp.zeros(size, jnp.int32),
        jnp.zeros(size, kind),
        jnp.zeros(size, bool),
    )
    basis, _, _, places, values, on = jax.lax.fori_loop(0, size, step, begin)
    upper = jnp.triu(jnp.where(on[:, None] & on, basis[:, places], 0))
    upper = upper + jnp.diag(jnp.where(on, 0, 1).astype(kind))
    return places, on, jax.scipy.linalg.solve_triangular(upper, values)


def _restricted(gram, on):
    """The Gram matrix of some atoms, in the place of one of all."""
    return jnp.where(on[:, None] & on, gram, jnp.eye(len(gram), dtype=gram.dtype))


def _nonnegative(gram, correlation, allowed, slack):
    """Least squares over `z ≥ 0` on the atoms allowed, by block principal pivoting: its codes, and
    which of them may differ from zero.
    """

    def solve(on):
        factor = jax.scipy.linalg.cho_factor(_restricted(gram, on), lower=True)
        return jax.scipy.linalg.cho_solve(factor, jnp.where(on, correlation, 0))

    def wrong(on, codes):
        excess = correlation - product(gram, codes)
        return jnp.where(on, codes < -slack, allowed & (excess > slack))

    def exchange(carry):
        count, on, codes = carry
        swap = wrong(on, codes)
        last = jnp.arange(len(swap)) == len(swap) - 1 - jnp.argmax(swap[::-1])
        on = on ^ jnp.where(count < EXCHANGES, swap, swap & last)
        return count + 1, on, solve(on)

    def more(carry):
        count, on, codes = carry
        return (count < MOST) & jnp.any(wrong(on, codes))

    _, on, codes = jax.lax.while_loop(more, exchange, (0, allowed, solve(allowed)))
    return jnp.where(on, codes, 0).clip(0), on & (codes > 0)
