"""The best values on the support that another encoder chose: what its choice of latents costs, apart from its magnitudes.

All samples at once and compiled; `sae_gap.measure.refit` says when to take its values instead.
"""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from sae_gap.core.checks import check_integer, check_number, check_type
from sae_gap.core.lasso_problem import product
from sae_gap.core.types import Coded, Model, Solution
from sae_gap.encoders.encoder import Encoder, encode, unit_atoms
from sae_gap.solvers import sparse_code

# A latent is on above this magnitude.
ON = 1e-4
# Weight of a latent that is off; no signal pulls as hard.
FORBIDDEN = 1e30
# Floats of the dictionaries of the samples that are worked on at once.
CHUNK = 2**24
# Refinements of the regularised least squares; at an eigenvalue as small as the regulariser each halves what is left.
REFINEMENTS = 20


class OnSupport(Encoder):
    """`argmin_z ½‖y - b - D z‖² + λ‖z‖₁, z ≥ 0`, with `z_j = 0` wherever the encoder has `|z_j| ≤ 1e-4`; D has unit atoms.

    A latent with a negative code counts as on, and takes the best non-negative value. Between the encoder's own objective and
    that of the lasso, this one splits the amortisation gap: what the magnitudes cost, and what the support does.

    Args:
      encoder: the encoder whose support it is.
      lam: weight of the l1 norm.
      tol: relative duality gap to reach, of the problem on the support.
      max_iterations: iterations after which a sample is reported as not converged.
    """

    name = "support"
    label = "best values on the own support"
    colour = "#56B4E9"
    rank = 10

    encoder: Encoder
    lam: float = 0.1
    tol: float = 1e-6
    max_iterations: int = 20_000

    def __check_init__(self):
        check_type("encoder", self.encoder, Encoder, "give the encoder whose support it is")
        check_number("lam", self.lam, least=0)
        check_number("tol", self.tol, above=0)
        check_integer("max_iterations", self.max_iterations, least=0)

    @property
    def origin(self):
        return self.encoder

    @property
    def weight(self):
        return self.lam

    def __call__(self, model: Model, signals: Float[Array, "n input_dim"]) -> Float[Array, "n num_latents"]:
        return self.infer(model, signals).codes

    def infer(
        self, model: Model, signals: Float[Array, "n input_dim"], begun: Float[Array, "n num_latents"] | None = None
    ) -> Solution:
        """The codes in units of the model's atoms; objective and gap are those of the problem on the support."""
        codes = encode(self.encoder, model, signals) if begun is None else begun
        dictionary, norms = jax.jit(unit_atoms)(model.decoder)
        solution = code_on_support(
            signals - model.bias,
            dictionary,
            codes * norms,
            jnp.abs(codes) > ON,
            self.lam,
            tol=self.tol,
            max_iterations=self.max_iterations,
        )
        return dataclasses.replace(solution, codes=solution.codes / norms)


def code_on_support(
    target: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    codes: Float[Array, "n num_latents"],
    on: Bool[Array, "n num_latents"],
    lam: Float[ArrayLike, "..."],
    **options: Any,
) -> Solution:
    """`argmin_z ½‖y - D z‖² + λ‖z‖₁` over `z ≥ 0`, with `z_j = 0` off the support.

    Args:
      target: what the codes fit, (n, input_dim).
      dictionary: unit atoms, (input_dim, num_latents).
      codes: to start from, (n, num_latents).
      on: the supports, (n, num_latents).
      lam: weight of the l1 norm, a scalar or one for each sample, (n, 1).
      **options: of `sparse_code`, such as `tol`.

    Returns:
      The codes with their objective and gap in the problem on the support.
    """
    weights, init = _restrict(codes, on, jnp.asarray(lam, target.dtype))
    return sparse_code(target, dictionary, weights, init=init, **options)


@jax.jit
def _restrict(codes, on, lam):
    begun = jnp.where(on, codes, 0)
    return jnp.where(on, lam, FORBIDDEN).astype(codes.dtype), begun.clip(0)


class LeastSquares(Encoder):
    """`argmin_z ‖y - b - D z‖²` with `z_j = 0` wherever the encoder has `|z_j| ≤ 1e-4`, then clamped at zero.

    Where many codes are best, as on a support larger than input_dim, it takes the one of least norm, as `numpy.linalg.lstsq`
    does. The clamp comes last, as published, so that the codes are no optimum of anything.

    Args:
      encoder: the encoder whose support it is.

    References:
      Barin Pacela et al. (2026), arXiv:2603.28744.
    """

    name = "least_squares"
    label = "least squares on the own support"
    colour = "#E69F00"
    rank = 11

    encoder: Encoder

    def __check_init__(self):
        check_type("encoder", self.encoder, Encoder, "give the encoder whose support it is")

    @property
    def origin(self):
        return self.encoder

    def __call__(self, model: Model, signals: Float[Array, "n input_dim"]) -> Float[Array, "n num_latents"]:
        return self.infer(model, signals).codes

    def infer(
        self, model: Model, signals: Float[Array, "n input_dim"], begun: Float[Array, "n num_latents"] | None = None
    ) -> Coded:
        """The codes, without a certificate."""
        codes = encode(self.encoder, model, signals) if begun is None else begun
        on = jnp.abs(codes) > ON
        return Coded(least_squares(signals - model.bias, model.decoder, on).clip(0))


@eqx.filter_jit
def least_squares(
    signals: Float[Array, "n input_dim"],
    dictionary: Float[Array, "input_dim num_latents"],
    on: Float[Array, "n num_latents"],
) -> Float[Array, "n num_latents"]:
    r"""The least-norm solution of `min ‖y - D_S z‖` for the support S of each sample.

    With the smaller Gram matrix of the support, `z ← z + (D_SᵀD_S + μI)⁻¹ D_Sᵀ r` or `z ← z + D_Sᵀ (D_S D_Sᵀ + μI)⁻¹ r`, where
    `r = y - D z`, takes out of the residual a share `s² / (s² + μ)` along each singular vector; after `REFINEMENTS` of them the
    regulariser μ, a few roundoffs of the trace, is felt along none but those that the type cannot tell from dependence. In
    float32 that begins at condition numbers of several hundred, which few supports have whose size is not input_dim.

    The time of a sample goes with its support: its atoms are gathered in as many slots as hold it.

    Args:
      signals: (n, input_dim).
      dictionary: (input_dim, num_latents), atoms of any norm; one of zeros counts as off.
      on: (n, num_latents), booleans; the supports.

    Returns:
      (n, num_latents) signed codes, zero off the support.
    """
    input_dim, num_latents = dictionary.shape
    scale = jnp.max(jnp.abs(dictionary))
    scale = jnp.where(scale > 0, scale, 1)
    atoms = dictionary / scale
    on = on & jnp.any(atoms != 0, axis=0)
    most = min(input_dim, num_latents)
    # Half of them, a quarter, …, down to some 16.
    slots = [most >> halvings for halvings in reversed(range(max(1, most.bit_length() - 4)))]

    def beyond(signals, on):
        small = jnp.sum(on, axis=1) <= most
        zeros = jnp.zeros(on.shape, signals.dtype)
        few = jax.lax.cond(jnp.any(small), lambda: _few(signals, on & small[:, None], atoms, most), lambda: zeros)
        return few + _many(signals, on & ~small[:, None], atoms)

    gathered = [functools.partial(_few, atoms=atoms, slots=count) for count in slots]

    def chunk(part):
        width = jnp.searchsorted(jnp.asarray(slots), jnp.max(jnp.sum(part[1], axis=1)))
        return jax.lax.switch(width, [*gathered, beyond], *part)

    size = max(1, min(len(signals), CHUNK // (input_dim * num_latents)))
    count = -(-len(signals) // size)
    spare = ((0, count * size - len(signals)), (0, 0))
    given = [jnp.pad(array, spare) for array in (signals, on)]
    # The work of a chunk follows its largest support, so that supports of like sizes share one.
    order = jnp.argsort(jnp.sum(given[1], axis=1))
    parts = [array[order].reshape(count, size, array.shape[1]) for array in given]
    codes = jax.lax.map(chunk, tuple(parts)).reshape(count * size, num_latents)
    return codes[jnp.argsort(order)[: len(signals)]] / scale


def _few(signals, on, atoms, slots):
    """Supports of at most so many atoms, gathered."""
    chosen = jax.lax.top_k(on.astype(jnp.float32), slots)[1]
    filled = jnp.take_along_axis(on, chosen, axis=1)
    own = jnp.where(filled[:, :, None], atoms.T[chosen], 0)
    gram = jnp.einsum("nwm,nvm->nwv", own, own, precision=jax.lax.Precision.HIGHEST)
    factor = _factor(gram)

    def refine(_, codes):
        rest = signals - jnp.einsum("nw,nwm->nm", codes, own, precision=jax.lax.Precision.HIGHEST)
        pull = jnp.einsum("nm,nwm->nw", rest, own, precision=jax.lax.Precision.HIGHEST)
        return codes + _solve(factor, pull)

    codes = jax.lax.fori_loop(0, REFINEMENTS, refine, jnp.zeros(filled.shape, signals.dtype))
    rows = jnp.arange(len(signals))[:, None]
    return jnp.zeros(on.shape, signals.dtype).at[rows, chosen].set(jnp.where(filled, codes, 0))


def _many(signals, on, atoms):
    """Supports of more atoms than there are dimensions."""
    weights = on.astype(signals.dtype)
    gram = jnp.einsum("nj,mj,lj->nml", weights, atoms, atoms, precision=jax.lax.Precision.HIGHEST, optimize=[(0, 1), (0, 1)])
    factor = _factor(gram)

    def refine(_, codes):
        return codes + weights * product(_solve(factor, signals - product(codes, atoms.T)), atoms)

    return jax.lax.fori_loop(0, REFINEMENTS, refine, jnp.zeros(on.shape, signals.dtype))


def _factor(gram: Float[Array, "n size size"]) -> Float[Array, "n size size"]:
    trace = jnp.trace(gram, axis1=1, axis2=2)
    regulariser = 8 * jnp.finfo(gram.dtype).eps * jnp.where(trace > 0, trace, 1)
    return jnp.linalg.cholesky(gram + regulariser[:, None, None] * jnp.eye(gram.shape[1], dtype=gram.dtype))


def _solve(factor: Float[Array, "n size size"], right: Float[Array, "n size"]) -> Float[Array, "n size"]:
    half = jax.lax.linalg.triangular_solve(factor, right[:, :, None], left_side=True, lower=True)
    return jax.lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)[:, :, 0]
