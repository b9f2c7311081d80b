"""The encoders of published SAEs: each as its library has it, in the library's units, with codes that are on unit atoms.

A library ranks and compares codes in units of its own atoms. So the affine map and the thresholds stay as they are on disk, and
the codes that come out are multiplied by the lengths of the atoms.
"""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Affine, Encoder
from sae_gap.encoders.topk import keep_largest


class ForeignParameters(eqx.Module):
    """What a published encoder has learned.

    Attributes:
      affine: `p = y W + c` of the target y; None for an encoder without one.
      scale: the library's codes, times this, are on unit atoms.
      others: vectors by name, such as a threshold.
    """

    affine: Affine | None
    scale: Float[Array, " num_latents"]
    others: dict[str, Float[Array, " num_latents"]] = eqx.field(default_factory=dict)


class ForeignEncoder(Encoder):
    """`activate(y W + c)` in the library's units, times the scale. Subclasses define `activate`."""

    # What SAELens calls it, None where it has no encoder like it.
    architecture: ClassVar[str | None] = None

    def __call__(self, model: Model, signals: Float[Array, "n input_dim"]) -> Float[Array, "n num_latents"]:
        return self.activate(model.encoder.affine(signals), model.encoder.others) * model.encoder.scale

    def activate(
        self, hidden: Float[Array, "n num_latents"], others: dict[str, Float[Array, " num_latents"]]
    ) -> Float[Array, "n num_latents"]:
        """The codes of the pre-activations p, in the library's units, with what else was learned."""
        raise NotImplementedError

    def exported(self, model: Model) -> tuple[str, dict[str, Any], dict[str, Array]] | None:
        """As `Encoder.exported`, on atoms of the library's lengths."""
        if self.architecture is None:
            return None
        affine, atoms = model.encoder.affine, model.decoder.T * model.encoder.scale[:, None]
        options = {"k": self.k, "rescale_acts_by_decoder_norm": False} if hasattr(self, "k") else {}
        tensors = {"W_enc": affine.weight, "b_enc": affine.bias, "W_dec": atoms}
        return self.architecture, options, tensors | model.encoder.others


class Rectified(ForeignEncoder):
    """`relu(p)`."""

    architecture = "standard"

    def activate(self, hidden, others):
        return jax.nn.relu(hidden)


class Threshold(ForeignEncoder):
    """`p · 1[p > max(θ, 0)]`: JumpReLU with thresholds as they are, which may be negative. BatchTopK infers like this too."""

    architecture = "jumprelu"

    def activate(self, hidden, others):
        return jnp.where(hidden > jnp.maximum(others["threshold"], 0), hidden, 0)


class LargestK(ForeignEncoder):
    """The k largest `relu(p)` of a sample."""

    architecture = "topk"
    k: int = eqx.field(static=True)

    def activate(self, hidden, others):
        return keep_largest(jax.nn.relu(hidden), self.k)


class AbsTopK(ForeignEncoder):
    """The k entries of p of largest magnitude, with their signs.

    References:
      Zhu et al. (2025), "AbsTopK: rethinking sparse autoencoders for bidirectional features", arXiv:2510.00404.
    """

    architecture = "abstopk"
    k: int = eqx.field(static=True)

    @property
    def signed(self):
        return True

    def activate(self, hidden, others):
        return jnp.sign(hidden) * keep_largest(jnp.abs(hidden), self.k)


class GroupMax(ForeignEncoder):
    """The largest `relu(p)` in each of k consecutive groups of latents of one size."""

    k: int = eqx.field(static=True)

    def activate(self, hidden, others):
        groups = jax.nn.relu(hidden).reshape(len(hidden), self.k, -1)
        chosen = jnp.argmax(groups, axis=2, keepdims=True) == jnp.arange(groups.shape[2])
        return jnp.where(chosen, groups, 0).reshape(hidden.shape)


class BatchLargest(ForeignEncoder):
    """The k · n largest `relu(p)` of n samples: BatchTopK whose threshold was never estimated.

    A sample's codes depend on the other samples of its batch.
    """

    k: int = eqx.field(static=True)

    def activate(self, hidden, others):
        return keep_largest(jax.nn.relu(hidden).reshape(1, -1), self.k * len(hidden)).reshape(hidden.shape)


class GateAndMagnitude(ForeignEncoder):
    """`1[p + a > 0] · relu(p exp(r) + b)`: the gate's bias a, the magnitude's bias b and its log scale r."""

    architecture = "gated"

    def activate(self, hidden, others):
        magnitude = jax.nn.relu(hidden * jnp.exp(others["r_mag"]) + others["b_mag"])
        return jnp.where(hidden + others["b_gate"] > 0, magnitude, 0)

    def exported(self, model):
        affine, others = model.encoder.affine, model.encoder.others
        # SAELens has no third bias: what the target's shift adds to p goes into both.
        gate, magnitude = others["b_gate"] + affine.bias, others["b_mag"] + affine.bias * jnp.exp(others["r_mag"])
        tensors = {"W_enc": affine.weight, "b_gate": gate, "b_mag": magnitude, "r_mag": others["r_mag"]}
        return self.architecture, {}, tensors | {"W_dec": model.decoder.T * model.encoder.scale[:, None]}


class RepeatingPursuit(ForeignEncoder):
    """Matching pursuit that is non-negative and may choose an atom again, which then adds to its code.

    Each round takes the atom `a` of the largest `r · a`, adds `relu(r · a)` to its code and takes `relu(r · a) a` from the
    residual r. The atoms have the lengths that they have on disk.

    Args:
      rounds: the most that a sample takes.
      residual: a sample stops once ‖r‖ is below this; 0 or less never stops it.
      stop_on_repeat: whether a sample stops after a round that brings no new atom.

    References:
      Costa et al. (2025), "From Flat to Hierarchical: Extracting Sparse Representations with Matching Pursuit".
    """

    architecture = "matching_pursuit"
    rounds: int = eqx.field(static=True)
    residual: float = eqx.field(static=True, default=0.0)
    stop_on_repeat: bool = eqx.field(static=True, default=True)

    def __call__(self, model, signals):
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

    def exported(self, model):
        options = {"max_iterations": self.rounds, "residual_threshold": self.residual}
        tensors = {"W_dec": model.decoder.T * model.encoder.scale[:, None]}
        return self.architecture, options | {"stop_on_duplicate_support": self.stop_on_repeat}, tensors
