"""The architectures of SAEs, a row each, under SAELens's names where it has them. Readers make SAEs
of them from files, JAX infers with all of these and PyTorch with some, and writers save them.
"""

import types
from collections.abc import Mapping
from typing import Any, NamedTuple

from sae_gap.core import PURSUIT
from sae_gap.saes.parts import MOST
from sae_gap.storage import Config, Tensors


class Architecture(NamedTuple):
    """All of an SAE beside its decoder `z W_dec + b_dec`.

    Attributes:
      module: module of the encoder in JAX, below sae_gap.
      encoder: the name of its class, whose first fields are the options.
      tensors: its learned tensors, each one number for each latent except W_enc, by name, with
        their places in `Model.encoder`.
      options: entries of its configuration.
      foreign: whether SAELens lacks this architecture.
    """

    module: str
    encoder: str
    tensors: Mapping[str, str] = types.MappingProxyType({"W_enc": "weight", "b_enc": "bias"})
    options: tuple[str, ...] = ()
    foreign: bool = False


_K, _THEIRS, _PURSUIT = ("k",), "saes.foreign_encoders", "encoders.screened_pursuit"
_INNER = {"W_enc": "affine.weight", "b_enc": "affine.bias"}
_BATCH = _INNER | {"threshold": "threshold"}
_GATED = {"W_enc": "gate.weight", "b_gate": "gate.bias", "r_mag": "log_scale", "b_mag": "bias"}
_STOPS = ("max_iterations", "residual_threshold", "stop_on_duplicate_support")
# The name of a place that holds logarithms of thresholds.
LOGARITHMS = "log_threshold"
ARCHITECTURES = {
    "standard": Architecture("encoders.relu", "ReLU"),
    "topk": Architecture("encoders.topk", "TopK", options=_K),
    "abstopk": Architecture(_THEIRS, "AbsTopK", options=_K),
    "jumprelu": Architecture("encoders.relu", "JumpReLU", _INNER | {"threshold": LOGARITHMS}),
    "gated": Architecture("encoders.relu", "Gated", _GATED),
    "matching_pursuit": Architecture(_THEIRS, "RepeatingPursuit", {}, _STOPS),
    PURSUIT: Architecture(_PURSUIT, "ScreenedPursuit", {}, ("k", "breadth", "screens")),
    "groupmax": Architecture(_THEIRS, "GroupMax", options=_K, foreign=True),
    "batch_largest": Architecture(_THEIRS, "BatchLargest", options=_K, foreign=True),
}
# The encoders that SAELens also has, by their names: the architecture, and the places of its
# tensors.
ENCODERS: dict[str, tuple[str, Mapping[str, str]]] = {
    **{
        f"sae_gap.{row.encoder}": (name, row.tensors)
        for name, row in ARCHITECTURES.items()
        if not row.foreign
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


def read_options(
    architecture: str, config: Config, num_latents: int, input_dim: int
) -> dict[str, Any]:
    """The options of an architecture, read from a configuration.

    Raises:
      ValueError: one is missing, or out of range.
    """
    if architecture == "matching_pursuit":
        return {
            "max_iterations": config.size("max_iterations", input_dim),
            "residual_threshold": config.number("residual_threshold", 1e-2),
            "stop_on_duplicate_support": config.flag("stop_on_duplicate_support", True),
        }
    names = ARCHITECTURES[architecture].options
    return {name: config.size(name, most=most_of(name, num_latents)) for name in names}


def most_of(option: str, num_latents: int) -> int:
    """The largest number that an option may be: no k exceeds the width."""
    return num_latents if option == "k" else max(num_latents, MOST)


def take(
    architecture: str,
    tensors: Tensors,
    sizes: tuple[int, int, int],
    *,
    names: Mapping[str, str] | None = None,
    linear: tuple[str, ...] = (),
    known: Mapping[str, Any] | None = None,
    skip: bool = False,
) -> dict[str, Any]:
    """The tensors of an architecture, of its decoder and of a transcoder's skip.

    Args:
      architecture: a name in the table; any other has no tensors but those that are known.
      tensors: tensors of a file.
      sizes: the dimension of what the encoder reads, the number of latents, and the dimension of
        what they explain.
      names: the file's names, where they differ from ours.
      linear: our names of tensors that the file stores transposed, as `torch.nn.Linear` does.
      known: tensors already at hand, which are not read.
      skip: whether there is a W_skip, (num_inputs, input_dim).

    Raises:
      ValueError: one is missing, has another shape or type, or is not finite.
    """
    read, num_latents, input_dim = sizes
    shapes: dict[str, tuple[int, ...]] = {
        "b_dec": (input_dim,),
        "W_dec": (num_latents, input_dim),
        "W_enc": (read, num_latents),
        "W_skip": (read, input_dim),
    }
    held, row = dict(known or {}), ARCHITECTURES.get(architecture)
    for name in ("b_dec", "W_dec", *(row.tensors if row else ()), *(("W_skip",) * skip)):
        if name not in held:
            theirs, shape = (names or {}).get(name, name), shapes.get(name, (num_latents,))
            turned = name in linear
            found = tensors.take(theirs, *(shape[::-1] if turned else shape))
            held[name] = found.T if turned else found
    return held
