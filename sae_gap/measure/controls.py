"""Control dictionaries as SAEs, for commands that are no studies yet."""

import dataclasses

from sae_gap.data.activations import Activations
from sae_gap.measure.methods import control
from sae_gap.measure.rows import pool
from sae_gap.measure.training import fit_signals
from sae_gap.saes.loaded_sae import SAE


def control_sae(name: str, train: Activations, first: SAE, l0: float, seed: int) -> SAE:
    """A control with as many atoms as an SAE, and codes of its signs, made of training
    activations.
    """
    learner = control(name, first.num_latents, l0, first.input_dim)
    model = fit_signals(learner, pool(train), first.num_latents, seed).model
    sae = SAE.of_model(dataclasses.replace(model, encode=None), name=name)
    return dataclasses.replace(sae, signed=first.signed, role="control")


def check_control(name: str, num_samples: int, num_latents: int) -> None:
    """Refuses nothing."""
