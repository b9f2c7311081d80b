"""SAEs that this suite fitted, from the files that `sae_gap.study.models` keeps under results/models/."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from sae_gap.core import identity
from sae_gap.core.types import Model
from sae_gap.encoders.batchtopk import BatchTopK
from sae_gap.encoders.encoder import AmortisedEncoder
from sae_gap.encoders.gated import Gated
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.matryoshka import MatryoshkaBatchTopK
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.saes import own, saelens
from sae_gap.saes.loaded_sae import SAE
from sae_gap.storage import trees
from sae_gap.storage.tensor_files import Config, Tensors

# The file of the end of a fit.
WEIGHTS = "fit.safetensors"


def _without_options(kind: type[AmortisedEncoder]) -> Callable[[Config, int], AmortisedEncoder]:
    return lambda described, most: kind()


# Of their hyper-parameters, what inference asks for is the number of latents of TopK alone: the rest is of training.
_ENCODERS: dict[str, Callable[[Config, int], AmortisedEncoder]] = {
    identity.class_name(TopK): lambda described, most: TopK(described.among("k", described.size("k"), most))
}
_ENCODERS |= {
    identity.class_name(kind): _without_options(kind) for kind in (ReLU, JumpReLU, Gated, BatchTopK, MatryoshkaBatchTopK)
}


def load(path: Path) -> SAE:
    """The SAE that a finished fit of `SparseAutoencoder` ended with.

    Args:
      path: of the file that is called `fit.safetensors`.

    Returns:
      The SAE.

    Raises:
      ValueError: the file is damaged, or of another learner or encoder; the message names the fault and the mend.
    """
    note, model_of = _read(path)
    learner, source = (Config(path, note).part(name) for name in ("learner", "source"))
    described = learner.part("encoder")
    trained, encoder = (part.text("class", "") for part in (learner, described))
    name = trained.rpartition(".")[2]
    if not name:
        raise ValueError(f"{path} does not tell what it is a fit of; fit it again.")
    if not described.entries:
        raise ValueError(
            f"{path} is of {name}, which learns no encoder; write its atoms by numpy.save and give them as a dictionary."
        )
    if encoder not in _ENCODERS:
        raise ValueError(
            f"{path} is of an encoder that cannot be read, {encoder.rpartition('.')[2]}; give a fit of "
            f"{', '.join(kind.rpartition('.')[2] for kind in _ENCODERS)}."
        )
    input_dim, num_latents = source.size("input_dim"), source.size("num_latents")
    kind = _ENCODERS[encoder](described, num_latents)
    config, arrays = own.as_saelens(model_of(_blank(kind, input_dim, num_latents)), kind)
    sae = saelens.assemble(Config(path, config), lambda: Tensors(path, arrays))
    seed = source.entries.get("seed")
    notes = {"fit": path.parent.name, "learner": name, "seed": seed, "data": source.entries.get("data")}
    entries = tuple((note, str(value)) for note, value in notes.items() if value is not None)
    return dataclasses.replace(sae, library="sae_gap", architecture=kind.name, entries=entries)


def _read(path: Path) -> tuple[dict[str, Any], Callable[[Model], Model]]:
    """The note of a file, and what reads the model in it, given its shapes."""
    try:
        content = path.read_bytes()
        note = trees.read_note(content)
    except OSError:
        raise ValueError(f"{path} is not a file that can be read; check the path.") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a fit that can be used ({error}); fit it again.") from None

    def read(blank: Model) -> Model:
        try:
            return trees.load(content, blank)
        except ValueError as error:
            raise ValueError(f"{path} is not a fit that can be used ({error}); fit it again.") from None

    return note, read


def _blank(encoder: AmortisedEncoder, input_dim: int, num_latents: int) -> Model:
    """The shapes of a model with this encoder."""
    dtype = jnp.zeros(()).dtype
    weight = jax.ShapeDtypeStruct((input_dim, num_latents), dtype)
    parameters = eqx.filter_eval_shape(encoder.parameters, weight)
    return Model(weight, jax.ShapeDtypeStruct((input_dim,), dtype), parameters)  # type: ignore[arg-type]
