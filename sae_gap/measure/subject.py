"""What is measured: a dictionary of unit atoms, with what it fits, how it decodes and, if there is one, its encoder."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from sae_gap.core.types import Model
from sae_gap.encoders.encoder import as_floats, check_model, unit_atoms
from sae_gap.saes.loaded_sae import SAE


@dataclasses.dataclass(frozen=True)
class Subject:
    """A dictionary and how it is used on activations x, (n, input_dim) in their own units.

    Attributes:
      name: what rows and figures call it.
      dictionary: unit or zero atoms, (input_dim, num_latents).
      target: x to what codes fit, `y ≈ D z`, (n, input_dim): normalised where the SAE does so, less what the decoder adds.
      decode: codes on the unit atoms, and x, to the reconstruction in the units of x.
      encode: `target(x)` to the encoder's codes on the unit atoms; None where there is a decoder alone.
      signed: whether codes may be negative, so that the optimum is over signed codes too.
      role: "sae", "dictionary" for a decoder alone, or "control".
      identity: a digest of its numbers, which tells what was measured of it from what was measured of others.
    """

    name: str
    dictionary: Float[Array, "input_dim num_latents"]
    target: Callable[[Float[np.ndarray, "n input_dim"]], Float[Array, "n input_dim"]]
    decode: Callable[[Float[Array, "n num_latents"], Float[np.ndarray, "n input_dim"]], Float[Array, "n input_dim"]]
    encode: Callable[[Float[Array, "n input_dim"]], Float[Array, "n num_latents"]] | None = None
    signed: bool = False
    role: str = "sae"
    identity: str = ""

    @property
    def num_latents(self) -> int:
        """Number of atoms."""
        return self.dictionary.shape[1]

    @property
    def input_dim(self) -> int:
        """Dimension of the atoms."""
        return self.dictionary.shape[0]

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of rows that tell the subject."""
        sizes = {"num_latents": self.num_latents, "input_dim": self.input_dim}
        return {"dictionary": self.name, "role": self.role} | sizes


def of_model(name: str, model: Model) -> Subject:
    """A model of the suite, with atoms of any length: it fits `x - bias`, and codes are rescaled to unit atoms.

    Args:
      name: what to call it.
      model: with a dictionary; its `encode` may be None.

    Returns:
      The subject.

    Raises:
      ValueError: the model has no dictionary, or a part of it does not fit or is not finite.
    """
    check_model(model)
    dictionary, norms = unit_atoms(as_floats("the dictionary", model.decoder))
    bias = as_floats("bias", model.bias)
    live = jnp.any(dictionary != 0, axis=0)
    own = model.encode

    def infer(target: Float[ArrayLike, "n input_dim"]) -> Float[Array, "n num_latents"]:
        # An encoder of the suite subtracts the bias itself.
        signals = jnp.asarray(target) + bias
        codes = own(model, signals) if not hasattr(own, "infer") else own.infer(model, signals).codes  # type: ignore[misc, union-attr]
        # The code of a zero atom says nothing.
        return jnp.where(live, codes * norms, 0)

    return Subject(
        name=name,
        dictionary=dictionary,
        target=lambda x: jnp.asarray(x) - bias,
        decode=lambda codes, x: codes @ dictionary.T + bias,
        encode=None if own is None else infer,
        signed=bool(getattr(own, "signed", False)),
        role="dictionary" if own is None else "sae",
        identity=_identity(model),
    )


def of_sae(name: str, sae: SAE) -> Subject:
    """An SAE of another library, as `sae_gap.load_sae` reads it.

    Args:
      name: what to call it.
      sae: with its own normalisation, which `target` applies and `decode` undoes.

    Returns:
      The subject.
    """
    return Subject(
        name=name,
        dictionary=sae.model.decoder,
        target=sae.target,
        decode=lambda codes, x: sae.decode(jnp.asarray(codes) / sae.scale, x),
        encode=lambda target: jnp.where(sae.lengths > 0, sae.encode_target(jnp.asarray(target)), 0),
        signed=bool(getattr(sae.model.encode, "signed", False)),
        identity=_identity(sae),
    )


def digest(arrays: Iterable[Any]) -> str:
    """Sixteen hexadecimal digits that tell arrays from others, by their shapes and bytes."""
    found = hashlib.sha256()
    for array in map(np.asarray, arrays):
        found.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:16]


def _identity(tree: PyTree) -> str:
    # What is static, such as the k of an encoder, stands in the structure; an address in memory says nothing.
    structure = re.sub(r" at 0x[0-9a-f]+", "", str(jax.tree.structure(tree)))
    return digest([*jax.tree.leaves(tree), np.frombuffer(structure.encode(), np.uint8)])
