"""Which reader reads a file of weights: the name of the file tells the library that wrote it, and
where that leaves it open, its tensors do. No JAX is loaded.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from sae_gap.saes.files import read_tensors
from sae_gap.saes.own_files import ATOMS, decoder, fit
from sae_gap.saes.parts import DICTIONARY, FIT, Parts
from sae_gap.saes.published import (
    CROSS_LAYER,
    LAYER,
    circuit_tracer,
    crosscoder,
    dictionary_learning,
    gemma_scope,
    sparsify,
)
from sae_gap.saes.saelens import CONFIG, WEIGHTS, saelens
from sae_gap.storage import Config, Tensors, read_json


class Reader(NamedTuple):
    """How to read the SAE of a file of weights.

    Attributes:
      load: makes its parts from its configuration and its tensors.
      config: the name of the file of its configuration, in the same folder; "" for none.
      optional: whether that file may be missing.
    """

    load: Callable[[Config, Tensors], Parts]
    config: str = ""
    optional: bool = False


def read(weights: Path) -> Parts:
    """Reads a file that `locate` found."""
    name = weights.name
    folder = weights.parent
    if _AMID_TRAINING.fullmatch(name):
        name = "ae.pt"
    if name == "ae.pt" and folder.name == "checkpoints":
        folder = folder.parent
    reader = READERS.get(name, Reader(_by_tensors))
    tensors = read_tensors(weights)
    config = Config(folder / reader.config, {})
    if reader.config and (config.path.exists() or not reader.optional):
        config = Config(config.path, read_json(config.path))
    parts = reader.load(config, tensors)
    if parts.library == "sae_gap":
        return parts
    tensors.finish(parts.architecture)
    return replace(parts, notes={"dtype on disk": tensors.dtypes(), **parts.notes})


def holds(name: str) -> bool:
    """True if a file of this name holds weights, whose folder identifies the SAE."""
    return name in READERS or any(pattern.fullmatch(name) for pattern in _PATTERNS)


def _by_tensors(config: Config, tensors: Tensors) -> Parts:
    """What lies in one file without a configuration, by the tensors in it: a transcoder of
    circuit-tracer, an acausal crosscoder, and else a bare decoder.

    Raises:
      ValueError: the file holds anything else.
    """
    path = tensors.path
    if CROSS_LAYER.fullmatch(path.name):
        raise ValueError(
            f"{path} is of a cross-layer transcoder, whose codes add to many layers; give a "
            "transcoder of one layer."
        )
    if "W_enc" not in tensors:
        return decoder(config, tensors)
    axes = tensors.sizes("W_enc")
    if len(axes) == 3 and all(axes):
        return crosscoder(tensors, *axes)
    layer = LAYER.fullmatch(path.name)
    if layer is None:
        raise ValueError(
            f"{path} has a W_enc and no configuration, so that nothing tells its library; keep the "
            "names of its files, or give the arrays to SAE.from_arrays."
        )
    return circuit_tracer(tensors, layer[1])


READERS = {
    WEIGHTS: Reader(saelens, CONFIG),
    "sae.safetensors": Reader(sparsify, "cfg.json"),
    "ae.pt": Reader(dictionary_learning, "config.json"),
    "params.npz": Reader(gemma_scope),
    "params.safetensors": Reader(gemma_scope, "config.json", optional=True),
    FIT: Reader(fit),
    DICTIONARY: Reader(decoder),
    ATOMS: Reader(decoder),
    # The name that the replication of crosscoders for model diffing gives its weights.
    "cc_weights.pt": Reader(_by_tensors),
}
# dictionary_learning's names of weights during training.
_AMID_TRAINING = re.compile(r"ae_\d+\.pt")
_PATTERNS = (_AMID_TRAINING, LAYER, CROSS_LAYER)
