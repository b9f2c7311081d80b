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
      encoder: what is done to p: standard, topk, abstopk, jumprelu, gated, matching_pursuit and
        sae_gap_pursuit as SAELens calls them, groupmax or batch_largest; None for a decoder alone.
      options: of that encoder, by SAELens's names and in their order.
      atoms: A, of any lengths, (num_latents, input_dim).
      bias: b, what the decoder adds, (input_dim,); None where the file of a decoder has none.
      weight: W, (input_dim, num_latents); None for an encoder without one.
      encoder_bias: c, (num_latents,); None for zeros.
      centred: whether the encoder takes b from its input.
      others: what else the encoder has learned, a number for each latent or one for all.
      codes_of_unit_atoms: whether the library multiplies p by the lengths of the atoms, and has
        codes of unit atoms then.
      normalisation: of the activations.
      library: which wrote it.
      architecture: what that library calls it.
      heads: whether activations may come by heads.
      notes: what a report shows of the file.
      metadata: what a configuration of SAELens says beside.
    """

    encoder: str | None
    options: Mapping[str, Any]
    atoms: Float[np.ndarray, "num_latents input_dim"]
    bias: Float[np.ndarray, " input_dim"] | None
    weight: Float[np.ndarray, "input_dim num_latents"] | None
    library: str
    architecture: str
    notes: Mapping[str, str]
    encoder_bias: Float[np.ndarray, " num_latents"] | None = None
    centred: bool = False
    others: Mapping[str, Float[np.ndarray, "..."] | float] = dataclasses.field(default_factory=dict)
    codes_of_unit_atoms: bool = False
    normalisation: Normalisation = dataclasses.field(default_factory=Normalisation)
    heads: bool = False
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def settled(self, dtype: Any) -> "Parts":
        """The same SAE with an encoder that is centred, `p = y W + c` on the target `y = x̂ - b`,
        whose codes are of its atoms as they are.

        Args:
          dtype: what it is computed in.

        Raises:
          ValueError: a bias overflows on the target.
        """
        if self.weight is None or self.bias is None:
            return self
        lengths, atoms = np.ones(len(self.atoms)), self.atoms
        if self.codes_of_unit_atoms:
            lengths = np.linalg.norm(atoms.astype(np.float64), axis=1)
            atoms = (atoms / np.where(lengths > 0, lengths, 1)[:, None]).astype(dtype)
        # In double precision, since a bias may be much longer than the codes that it leaves.
        shift = 0 if self.centred else np.einsum("i,ij->j", self.bias, self.weight, dtype=float)
        bias = (shift + (0 if self.encoder_bias is None else self.encoder_bias)) * lengths
        others: dict[str, Any] = dict(self.others)
        if self.encoder == "gated":
            others["b_mag"] = others["b_mag"] + bias * np.exp(others["r_mag"])
            bias = bias + others.pop("b_gate")
        held = {"W": self.weight * lengths, "c": bias} | others
        shape = {"c": lengths.shape, "threshold": lengths.shape}
        with np.errstate(over="ignore", invalid="ignore"):
            held = {
                name: np.broadcast_to(value, shape.get(name, np.shape(value))).astype(dtype)
                for name, value in held.items()
            }
        if not all(np.isfinite(value).all() for value in held.values()):
            # A NaN would be held below every threshold, and read as a latent that is off.
            raise ValueError(
                f"the {self.library} SAE has weights whose products overflow {np.dtype(dtype)}; "
                "train it again."
            )
        return dataclasses.replace(
            self,
            atoms=atoms,
            weight=held.pop("W"),
            encoder_bias=held.pop("c"),
            centred=True,
            others=held,
            codes_of_unit_atoms=False,
        )
