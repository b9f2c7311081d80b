"""Encoders that look for the best k atoms: exchanges of atoms, the largest support on the lasso's
path, and the better of two codes, sample by sample.
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

# The weights of the lasso's path, from λ_max down, as powers of this.
RATIO, STEPS = 0.85, 30


class Exchange(Inferring):
    """Least squares over `z ≥ 0` on at most k atoms a sample, which exchanges choose until none
    gains, as `exchange_pursuit` has it: a local optimum. It runs on the host, not within `jit`.

    Args:
      k: atoms in each code, at most input_dim.
      of: whose supports, of at most k atoms, it begins with; None takes orthogonal pursuit, which
        refits over `z ≥ 0` after each step.
      exchanges: False ends with what it begins with.
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
    with s up to a number of steps and the λ_max of each sample.

    Supports grow along the path, up to few exceptions, so that halves of it find the step.

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
    """The codes of the one or the other encoder, whichever have the smaller squared error in a
    sample.
    """

    listed = False

    one: Encoder
    other: Encoder

    @property
    def origins(self):
        return self.one, self.other

    def infer(self, model, signals, begun=None, beside=None):
        if beside is None:
            begun, beside = (each.infer(model, signals).codes for each in self.origins)
        rest = [signals - model.bias - product(z, model.decoder.T) for z in (begun, beside)]
        one, other = (jnp.sum(each**2, axis=1, keepdims=True) for each in rest)
        return Coded(jnp.where(one <= other, begun, beside))


def largest(target, atoms):
    """λ_max of each sample, (n, 1); of one that correlates with no atom, some number above zero."""
    return jnp.maximum(product(target, atoms).max(axis=1, keepdims=True), 1e-9)
