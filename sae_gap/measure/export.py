"""An SAE made of a dictionary: its encoder is trained on activations, with the dictionary as it is or along with it."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sae_gap import catalogue
from sae_gap.core.types import Model
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.measure.curve import fvu
from sae_gap.measure.training import fit_signals
from sae_gap.saes.save import has_form

# Steps of an SAE unless its epochs are told.
STEPS = 2_000


class Export(NamedTuple):
    """An SAE that was made of a dictionary, and what its encoder costs on the rows that `learn` held out.

    Attributes:
      model: with the encoder.
      k: latents that were asked for.
      seconds: that training took; 0 where there was nothing to train.
      l0: mean L0 of the encoder's codes.
      fvu: of the encoder's codes.
      best_fvu: of least squares on the certified supports at an L0 of k, on the dictionary that was learned.
    """

    model: Model
    k: int
    seconds: float
    l0: float
    fvu: float
    best_fvu: float

    def __repr__(self) -> str:
        trained = f"Trained in {self.seconds:.0f} s" if self.seconds else "Nothing was trained"
        read = "" if has_form(type(self.model.encode)) else " SAELens has no such encoder; sae_gap alone reads it."
        return (
            f"{trained}. Of the variance of held-out activations its codes leave {self.fvu:.3f} at an "
            f"L0 of {self.l0:.1f}, and certified codes at {self.k} leave {self.best_fvu:.3f}.{read}"
        )


def export(
    dictionary: Model,
    rows: Float[np.ndarray, "n input_dim"],
    held_out: Float[np.ndarray, "m input_dim"],
    k: int,
    best_fvu: float,
    *,
    encoder: str,
    epochs: int | None,
    frozen: bool,
    seed: int,
    show_progress: bool,
) -> Export:
    """Makes an SAE of a dictionary; see `LearnedDictionary.sae`.

    Args:
      dictionary: D and b.
      rows: to train on.
      held_out: to score on.
      k: latents in use.
      best_fvu: of certified codes on the dictionary.
      encoder: the name of one that an SAE has.
      epochs: passes over the rows; None takes as many as make 2,000 steps, and at least one.
      frozen: whether the dictionary stays as it is.
      seed: of the order of the rows.
      show_progress: whether to show a line of progress.
    """
    # Of its base only the model is asked for, which is this one.
    chosen: dict[str, Any] = {"base": OnlineDictionary(), "frozen": frozen}
    learner = catalogue.sae_for_activations(encoder, sparsity=k, input_dim=len(dictionary.bias), **chosen)
    steps = math.ceil(STEPS / math.ceil(len(rows) / learner.batch_size)) if epochs is None else epochs
    learner = dataclasses.replace(learner, num_steps=steps)
    if frozen and learner.encoder.parameters(dictionary.decoder, jax.random.key(seed)) is None:
        # Matching pursuit reads the dictionary alone.
        model, seconds = dataclasses.replace(dictionary, encode=learner.encoder), 0.0
    else:
        width = dictionary.decoder.shape[1]
        _, model, seconds = fit_signals(learner, rows, width, seed, bases=[dictionary], show_progress=show_progress)
    codes = model.encode(model, jnp.asarray(held_out))  # type: ignore[misc]
    l0 = float(jnp.mean(jnp.sum(codes != 0, axis=1)))
    left = fvu(held_out, codes @ model.decoder.T + model.bias)
    return Export(model, k, seconds, l0, left, best_fvu)
