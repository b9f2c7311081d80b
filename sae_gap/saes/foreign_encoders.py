"""Encoders of published SAEs that the suite itself does not train."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from equinox import field
from jax.nn import relu
from jaxtyping import Array, Bool, Float

from sae_gap.core import Model
from sae_gap.encoders import AmortisedEncoder, Encoder, keep_largest

Signals = Float[Array, "n input_dim"]


class AbsTopK(AmortisedEncoder):
    """The k entries of `p = (y - b) W + c` with the largest magnitude, signed.

    References:
      Zhu et al. (2025), "AbsTopK: rethinking sparse autoencoders for bidirectional features",
      arXiv:2510.00404.
    """

    k: int = field(static=True)

    signed = True

    def __call__(self, model: Model, signals: Signals) -> Array:
        hidden = self.preactivations(model, signals)
        return jnp.sign(hidden) * keep_largest(jnp.abs(hidden), self.k)


class GroupMax(AmortisedEncoder):
    """The largest `relu(p)` in each of k consecutive groups of latents of equal size."""

    k: int = field(static=True)

    def __call__(self, model: Model, signals: Signals) -> Array:
        hidden = relu(self.preactivations(model, signals))
        groups = hidden.reshape(len(hidden), self.k, -1)
        chosen = jnp.argmax(groups, 2, keepdims=True) == jnp.arange(groups.shape[2])
        return jnp.where(chosen, groups, 0).reshape(hidden.shape)


class BatchLargest(AmortisedEncoder):
    """The k · n largest `relu(p)` of n samples: BatchTopK without an estimated threshold.

    A sample's codes depend on the other samples of its batch.
    """

    k: int = field(static=True)

    def __call__(self, model: Model, signals: Signals) -> Array:
        hidden = relu(self.preactivations(model, signals))
        kept = keep_largest(hidden.reshape(1, -1), self.k * len(hidden))
        return kept.reshape(hidden.shape)


class _State(NamedTuple):
    """A matching pursuit after some rounds.

    Attributes:
      rounds: how many.
      residual: what is left of each sample.
      codes: those so far.
      done: which samples have stopped.
    """

    rounds: Any
    residual: Signals
    codes: Float[Array, "n num_latents"]
    done: Bool[Array, " n"]


class RepeatingPursuit(Encoder):
    """Non-negative matching pursuit that may choose an atom again, which then adds to its code.

    Each round takes the atom `a` with the largest `r · a`, adds `relu(r · a)` to its code and
    subtracts `relu(r · a) a` from the residual r. The atoms keep their lengths on disk.

    Args:
      rounds: rounds at most for a sample.
      residual: a sample stops once ‖r‖ is below this; with 0 or less it never does.
      stop_on_repeat: whether a sample stops after a round without a new atom.

    References:
      Costa et al. (2025), "From Flat to Hierarchical: Extracting Sparse Representations with
      Matching Pursuit".
    """

    rounds: int = field(static=True)
    residual: float = field(static=True)
    stop_on_repeat: bool = field(static=True)

    def __call__(self, model: Model, signals: Signals) -> Array:
        atoms = model.decoder.T
        rows = jnp.arange(len(signals))

        def unfinished(state: _State) -> Array:
            return (state.rounds < self.rounds) & ~jnp.all(state.done)

        def step(state: _State) -> _State:
            chosen = jnp.argmax(state.residual @ atoms.T, axis=1)
            atom = atoms[chosen]
            value = relu(jnp.sum(state.residual * atom, axis=1))
            value = jnp.where(state.done, 0, value)
            before = state.codes[rows, chosen]
            residual = state.residual - value[:, None] * atom
            done = state.done
            if self.stop_on_repeat:
                # A round adds the chosen atom to the support or changes nothing.
                done = done | ((before != 0) == (before + value != 0))
            done = done | (jnp.linalg.norm(residual, axis=1) < self.residual)
            codes = state.codes.at[rows, chosen].add(value)
            return _State(state.rounds + 1, residual, codes, done)

        start = _State(
            0,
            signals - model.bias,
            jnp.zeros((len(signals), len(atoms)), signals.dtype),
            jnp.zeros(len(signals), bool),
        )
        return jax.lax.while_loop(unfinished, step, start).codes
