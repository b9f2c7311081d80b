"""The encoder of a given model."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from sae_gap.core import Coded, Model, class_name, describe
from sae_gap.encoders import Affine, Encoder


def _nothing(*_):
    """Stands in for `affine` and `flops` of a function, which has neither: returns None."""


class Own(Encoder):
    """Returns the codes of a given model's own encoder. The code of a zero atom, which reconstructs
    nothing, becomes zero.

    Args:
      encoder: the model's, or a function `(model, signals) -> codes`.
    """

    listed = False
    label = "own codes"
    colour = "#000000"
    rank = 0

    encoder: Any = eqx.field(static=True)

    @property
    def reads_inputs(self):  # type: ignore[override]
        return getattr(self.encoder, "reads_inputs", True)

    @property
    def signed(self):
        return bool(getattr(self.encoder, "signed", False))

    def described(self) -> dict[str, Any]:
        """The encoder, which decides the codes together with the model; functions are told apart by
        the model's digest.
        """
        encoder = (
            describe(self.encoder)
            if isinstance(self.encoder, Encoder)
            else "a function"
        )
        return {"class": class_name(type(self)), "encoder": encoder}

    def affine(self, model: Model) -> Affine | None:
        """The map of `y - b` whose largest outputs are the codes; None if none decides them."""
        return getattr(self.encoder, "affine", _nothing)(model)

    def flops(self, input_dim, num_latents):
        return getattr(self.encoder, "flops", _nothing)(input_dim, num_latents)

    def __call__(self, model, signals):
        codes = self.encoder(model, signals)
        if model.dictionary is None:
            return codes
        return jnp.where(jnp.any(model.decoder != 0, axis=0), codes, 0)

    def infer(self, model, signals, begun=None):
        if isinstance(self.encoder, Encoder):
            return super().infer(model, signals, begun)
        # JAX may be unable to compile a user's function.
        return Coded(jnp.asarray(self(model, np.asarray(signals))))
