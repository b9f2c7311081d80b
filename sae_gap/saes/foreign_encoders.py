"""The encoders of published SAEs that the suite does not train: each as a library has it, on unit atoms.

A library ranks and compares codes in units of its own atoms. Where a positive scale for each latent leaves the outcome as it
is, the parameters are scaled; where it does not, the encoder works in the library's units and scales the codes that it found.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Affine, Encoder
from sae_gap.encoders.topk import keep_largest


class ThresholdParameters(eqx.Module):
    """The affine map and each latent's threshold θ."""

    affine: Affine
    threshold: Float[Array, " num_latents"]


class RankedParameters(eqx.Module):
    """The affine map gives codes in the library's units; times `scale`, they are on unit atoms."""

    affine: Affine
    scale: Float[Array, " num_latents"]


class PursuitParameters(eqx.Module):
    """The lengths of the library's atoms; its codes, times these, are on unit atoms."""

    scale: Float[Array, " num_latents"]


class Threshold(Encoder):
    """`z = p · 1[p > max(θ, 0)]` with `p = y W + c`: JumpReLU with thresholds as they are, of which none need be positive.

    BatchTopK infers in this way too.
    """

    def __call__(self, model, signals):
        hidden = jax.nn.relu(model.encoder.affine(signals))
        return jnp.where(hidden > model.encoder.threshold, hidden, 0)


class RankedTopK(Encoder):
    """The k largest `relu(y W + c)` of a sample, ranked in the library's units."""

    k: int = eqx.field(static=True)

    def __call__(self, model, signals):
        return keep_largest(jax.nn.relu(model.encoder.affine(signals)), self.k) * model.encoder.scale


class AbsTopK(Encoder):
    """The k entries of `y W + c` of largest magnitude, with their signs.

    References:
      Zhu et al. (2025), "AbsTopK: rethinking sparse autoencoders for bidirectional features", arXiv:2510.00404.
    """

    k: int = eqx.field(static=True)

    @property
    def signed(self):
        return True

    def __call__(self, model, signals):
        hidden = model.encoder.affine(signals)
        return jnp.sign(hidden) * keep_largest(jnp.abs(hidden), self.k) * model.encoder.scale


class GroupMax(Encoder):
    """The largest `relu(y W + c)` in each of k consecutive groups of latents of one size."""

    k: int = eqx.field(static=True)

    def __call__(self, model, signals):
        hidden = jax.nn.relu(model.encoder.affine(signals))
        groups = hidden.reshape(len(hidden), self.k, -1)
        chosen = jnp.argmax(groups, axis=2, keepdims=True) == jnp.arange(groups.shape[2])
        return jnp.where(chosen, groups, 0).reshape(hidden.shape) * model.encoder.scale


class BatchLargest(Encoder):
    """The k · n largest `relu(y W + c)` of n samples: BatchTopK whose threshold was never estimated.

    A sample's codes depend on its company.
    """

    k: int = eqx.field(static=True)

    def __call__(self, model, signals):
        hidden = jax.nn.relu(model.encoder.affine(signals))
        return keep_largest(hidden.reshape(1, -1), self.k * len(hidden)).reshape(hidden.shape) * model.encoder.scale


class RepeatingPursuit(Encoder):
    """Matching pursuit that is non-negative and may choose an atom again, which then adds to its code.

    Each round takes the atom `a` of the largest `r · a`, adds `relu(r · a)` to its code and takes `relu(r · a) a` from the
    residual r. The atoms are taken at the lengths that they have, not at unit length.

    Args:
      rounds: the most that a sample takes.
      residual: a sample stops once ‖r‖ is below this; 0 or less never stops it.
      stop_on_repeat: whether a sample stops after a round that brings no new atom.

    References:
      Costa et al. (2025), "From Flat to Hierarchical: Extracting Sparse Representations with Matching Pursuit".
    """

    rounds: int = eqx.field(static=True)
    residual: float = eqx.field(static=True, default=0.0)
    stop_on_repeat: bool = eqx.field(static=True, default=True)

    def __call__(self, model: Model, signals: Float[Array, "n input_dim"]) -> Float[Array, "n num_latents"]:
        scale = model.encoder.scale
        atoms = (model.decoder * scale).T
        rows = jnp.arange(len(signals))

        def unfinished(state):
            return (state[0] < self.rounds) & ~jnp.all(state[3])

        def step(state):
            count, residual, codes, done = state
            chosen = jnp.argmax(residual @ atoms.T, axis=1)
            atom = atoms[chosen]
            value = jnp.where(done, 0, jax.nn.relu(jnp.sum(residual * atom, axis=1)))
            old = codes[rows, chosen]
            codes = codes.at[rows, chosen].add(value)
            residual = residual - value[:, None] * atom
            if self.stop_on_repeat:
                # The support grows by the chosen atom or not at all.
                done = done | ((old != 0) == (old + value != 0))
            if self.residual > 0:
                done = done | (jnp.linalg.norm(residual, axis=1) < self.residual)
            return count + 1, residual, codes, done

        codes = jnp.zeros((len(signals), len(atoms)), signals.dtype)
        start = (0, signals, codes, jnp.zeros(len(signals), bool))
        return jax.lax.while_loop(unfinished, step, start)[2] * scale
