"""Fits on activations alone, of which nothing is scored: dictionaries, and the SAE that starts from one."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from sae_gap.core.types import Model, Split, Task
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.topk import TopK
from sae_gap.learners.learner import Learner
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.study.fitting import Fitted, fit

# Of an SAE that starts from a dictionary. A dictionary that is trained along wants a lower rate.
RATE, RATE_ALONG, BATCH, STEPS = 3e-3, 1e-3, 256, 2_000
# Signals that the gain of the first encoder is found on.
FEW = 500


def fit_signals(
    learner: Learner, signals: Float[np.ndarray, "n input_dim"], width: int, seed: int | PRNGKeyArray, **options: Any
) -> Fitted:
    """The end of a fit of a learner to signals.

    Args:
      learner: what to fit.
      signals: (n, input_dim).
      width: atoms to learn.
      seed: of the fit, an integer or a random key.
      **options: of `fit`.
    """
    train, nothing = (Split(jnp.asarray(part)) for part in (signals, signals[:1]))
    return fit(learner, [Task(train, nothing, nothing, width=int(width))], [seed], **options)[0].end


def topk_sae(
    model: Model, signals: Float[np.ndarray, "n input_dim"], k: int, *, epochs: int | None, frozen: bool, seed: int
) -> Fitted:
    """A TopK SAE that starts from a dictionary D of unit atoms and its bias b, and is trained on the squared error.

    The encoder starts as `z = top_k(a Dᵀ(x - b))`, with the a of least squares. Signals are scaled to a mean square of 1
    for training, and the SAE back to their unit.

    Args:
      model: D and b.
      signals: to train on, (n, input_dim).
      k: latents in use.
      epochs: passes over the signals; None takes as many as make `STEPS` steps.
      frozen: whether D and b stay as they are.
      seed: of the order of the signals.
    """
    encoder, centred = TopK(k), signals - np.asarray(model.bias)
    scale = float(np.sqrt(np.mean(centred**2)))
    scaled = centred / scale
    start = Model(model.decoder, jnp.zeros_like(model.bias), Affine.create(model.decoder))
    few = scaled[:: max(1, len(scaled) // FEW)][:FEW]
    first = encoder(start, few) @ model.decoder.T
    gain = jnp.sum(few * first) / jnp.sum(first**2)
    start = dataclasses.replace(start, encoder=Affine.create(gain * model.decoder))
    options: dict[str, Any] = {
        "learning_rate": RATE if frozen else RATE_ALONG,
        "weight_decay": 0.0,
        "batch_size": BATCH,
        "num_steps": math.ceil(STEPS * BATCH / len(scaled)) if epochs is None else epochs,
        "schedule": "cosine",
    }
    # Of its base only the model is asked for, which is `start`.
    learner = SparseAutoencoder(encoder, **options, frozen=frozen, base=OnlineDictionary())
    found = fit_signals(learner, scaled, model.decoder.shape[1], seed, bases=[start])
    affine = Affine(found.model.encoder.weight, scale * found.model.encoder.bias)
    trained = Model(found.model.decoder, model.bias + scale * found.model.bias, affine, encoder)
    return found._replace(model=trained)
