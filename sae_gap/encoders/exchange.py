"""Encoders that search for the best k atoms: exchanges of atoms, restarts of these, the largest
support on the lasso's path, and the better of two codes for each sample.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.core.lasso_problem import product
from sae_gap.core.options import option
from sae_gap.core.types import Coded
from sae_gap.encoders.encoder import Encoder, Inferring, on_unit_atoms
from sae_gap.solvers import exchange_pursuit, sparse_code

# The weights on the lasso's path, from λ_max down, are powers of this ratio.
RATIO, STEPS = 0.85, 30


class Exchange(Inferring):
    """Least squares over `z ≥ 0` on at most k atoms a sample, which `exchange_pursuit` exchanges
    until no exchange gains: a local optimum. It runs on the host, not within `jit`.

    Args:
      k: atoms in each code, at most input_dim.
      of: the encoder whose supports, of at most k atoms, it starts from; None takes orthogonal
        pursuit with a refit over `z ≥ 0` after each step.
      exchanges: False returns the start.
    """

    listed = False

    k: int = option(default=10)
    of: Encoder | None = None
    exchanges: bool = option(default=True)

    @property
    def origin(self):
        return self.of

    def infer(self, model, signals, begun=None):
        if self.of is not None and begun is None:
            begun = self.of.infer(model, signals).codes
        target, atoms, norms = on_unit_atoms(model, signals)
        start = None if begun is None else np.asarray(begun)
        found = exchange_pursuit(target, atoms, self.k, start=start, exchanges=self.exchanges)
        return Coded(jnp.asarray(found.toarray()) / norms)


class LassoPath(Inferring):
    """The certified lasso's codes of at most k atoms at the smallest of the weights `λ_max qˢ`,
    with s up to a number of steps and each sample's own λ_max.

    Supports grow along the path, with few exceptions, so a bisection finds the step.

    Args:
      k: atoms in each code, at most.
      ratio: q.
      steps: the last s.
    """

    name = "lasso_path"
    label = "lasso of at most k atoms"
    colour = "#000000"
    rank = 14

    k: int = option(default=10)
    ratio: float = option(default=RATIO, above=0, below=1)
    steps: int = option(default=STEPS)

    def infer(self, model, signals, begun=None):
        target, atoms, norms = on_unit_atoms(model, signals)
        top = largest(target, atoms)

        def solve(step, init=None):
            return sparse_code(target, atoms, top * self.ratio ** step[:, None], init=init)

        first = jnp.zeros(len(target), int)
        last, best = first + self.steps + 1, solve(first)
        for _ in range(self.steps.bit_length()):
            middle = (first + last) // 2
            found = solve(middle, best.codes)
            fine = jnp.sum(found.codes > 0, axis=1) <= self.k
            first, last = jnp.where(fine, middle, first), jnp.where(fine, last, middle)
            choose = functools.partial(jax.vmap(jnp.where), fine)
            best = jax.tree.map(choose, found, best)
        return dataclasses.replace(best, codes=best.codes / norms)


class BestOf(Inferring):
    """Takes for each sample the codes of the encoder with the smaller squared error."""

    listed = False

    one: Encoder
    other: Encoder

    @property
    def origins(self):
        return self.one, self.other

    def infer(self, model, signals, begun=None, beside=None):
        if beside is None:
            begun, beside = (each.infer(model, signals).codes for each in self.origins)
        return Coded(_better(model, signals, begun, beside))


class Restarted(Inferring):
    """Searches again near the codes of an encoder: leaves half of their atoms out, at random, goes
    on from the rest by exchanges, and keeps the codes with the smaller squared error.

    Args:
      k: atoms in each code, at most.
      of: the encoder, whose codes have at most k atoms.
      restarts: how often it starts again.
    """

    listed = False

    k: int
    of: Encoder
    restarts: int = 5

    @property
    def origin(self):
        return self.of

    def infer(self, model, signals, begun=None):
        best = self.of.infer(model, signals).codes if begun is None else begun
        # All samples share the draws, so that none depends on those beside it.
        draws = np.random.default_rng(0).random((self.restarts, best.shape[1]))
        for kept in draws < 0.5:
            found = Exchange(self.k, self.of).infer(model, signals, jnp.where(kept, best, 0))
            best = _better(model, signals, best, found.codes)
        return Coded(best)


def largest(target, atoms):
    """Returns each sample's λ_max, (n, 1); a small number if it correlates with no atom."""
    return jnp.maximum(product(target, atoms).max(axis=1, keepdims=True), 1e-9)


def _better(model, signals, one, other):
    """Returns for each sample the codes with the smaller squared error."""
    rest = [signals - model.bias - product(z, model.decoder.T) for z in (one, other)]
    errors = [jnp.sum(each**2, axis=1, keepdims=True) for each in rest]
    return jnp.where(errors[0] <= errors[1], one, other)
