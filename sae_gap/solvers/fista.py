"""Proximal gradient, with momentum (FISTA) or without (ISTA): for a fixed number of steps, as
published, or until certified.

Gradients have the factored form `(y - z Dᵀ) D`, which costs `2 input_dim num_latents` a sample; the
Gram form costs `num_latents²`.
"""

from collections import namedtuple

import jax
import jax.numpy as jnp
from jax.lax import fori_loop, while_loop
from jax.numpy import where

from sae_gap.core import Solution
from sae_gap.core.lasso_problem import (
    certificate,
    expand_lam,
    is_converged,
    lipschitz,
    product,
    residual,
    soft_threshold,
)

# A certificate costs four products and an iteration two, so at ten iterations a check certificates
# stay under a fifth.
CHECK_EVERY = 10


# Iterates of the certified solver, by sample: a code is `anchor + step`, and `base` is the residual
# of the anchor. Near its optimum a code moves by less than its own roundoff. `step` and `base` keep
# those movements; without them float32 could not certify a small weight.
_State = namedtuple(
    "_State", "anchor step previous base momentum objective gap iterations active"
)


def _next_momentum(momentum):
    return 0.5 * (1 + jnp.sqrt(1 + 4 * momentum**2))


def step_size(dictionary):
    """`1 / ‖D‖₂²` of a dictionary, (input_dim, num_latents); 1 for zeros, without a gradient."""
    constant = lipschitz(dictionary)
    return (1 / where(constant > 0, constant, 1)).astype(dictionary.dtype)


def _shifted_prox(anchor, values, threshold, *, nonneg):
    """`soft_threshold(anchor + values) - anchor`, without rounding `values` to the precision of
    `anchor`.
    """
    total = anchor + values
    moved = where(total > threshold, values - threshold, -anchor)
    if nonneg:
        return moved
    return where(total < -threshold, values + threshold, moved)


def fixed(signals, dictionary, lam, init, *, iterations, nonneg=True, momentum=True):
    """Exactly `iterations` steps of textbook FISTA, converged or not.

    With step `1 / ‖D‖₂²` and `t_0 = 1`: `z_{i+1} = prox(x_i - step grad(x_i))`,
    `t_{i+1} = (1 + √(1 + 4 t_i²)) / 2`, `x_{i+1} = z_{i+1} + (t_i - 1) / t_{i+1} (z_{i+1} - z_i)`.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`.
      lam: scalar, `(n,)` or broadcasting to `(n, num_latents)`.
      init: `(n, num_latents)` codes to start from.
      iterations: number of steps; may be traced.
      nonneg: whether codes are constrained to be non-negative.
      momentum: False gives ISTA, `x_i = z_i`.

    Returns:
      `(n, num_latents)` codes.

    References:
      Beck & Teboulle (2009), "A fast iterative shrinkage-thresholding algorithm", SIAM J. Imaging
      Sciences 2(1). Daubechies, Defrise & De Mol (2004), "An iterative thresholding algorithm for
      linear inverse problems", CPAM 57(11).
    """
    lam = expand_lam(lam)
    rate = step_size(dictionary)

    def body(_, carry):
        codes, point, t = carry
        pull = product(residual(signals, dictionary, point), dictionary)
        new = soft_threshold(point + rate * pull, rate * lam, nonneg=nonneg)
        t_new = _next_momentum(t) if momentum else t
        return new, new + (t - 1) / t_new * (new - codes), t_new

    return fori_loop(0, iterations, body, (init, init, jnp.ones((), signals.dtype)))[0]


def solve(
    signals,
    dictionary,
    lam,
    init,
    *,
    tol,
    max_iterations,
    nonneg=True,
    momentum=True,
):
    """FISTA with a restart and a stopping time for each sample, stopped by the certified duality
    gap.

    Momentum is dropped whenever it points uphill, `(x_i - z_{i+1}) · (z_{i+1} - z_i) > 0`. Every
    `CHECK_EVERY` iterations the gap is computed, and samples that meet `tol` stop. Nothing is
    checked on the host, so this may be called inside any transformation of JAX except reverse-mode
    differentiation, for which see `sae_gap.solvers.sparse_code`.

    Args:
      signals: `(n, input_dim)`.
      dictionary: `(input_dim, num_latents)`.
      lam: scalar, `(n,)` or broadcasting to `(n, num_latents)`.
      init: `(n, num_latents)` codes to start from.
      tol: duality gap to reach, relative to the objective.
      max_iterations: iterations before it gives up on a sample, rounded up to the next check.
      nonneg: whether codes are constrained to be non-negative.
      momentum: False gives ISTA.

    Returns:
      A `Solution`; samples that ran out of iterations have `converged` false.

    References:
      O'Donoghue & Candès (2015), "Adaptive restart for accelerated gradient schemes", Found.
      Comput. Math. 15.
    """
    num_samples = len(signals)
    lam = expand_lam(lam)
    rate = step_size(dictionary)
    threshold = rate * lam

    def iterate(_, carry):
        anchor, step, previous, base, t = carry
        t_new = _next_momentum(t) if momentum else t
        point = step + ((t - 1) / t_new)[:, None] * (step - previous)
        pull = product(base - product(point, dictionary.T), dictionary)
        new = _shifted_prox(anchor, point + rate * pull, threshold, nonneg=nonneg)
        uphill = jnp.sum((point - new) * (new - step), axis=1) > 0
        return anchor, new, step, base, where(uphill, 1, t_new)

    def check(anchor, step, previous, base, momentum, *, done):
        theta = base - product(step, dictionary.T)
        codes = anchor + step
        moved = codes - anchor
        step = step - moved
        value, gap = certificate(
            signals, dictionary, codes, lam, nonneg=nonneg, dual=theta
        )
        return _State(
            anchor=codes,
            step=step,
            previous=previous - moved,
            base=theta + product(step, dictionary.T),
            momentum=momentum,
            objective=value,
            gap=gap,
            iterations=jnp.full(num_samples, done, jnp.int32),
            # A quarter of the tolerance, so that a gap recomputed from the rounded codes still
            # meets it; a NaN stops at once.
            active=jnp.isfinite(gap) & ~is_converged(signals, value, gap, 0.25 * tol),
        )

    def block(carry):
        done, state = carry
        new = check(
            *fori_loop(0, CHECK_EVERY, iterate, state[:5]), done=done + CHECK_EVERY
        )

        def move(new, old):
            return where(state.active.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        return done + CHECK_EVERY, jax.tree.map(move, new, state)

    zeros = jnp.zeros_like(init)
    first = check(
        init,
        zeros,
        zeros,
        residual(signals, dictionary, init),
        jnp.ones(num_samples, signals.dtype),
        done=0,
    )

    def unfinished(carry):
        done, state = carry
        return (done < max_iterations) & jnp.any(state.active)

    _, last = while_loop(unfinished, block, (jnp.int32(0), first))
    converged = is_converged(signals, last.objective, last.gap, tol)
    return Solution(last.anchor, last.objective, last.gap, last.iterations, converged)
