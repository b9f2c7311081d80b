"""A dictionary as an SAE: trains an encoder for it, on the rows that it was learned from."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sae_gap import catalogue
from sae_gap.core import Model, check_size, evenly_spaced
from sae_gap.dictionaries import check_sparse, fit_signals
from sae_gap.encoders import BatchPursuit, ScreenedPursuit
from sae_gap.learners import OnlineDictionary
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


def export(
    dictionary: Any,
    k: int | None = None,
    *,
    encoder: str = "topk",
    epochs: int | None = None,
    frozen: bool = True,
    skip: bool = False,
    seed: int = 0,
    show_progress: bool = True,
) -> Export:
    """Trains an SAE that starts from a learned dictionary; a transcoder, if `learn` had targets.

    The encoder starts as `a Dᵀ(x - b)`, with the least-squares a; see `SparseAutoencoder` and its
    `standardised`.

    Args:
      dictionary: the result of `learn`.
      k: number of active latents; None takes `learn`'s L0.
      encoder: the name of an SAE's encoder, such as "topk", "batchtopk" or "jumprelu". With
        `frozen`, "screened_pursuit" and "batch_pursuit" have nothing to train; the threshold of
        the latter is that of the rows held out, so that other rows have k latents on average.
      epochs: passes over the rows; None takes enough for 2,000 steps, and at least one.
      frozen: whether the dictionary stays fixed; False trains it too, which reconstructs
        better.
      skip: whether a transcoder has an affine skip.
      seed: seeds the order of the rows.
      show_progress: whether to show a line of progress on a terminal or in a notebook.

    Returns:
      The SAE, with its errors.
    """
    k = max(1, round(dictionary.l0)) if k is None else k
    check_size("k", k)
    check_sparse("k", k, *dictionary.atoms.shape)
    k = int(k)
    model, rows, inputs = dictionary.model, dictionary.train, dictionary.inputs
    make: Any = catalogue.sae_for_activations
    if inputs is not None:
        make = functools.partial(catalogue.transcoder_for_activations, skip=skip)
    elif skip:
        raise ValueError("only a transcoder has a skip; give learn the targets, or leave it out.")
    # It only asks its base for the model, which is this one.
    options: Any = {"base": OnlineDictionary(), "frozen": frozen}
    learner = make(encoder, sparsity=k, input_dim=rows.input_dim, **options)
    if epochs is None:
        epochs = math.ceil(STEPS / math.ceil(rows.num_pooled / learner.batch_size))
    learner, seconds = dataclasses.replace(learner, num_steps=epochs), 0.0
    # An impossible k is refused before an encoder is trained.
    best = dictionary.fvu(None, k, outliers="keep")
    key = jax.random.key(seed)
    if frozen and learner.encoder.parameters(model.decoder, key) is None:
        # Matching pursuit reads only the dictionary.
        model = dataclasses.replace(model, encode=learner.encoder)
    elif frozen and isinstance(learner.encoder, BatchPursuit):
        # A threshold of the rows that the dictionary learned from leaves too many latents on in
        # others.
        model = learner.encoder.calibrate(model, jnp.asarray(dictionary.held_out.pool()))
    else:
        read: Any = None
        if inputs is not None:
            read = inputs.take(rows.numbers[evenly_spaced(rows.num_samples, rows.num_pooled)])
        options = {"bases": [model], "show_progress": show_progress}
        fitted = fit_signals(learner, rows.pool(), dictionary.width, seed, read, **options)
        model, seconds = fitted.model, fitted.seconds
    own = dictionary.scored(model, ["own"], k, dictionary.held_out, True)["own"]
    return Export(model, k, seconds, own["l0"], own["fvu"], best)
