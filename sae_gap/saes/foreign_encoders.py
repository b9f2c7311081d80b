"""Encoders of published SAEs that the suite itself does not train."""

import equinox as eqx
import jax
import jax.numpy as jnp

from sae_gap.encoders import AmortisedEncoder, keep_largest


class AbsTopK(AmortisedEncoder):
    """The k entries of `p = (y - b) W + c` with the largest magnitude, signed.

    References:
      Zhu et al. (2025), "AbsTopK: rethinking sparse autoencoders for bidirectional features",
      arXiv:2510.00404.
    """

    k: int = eqx.field(static=True)

    @property
    def signed(self):
        return True

    def __call__(self, model, signals):
        hidden = self.preactivations(model, signals)
        return jnp.sign(hidden) * keep_largest(jnp.abs(hidden), self.k)


class BatchLargest(AmortisedEncoder):
    """The k · n largest `relu(p)` of n samples: BatchTopK without an estimated threshold.

    A sample's codes depend on the other samples of its batch.
    """

    k: int = eqx.field(static=True)

    def __call__(self, model, signals):
        hidden = jax.nn.relu(self.preactivations(model, signals))
        return keep_largest(hidden.reshape(1, -1), self.k * len(hidden)).reshape(hidden.shape)
