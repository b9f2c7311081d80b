"""Encoders and learners by their names, made from what every study knows: a sparsity, a weight and a length."""

import dataclasses
from typing import Any

from sae_gap.core import registry
from sae_gap.core.checks import check_choice, check_number
from sae_gap.encoders.encoder import AmortisedEncoder, Encoder
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.learners.learner import Learner, takes_steps
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder


def encoder(name: str, *, sparsity: int, lam: float = 0.1, own: Encoder | None = None) -> Encoder:
    """An encoder of `sae_gap.encoders`.

    Args:
      name: its name.
      sparsity: of an encoder with a field `k` or `sparsity`.
      lam: of an encoder with a field `lam`.
      own: the encoder whose support it refits, of one with a field `encoder`.

    Raises:
      ValueError: no encoder has the name, or it needs more.
    """
    check_choice("encoder", name, registry.encoders())
    return _make(registry.encoders()[name], name, k=sparsity, sparsity=sparsity, lam=lam, encoder=own)


def learner(name: str, *, sparsity: int, input_dim: int, lam: float = 0.1, num_steps: int | None = None) -> Learner:
    """A learner of `sae_gap.learners`, or the tuned SAE with an encoder of that name, with or without `sae_` before it.

    Args:
      name: its name.
      sparsity: of a learner or an encoder with a field `k` or `sparsity`.
      input_dim: dimension of the signals.
      lam: of a learner with a field `lam`.
      num_steps: steps of its fit; None takes its own default.

    Raises:
      ValueError: no learner and no SAE has the name, or it needs more, such as the learner that it goes on from.
    """
    if name not in registry.learners():
        steps = {} if num_steps is None else {"num_steps": num_steps}
        return tuned_sae(name.removeprefix("sae_"), sparsity=sparsity, input_dim=input_dim, **steps)
    kind = registry.learners()[name]
    return _make(kind, name, k=sparsity, sparsity=sparsity, lam=lam, num_steps=num_steps if takes_steps(kind) else None)


def sae(name: str, *, sparsity: int, **options: Any) -> SparseAutoencoder:
    """A sparse autoencoder with the defaults throughout, which are the paper's.

    Args:
      name: of its encoder.
      sparsity: k of an encoder that has one.
      options: of `SparseAutoencoder`, such as `num_steps`.
    """
    return SparseAutoencoder(_encoder(name, sparsity), **options)


def tuned_sae(name: str, *, sparsity: int, input_dim: int, **options: Any) -> SparseAutoencoder:
    """A sparse autoencoder with the hyper-parameters, the rate and the penalty that were found best for its encoder.

    Args:
      name: of its encoder.
      sparsity: k of an encoder that has one.
      input_dim: dimension of the signals.
      options: of `SparseAutoencoder`, such as `num_steps`.
    """
    tuned = _encoder(name, sparsity, tuned=True)
    assert tuned.recipe is not None
    return SparseAutoencoder(tuned, learning_rate=tuned.recipe.rate, penalty=tuned.recipe.penalty / input_dim, **options)


def sae_for_activations(
    name: str, *, sparsity: int, input_dim: int, base: Learner | None = None, **options: Any
) -> SparseAutoencoder:
    """A sparse autoencoder with the options that suit a network's activations.

    It learns from standardised rows, whose total variance is input_dim, at a rate that warms up and falls along a cosine and is
    left to the learner. Tuned rates, penalties and thresholds hold where codes are as large as the paper's, uniform on (0, 1).
    So many such codes of unit atoms make a variance of sparsity / 3; thresholds and l1 penalties grow with the root of what is
    more, and penalties on the number of codes with all of it. From there a penalty is steered to the sparsity.

    Args:
      name: of its encoder.
      sparsity: mean L0 to train at.
      input_dim: of the activations.
      base: whose dictionary it starts from; None starts at random.
      options: of `SparseAutoencoder`, in the place of these.
    """
    check_number("sparsity", sparsity, above=0)
    learner = tuned_sae(name, sparsity=sparsity, input_dim=input_dim, base=base)
    scale = (3 * input_dim / sparsity) ** 0.5
    encoder, penalty = learner.encoder, learner.penalty * scale
    if isinstance(encoder, JumpReLU):
        encoder = dataclasses.replace(encoder, threshold=encoder.threshold * scale, bandwidth=encoder.bandwidth * scale)
        penalty *= scale
    chosen: dict[str, Any] = {"encoder": encoder, "penalty": penalty, "l0": float(sparsity) if penalty else None}
    chosen |= {"schedule": "cosine", "standardised": True, "renormalise_every": None}
    chosen |= {"learning_rate": None, "weight_decay": 0.0, "batch_size": 256}
    return dataclasses.replace(learner, **(chosen | options))


def _encoder(name: str, sparsity: int, tuned: bool = False) -> AmortisedEncoder:
    check_choice("sae", name, registry.saes())
    kind = registry.saes()[name]
    return _make(kind, name, k=sparsity, sparsity=sparsity, **(kind.recipe.options if tuned else {}))


def _make(kind: Any, name: str, **offered: Any) -> Any:
    try:
        return registry.make(kind, **offered)
    except TypeError as error:
        raise ValueError(f"{name} cannot be made from a sparsity and a weight alone ({error}); make it in Python.") from None
