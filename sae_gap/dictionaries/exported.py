"""A dictionary as an SAE: trains an encoder for it, on the rows that it was learned from."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sae_gap import catalogue
from sae_gap.core import Model, evenly_spaced
from sae_gap.data import Activations
from sae_gap.dictionaries import fit_signals
from sae_gap.encoders import BatchPursuit, ScreenedPursuit
from sae_gap.learners import OnlineDictionary, SparseAutoencoder
from sae_gap.saes import has_form

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
        known = has_form(type(self.model.encode))
        return scores + "; SAELens has no such encoder, sae_gap alone reads it" * (not known)


def learner_of(
    encoder: str, k: int, rows: Activations, epochs: int | None, skip: bool | None, frozen: bool
) -> SparseAutoencoder:
    """The learner of an SAE that starts from a dictionary.

    Args:
      encoder: the name of its encoder.
      k: mean L0.
      rows: what it learns from.
      epochs: passes over the rows; None takes enough for `STEPS`.
      skip: whether a transcoder has an affine skip; None makes no transcoder.
      frozen: whether the dictionary stays fixed.
    """
    make: Any = catalogue.sae_for_activations
    if skip is not None:
        make = functools.partial(catalogue.transcoder_for_activations, skip=skip)
    # It only asks its base for the model, which is this one.
    base = OnlineDictionary()
    learner = make(encoder, base=base, sparsity=k, input_dim=rows.input_dim, frozen=frozen)
    if epochs is None:
        epochs = math.ceil(STEPS / math.ceil(rows.num_pooled / learner.batch_size))
    return dataclasses.replace(learner, num_steps=epochs)


def train_sae(
    learner: SparseAutoencoder, dictionary: Any, seed: int, show_progress: bool
) -> tuple[Model, float]:
    """Trains an SAE that starts from a learned dictionary, and returns it with the seconds.

    Args:
      learner: from `learner_of`.
      dictionary: the result of `learn`.
      seed: seeds the order of the rows.
      show_progress: whether to show a line of progress.
    """
    encoder: Any = learner.encoder
    model, rows, read = dictionary.model, dictionary.train, None
    if learner.frozen:
        if encoder.parameters(model.decoder, jax.random.key(seed)) is None:
            # Matching pursuit reads only the dictionary.
            return dataclasses.replace(model, encode=encoder), 0.0
        if isinstance(encoder, BatchPursuit):
            # A threshold of the rows that the dictionary learned from leaves too many latents on
            # in others.
            return encoder.calibrate(model, jnp.asarray(dictionary.held_out.pool())), 0.0
    if dictionary.inputs is not None:
        places = evenly_spaced(rows.num_samples, rows.num_pooled)
        read = dictionary.inputs.take(rows.numbers[places])
    options: Any = {"bases": [model], "show_progress": show_progress}
    fitted = fit_signals(learner, rows.pool(), dictionary.width, seed, read, **options)
    return fitted.model, fitted.seconds
