"""The contents of an SAE's files, before JAX or PyTorch makes an SAE that infers, and the
architectures of SAEs, a row each, under SAELens's names where it has them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from sae_gap.core import PURSUIT, Normalisation
from sae_gap.storage import Config, Tensors

# Most that any number other than k may be, if the dictionary has fewer latents.
MOST = 64
# The file of a finished fit of the suite, and of a dictionary that `learn` learned.
FIT = "fit.safetensors"
DICTIONARY = "dictionary.safetensors"
# What the names of an encoder's tensors start with in a fit.
OWN = ".encoder."
# The note of a crosscoder that says how many layers it explains.
LAYERS = "layers side by side"
# Notes that stay with an SAE that is read and saved again.
NOTED = ("model_name", "hook_name", "hook_name_out", LAYERS)
UNESTIMATED = "the threshold was never estimated, so that codes are those of a ReLU"


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


@dataclass(frozen=True)
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
    normalisation: Normalisation = field(default_factory=Normalisation)
    heads: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
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
            self._settle_encoder(held)
        with np.errstate(over="ignore", invalid="ignore"):
            settled = {
                name: np.asarray(value).astype(dtype) for name, value in held.items()
            }
        # A NaN would count as below every threshold, and so as a latent that is off.
        if not all(np.isfinite(value).all() for value in settled.values()):
            raise ValueError(
                f"the {self.library} SAE has weights whose products overflow {np.dtype(dtype)}; "
                "train it again."
            )
        return settled

    def _settle_encoder(self, held: dict[str, Any]) -> None:
        """Makes the encoder a centred one by its biases, and its codes those of the atoms by its
        weights.
        """
        added: Any = None
        if "centre" in held:
            added = -held.pop("centre")
        elif not (self.centred or self.transcodes):
            added = held["b_dec"]
        shift: Any = 0
        if added is not None:
            # In double precision, since a bias may be much longer than the remaining codes.
            shift = np.einsum("i,ij->j", added, held["W_enc"], dtype=float)
        lengths: Any = 1
        if self.codes_of_unit_atoms:
            lengths = np.linalg.norm(self.atoms.astype(float), axis=1)
            held["W_dec"] = self.atoms / np.where(lengths > 0, lengths, 1)[:, None]
        gains = {"b_enc": 1, "b_gate": 1, "b_mag": np.exp(held.get("r_mag", 0))}
        for name in gains.keys() & held.keys():
            held[name] = (held[name] + shift * gains[name]) * lengths
        held["W_enc"] = held["W_enc"] * lengths
        if "threshold" in held:
            held["threshold"] = np.broadcast_to(held["threshold"], len(self.atoms))


class Sizes(NamedTuple):
    """The sizes of an SAE.

    Attributes:
      num_inputs: dimension of what the encoder reads.
      num_latents: number of latents.
      input_dim: dimension of what the codes explain.
    """

    num_inputs: int
    num_latents: int
    input_dim: int


class Architecture(NamedTuple):
    """All of an SAE beside its decoder `z W_dec + b_dec`.

    Attributes:
      encoder: the name of the class of the encoder in JAX, whose first fields are the options.
      tensors: its learned tensors, each one number for each latent except W_enc, by name, with
        their places in `Model.encoder`.
      options: entries of its configuration.
    """

    encoder: str
    tensors: Mapping[str, str]
    options: tuple[str, ...] = ()


_K = ("k",)
_AFFINE = {"W_enc": "weight", "b_enc": "bias"}
_INNER = {"W_enc": "affine.weight", "b_enc": "affine.bias"}
_BATCH = _INNER | {"threshold": "threshold"}
_GATED = {
    "W_enc": "gate.weight",
    "b_gate": "gate.bias",
    "r_mag": "log_scale",
    "b_mag": "bias",
}
_STOPS = ("max_iterations", "residual_threshold", "stop_on_duplicate_support")
# Those that SAELens lacks, the last without an estimated threshold.
FOREIGN = "groupmax", "batch_largest"
# The name of a place that holds logarithms of thresholds.
LOGARITHMS = "log_threshold"
ARCHITECTURES = {
    "standard": Architecture("ReLU", _AFFINE),
    "topk": Architecture("TopK", _AFFINE, _K),
    "abstopk": Architecture("AbsTopK", _AFFINE, _K),
    "jumprelu": Architecture("JumpReLU", _INNER | {"threshold": LOGARITHMS}),
    "gated": Architecture("Gated", _GATED),
    PURSUIT: Architecture("ScreenedPursuit", {}, ("k", "breadth", "screens")),
    "matching_pursuit": Architecture("RepeatingPursuit", {}, _STOPS),
    "groupmax": Architecture("GroupMax", _AFFINE, _K),
    "batch_largest": Architecture("BatchLargest", _AFFINE, _K),
}
# The encoders that SAELens also has, by their names: the architecture, and the places of its
# tensors.
ENCODERS = {
    **{
        f"sae_gap.{row.encoder}": (name, row.tensors)
        for name, row in ARCHITECTURES.items()
        if name not in FOREIGN
    },
    "sae_gap.BatchTopK": ("jumprelu", _BATCH),
    "sae_gap.MatryoshkaBatchTopK": ("jumprelu", _BATCH),
    "sae_gap.BatchPursuit": (PURSUIT, {"threshold": "value"}),
}
# SAELens's names of transcoders: the architecture of the encoder, and whether there is a skip.
TRANSCODERS = {
    "transcoder": ("standard", False),
    "skip_transcoder": ("standard", True),
    "jumprelu_transcoder": ("jumprelu", False),
    "jumprelu_skip_transcoder": ("jumprelu", True),
}


def transcoder_of(architecture: str, skip: bool) -> str | None:
    """SAELens's name of a transcoder with the encoder of an architecture; None if it has none."""
    return {kind: name for name, kind in TRANSCODERS.items()}.get((architecture, skip))


def read_options(architecture: str, config: Config, sizes: Sizes) -> dict[str, Any]:
    """The options of an architecture, read from a configuration.

    Raises:
      ValueError: one is missing, or out of range.
    """
    if architecture == "matching_pursuit":
        return {
            "max_iterations": config.size("max_iterations", sizes.input_dim),
            "residual_threshold": config.number("residual_threshold", 1e-2),
            "stop_on_duplicate_support": config.flag("stop_on_duplicate_support", True),
        }
    return {
        name: config.size(name, most=most_of(name, sizes.num_latents))
        for name in ARCHITECTURES[architecture].options
    }


def most_of(option: str, num_latents: int) -> int:
    """The largest number that an option may be: no k exceeds the width."""
    return num_latents if option == "k" else max(num_latents, MOST)


def take(
    architecture: str,
    tensors: Tensors,
    sizes: Sizes,
    *,
    names: Mapping[str, str] | None = None,
    linear: Collection[str] = (),
    known: Mapping[str, Any] | None = None,
    skip: bool = False,
) -> dict[str, Any]:
    """The tensors of an architecture, of its decoder and of a transcoder's skip.

    Args:
      architecture: a name in the table; any other has no tensors but those that are known.
      tensors: tensors of a file.
      sizes: of the SAE.
      names: the file's names, where they differ from ours.
      linear: our names of tensors that the file stores transposed, as `torch.nn.Linear` does.
      known: tensors already at hand, which are not read.
      skip: whether there is a W_skip, (num_inputs, input_dim).

    Raises:
      ValueError: one is missing, has another shape or type, or is not finite.
    """
    num_inputs, num_latents, input_dim = sizes
    shapes = {
        "b_dec": (input_dim,),
        "W_dec": (num_latents, input_dim),
        "W_enc": (num_inputs, num_latents),
        "W_skip": (num_inputs, input_dim),
    }
    wanted = ["b_dec", "W_dec"]
    if architecture in ARCHITECTURES:
        wanted += ARCHITECTURES[architecture].tensors
    if skip:
        wanted.append("W_skip")
    held = dict(known or {})
    for name in wanted:
        if name in held:
            continue
        stored = (names or {}).get(name, name)
        shape = shapes.get(name, (num_latents,))
        if name in linear:
            held[name] = tensors.take(stored, *shape[::-1]).T
        else:
            held[name] = tensors.take(stored, *shape)
    return held
