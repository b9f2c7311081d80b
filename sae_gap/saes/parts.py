"""The contents of an SAE's files, before JAX or PyTorch makes an SAE that infers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from sae_gap.core import Normalisation

# Most that any number other than k may be, if the dictionary has fewer latents.
MOST = 64
# The file of a finished fit of the suite, and of a dictionary that `learn` learned.
FIT, DICTIONARY = "fit.safetensors", "dictionary.safetensors"
# What the names of an encoder's tensors start with in a fit.
OWN = ".encoder."
# The note of a crosscoder that says how many layers it explains.
LAYERS = "layers side by side"
# Notes that stay with an SAE that is read and saved again.
NOTED = ("model_name", "hook_name", "hook_name_out", LAYERS)


def side_by_side(rows: Any, notes: Mapping[str, Any]) -> Any:
    """Lays the last two axes of rows, heads or the layers of a crosscoder, side by side.

    Raises:
      ValueError: the notes are a crosscoder's, and the rows are not (..., layers, dim), which no
        shape tells where both are equal.
    """
    layers = notes.get(LAYERS)
    if layers is not None and str(rows.shape[-2]) != layers:
        raise ValueError(
            f"a crosscoder of {layers} layers takes activations as (n, layers, dim), but they are "
            f"{tuple(rows.shape)}; swap their axes, or give those layers alone."
        )
    *others, parts, dim = rows.shape
    return rows.reshape((*others, parts * dim))


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of an SAE, in its library's units.

    For normalised activations x̂ a centred encoder computes `p = (x̂ - b) W + c`, any other
    `x̂ W + c`, and the decoder `z A + b`. The encoder of a transcoder reads another activation x, by
    `(x - centre) W + c`, and its decoder adds `x W_skip`.

    Attributes:
      encoder: its row in `ARCHITECTURES`, which says what it does to p; None for a bare decoder; or
        the class of an encoder that the suite alone has, whose tensors have their names in a fit.
      options: options of that encoder, in order.
      tensors: A, b and the encoder's learned tensors, by the names of that table. A bare decoder
        may have no b, one threshold may serve all latents, and a transcoder may have a W_skip,
        (num_inputs, input_dim), and a centre, (num_inputs,).
      library: the library that wrote it.
      architecture: that library's name for it.
      notes: notes on the file for a report.
      centred: whether the encoder subtracts b from its input.
      codes_of_unit_atoms: whether the library multiplies p by the lengths of the atoms, so that its
        codes are those of unit atoms.
      normalisation: normalisation of the activations.
      heads: whether activations may come by heads, or by the layers of a crosscoder.
      metadata: further entries of SAELens's configuration.
      transcodes: whether it is a transcoder.
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
    transcodes: bool = False

    @property
    def atoms(self) -> Float[np.ndarray, "num_latents input_dim"]:
        """A, of any lengths."""
        return self.tensors["W_dec"]

    def settled(self, dtype: Any) -> dict[str, Float[np.ndarray, "..."]]:
        """The tensors of an equivalent SAE with a centred encoder, `p = y W + c` on the target
        `y = x̂ - b`, or of a transcoder with `p = x W + c`, whose codes belong to its atoms without
        rescaling.

        Args:
          dtype: type of the computation.

        Raises:
          ValueError: a weight overflows on the target.
        """
        held = dict(self.tensors)
        if "W_enc" in held:
            lengths: Any = 1
            if self.codes_of_unit_atoms:
                lengths = np.linalg.norm(self.atoms.astype(np.float64), axis=1)
                held["W_dec"] = self.atoms / np.where(lengths > 0, lengths, 1)[:, None]
            # In double precision, since a bias may be much longer than the remaining codes.
            added = None if self.centred else held["b_dec"]
            if self.transcodes:
                added = -held.pop("centre") if "centre" in held else None
            shift: Any = 0
            if added is not None:
                shift = np.einsum("i,ij->j", added, held["W_enc"], dtype=float)
            gains = {"b_enc": 1, "b_gate": 1, "b_mag": np.exp(held.get("r_mag", 0))}
            for name in gains.keys() & held.keys():
                held[name] = (held[name] + shift * gains[name]) * lengths
            held["W_enc"] = held["W_enc"] * lengths
            if "threshold" in held:
                held["threshold"] = np.broadcast_to(held["threshold"], len(self.atoms))
        with np.errstate(over="ignore", invalid="ignore"):
            held = {name: np.asarray(value).astype(dtype) for name, value in held.items()}
        if not all(np.isfinite(value).all() for value in held.values()):
            # A NaN would count as below every threshold, and so as a latent that is off.
            raise ValueError(
                f"the {self.library} SAE has weights whose products overflow {np.dtype(dtype)}; "
                "train it again."
            )
        return held
