"""SAEs and transcoders that start from a dictionary."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
from jax import random

from sae_gap import catalogue
from sae_gap.core import Model, evenly_spaced
from sae_gap.dictionaries import fit_signals
from sae_gap.encoders import BatchPursuit, ScreenedPursuit
from sae_gap.learners import OnlineDictionary, SparseAutoencoder
from sae_gap.saes import has_form

if TYPE_CHECKING:
    from sae_gap.dictionaries import LearnedDictionary

# Steps of an SAE whose epochs are not given.
STEPS = 2_000


class Export(NamedTuple):
    """An SAE made from a dictionary, and the error of its encoder on the rows that `learn` held
    out.

    Attributes:
      model: the dictionary and the encoder.
      k: the requested number of latents.
      seconds: the time of the training; 0 if there was nothing to train.
      l0: mean L0 of the encoder's codes.
      fvu: FVU of the encoder's codes.
      best_fvu: FVU of least squares on the certified supports at an L0 of k, on the learned
        dictionary.
    """

    model: Model
    k: int
    seconds: float
    l0: float
    fvu: float
    best_fvu: float

    def __repr__(self) -> str:
        scores = (
            f"FVU of its codes {self.fvu:.3f} at L0 {self.l0:.1f}, of certified codes "
            f"{self.best_fvu:.3f} at L0 {self.k}"
        )
        if isinstance(self.model.encode, ScreenedPursuit):
            return f"{scores}; SAELens reads it after import sae_gap.torch.saelens"
        if has_form(type(self.model.encode)):
            return scores
        return f"{scores}; SAELens has no such encoder, sae_gap alone reads it"


def sae_learner(
    encoder: str,
    learned: "LearnedDictionary",
    *,
    skip: bool,
    epochs: int | None,
    **options: Any,
) -> SparseAutoencoder:
    """Makes the learner of an SAE, or of a transcoder if there are inputs.

    Args:
      encoder: the name of its encoder.
      learned: the dictionary, whose rows to train on.
      skip: whether a transcoder has an affine skip.
      epochs: passes over the rows; None takes enough for `STEPS` steps.
      **options: of `sae_for_activations`.
    """
    # It only asks its base for the model, which the fit gets.
    options |= {"input_dim": learned.train.input_dim, "base": OnlineDictionary()}
    learner: SparseAutoencoder
    if learned.inputs:
        learner = catalogue.transcoder_for_activations(encoder, skip=skip, **options)
    elif skip:
        raise ValueError(
            "only a transcoder has a skip; give learn the targets, or leave it out."
        )
    else:
        learner = catalogue.sae_for_activations(encoder, **options)
    if epochs is None:
        epochs = math.ceil(
            STEPS / math.ceil(learned.train.num_pooled / learner.batch_size)
        )
    return replace(learner, num_steps=epochs)


def train_sae(
    learner: SparseAutoencoder,
    learned: "LearnedDictionary",
    seed: int,
    *,
    show_progress: bool,
) -> tuple[Model, float]:
    """Trains an encoder for a dictionary, where there is something to train; returns the SAE and
    the seconds.
    """
    model = learned.model
    rows = learned.train
    encoder: Any = learner.encoder
    if learner.frozen:
        if encoder.parameters(model.decoder, random.key(seed)) is None:
            # Matching pursuit reads only the dictionary.
            return replace(model, encode=encoder), 0.0
        if isinstance(encoder, BatchPursuit):
            # A threshold of the rows that the dictionary learned from leaves too many latents on in
            # others.
            return encoder.calibrate(model, jnp.asarray(learned.held_out.pool())), 0.0
    read = None
    if learned.inputs:
        pooled = evenly_spaced(rows.num_samples, rows.num_pooled)
        read = learned.inputs.take(rows.numbers[pooled])
    fitted = fit_signals(
        learner,
        rows.pool(),
        model.decoder.shape[1],
        seed,
        read,
        bases=[model],
        show_progress=show_progress,
    )
    return fitted.model, fitted.seconds
