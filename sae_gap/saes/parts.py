"""An SAE as its files have it, before JAX or PyTorch makes one that infers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from sae_gap.core.normalise import Normalisation

# The most that any other number than k may be, in a dictionary of fewer latents.
MOST = 64
# The files of a finished fit of the suite, and of a dictionary that `learn` learned.
FIT, DICTIONARY = "fit.safetensors", "dictionary.safetensors"


@dataclasses.dataclass(frozen=True)
class Parts:
    """What every library has, in that library's units.

    Of normalised activations x̂ the encoder computes `p = (x̂ - b) W + c` where it is centred, and
    `x̂ W + c` elsewhere, and the decoder `z A + b`.

    Attributes:
      encoder: its row in `ARCHITECTURES`, which says what is done to p; None for a decoder alone.
      options: of that encoder, in their order.
      tensors: A, b and what the encoder has learned, by the names of that table. A decoder alone
        may have no b, and a threshold may be one for all latents.
      library: which wrote it.
      architecture: what that library calls it.
      notes: what a report shows of the file.
      centred: whether the encoder takes b from its input.
      codes_of_unit_atoms: whether the library multiplies p by the lengths of the atoms, and has
        codes of unit atoms then.
      normalisation: of the activations.
      heads: whether activations may come by heads.
      metadata: what a configuration of SAELens says beside.
    """

    encoder: str | None
    options: Mapping[str, Any]
    tensors: Mapping[str, Any]
    library: str
    architecture: str
    notes: Mapping[str, str]
    centred: bool = False
    codes_of_unit_atoms: bool = False
    normalisation: Normalisation = dataclasses.field(default_factory=Normalisation)
    heads: bool = False
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def atoms(self) -> Float[np.ndarray, "num_latents input_dim"]:
        """A, of any lengths."""
        return self.tensors["W_dec"]

    def settled(self, dtype: Any) -> dict[str, Float[np.ndarray, "..."]]:
        """The tensors of the same SAE with an encoder that is centred, `p = y W + c` on the target
        `y = x̂ - b`, whose codes are of its atoms as they are.

        Args:
          dtype: what they are computed in.

        Raises:
          ValueError: a weight overflows on the target.
        """
        held = dict(self.tensors)
        if "W_enc" in held:
            lengths: Any = 1
            if self.codes_of_unit_atoms:
                lengths = np.linalg.norm(self.atoms.astype(np.float64), axis=1)
                held["W_dec"] = self.atoms / np.where(lengths > 0, lengths, 1)[:, None]
            # In double precision, since a bias may be much longer than the codes that it leaves.
            shift: Any = 0
            if not self.centred:
                shift = np.einsum("i,ij->j", held["b_dec"], held["W_enc"], dtype=float)
            gains = {"b_enc": 1, "b_gate": 1, "b_mag": np.exp(held.get("r_mag", 0))}
            for name in gains.keys() & held.keys():
                held[name] = (held[name] + shift * gains[name]) * lengths
            held["W_enc"] = held["W_enc"] * lengths
            if "threshold" in held:
                held["threshold"] = np.broadcast_to(held["threshold"], len(self.atoms))
        with np.errstate(over="ignore", invalid="ignore"):
            held = {name: np.asarray(value).astype(dtype) for name, value in held.items()}
        if not all(np.isfinite(value).all() for value in held.values()):
            # A NaN would be held below every threshold, and read as a latent that is off.
            raise ValueError(
                f"the {self.library} SAE has weights whose products overflow {np.dtype(dtype)}; "
                "train it again."
            )
        return held
