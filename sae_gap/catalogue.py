"""The names of the suite: encoders, learners, metrics and SAEs. It also makes an encoder or a
learner from its name.

The folder is the register: each class or metric that a module defines is listed. A list loads JAX;
importing this module does not, so that rows can be read without it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from inspect import signature
from typing import Any

import sae_gap.encoders
import sae_gap.learners
import sae_gap.metrics
from sae_gap.core import check_choice, check_number, registry


@cache
def encoders() -> dict[str, Any]:
    """Returns the encoder classes of `sae_gap.encoders` by name."""
    return registry.classes("sae_gap.encoders", sae_gap.encoders.Encoder)


def saes() -> dict[str, Any]:
    """Returns the encoders that a sparse autoencoder trains, by name."""
    return {
        name: kind for name, kind in encoders().items() if getattr(kind, "recipe", None)
    }


@cache
def learners() -> dict[str, Any]:
    """Returns the learner classes of `sae_gap.learners` by name."""
    return registry.classes("sae_gap.learners", sae_gap.learners.Learner)


@cache
def metrics() -> dict[str, Any]:
    """Returns the metric objects of `sae_gap.metrics` by name."""
    return registry.instances("sae_gap.metrics", sae_gap.metrics.Metric)


def default_metrics() -> tuple["sae_gap.metrics.Metric", ...]:
    """Returns the metrics of a study that names none."""
    return tuple(metric for metric in metrics().values() if metric.everywhere)


def default_columns() -> list[str]:
    """Returns the columns of these metrics."""
    return [name for metric in default_metrics() for name in metric.columns]


def make(kind: Callable[..., Any], **offered: Any) -> Any:
    """Returns an instance of a class from the offered values that it has fields for; None keeps the
    default.
    """
    fields = signature(kind).parameters
    return kind(
        **{
            name: value
            for name, value in offered.items()
            if value is not None and name in fields
        }
    )


def make_encoder(
    name: str,
    *,
    sparsity: int,
    lam: float = 0.1,
    base: "sae_gap.encoders.Encoder | None" = None,
    nonneg: bool | None = None,
    l0: float | None = None,
) -> "sae_gap.encoders.Encoder":
    """Makes an encoder of `sae_gap.encoders`.

    Args:
      name: its name.
      sparsity: sets the field `k` or `sparsity`, if there is one.
      lam: sets the field `lam`, if there is one.
      base: sets the field `encoder`, if there is one: the encoder whose support is refitted.
      nonneg: sets the field `nonneg`, if there is one; None keeps the default.
      l0: sets the field `l0`, which `prepared` reads, if there is one; None keeps the default.

    Raises:
      ValueError: no encoder has the name, or it needs further arguments.
    """
    check_choice("encoder", name, encoders())
    offered = {"lam": lam, "encoder": base, "nonneg": nonneg, "l0": l0}
    return _make(encoders()[name], name, sparsity, **offered)


def make_learner(
    name: str,
    *,
    sparsity: int,
    input_dim: int,
    lam: float = 0.1,
    num_steps: int | None = None,
) -> "sae_gap.learners.Learner":
    """Makes a learner of `sae_gap.learners`, or the tuned SAE with the encoder of that name, which
    may begin with `sae_`.

    Args:
      name: its name.
      sparsity: sets the field `k` or `sparsity` of the learner or the encoder, if there is one.
      input_dim: dimension of the signals.
      lam: sets the field `lam`, if there is one.
      num_steps: steps of the fit; None keeps the default.

    Raises:
      ValueError: no learner and no SAE has the name, or it needs further arguments, such as the
        learner that it goes on from.
    """
    if name not in learners():
        given = {} if num_steps is None else {"num_steps": num_steps}
        return tuned_sae(
            name.removeprefix("sae_"), sparsity=sparsity, input_dim=input_dim, **given
        )
    kind = learners()[name]
    steps = num_steps if sae_gap.learners.takes_steps(kind) else None
    return _make(kind, name, sparsity, lam=lam, num_steps=steps)


def paper_sae(
    name: str, *, sparsity: int, **options: Any
) -> "sae_gap.learners.SparseAutoencoder":
    """Makes a sparse autoencoder with the paper's hyper-parameters, which are the defaults.

    Args:
      name: the name of its encoder.
      sparsity: k, if the encoder has one.
      options: fields of `SparseAutoencoder`, such as `num_steps`.
    """
    return sae_gap.learners.SparseAutoencoder(_sae_encoder(name, sparsity), **options)


def tuned_sae(
    name: str, *, sparsity: int, input_dim: int, **options: Any
) -> "sae_gap.learners.SparseAutoencoder":
    """Makes a sparse autoencoder with the hyper-parameters, rate and penalty that suited its
    encoder best.

    Args:
      name: the name of its encoder.
      sparsity: k, if the encoder has one.
      input_dim: dimension of the signals.
      options: fields of `SparseAutoencoder`, such as `num_steps`.
    """
    encoder = _sae_encoder(name, sparsity, tuned=True)
    recipe = encoder.recipe
    return sae_gap.learners.SparseAutoencoder(
        encoder,
        learning_rate=recipe.rate,
        penalty=recipe.penalty / input_dim,
        **options,
    )


def sae_for_activations(
    name: str,
    *,
    sparsity: int,
    input_dim: int,
    **options: Any,
) -> "sae_gap.learners.SparseAutoencoder":
    """Makes a sparse autoencoder with the options that suit a network's activations.

    It learns from standardised rows, whose total variance is input_dim. Its rate warms up and falls
    along a cosine; the learner chooses its peak. Penalties and thresholds were tuned on the paper's
    codes, uniform on (0, 1), whose signals have variance sparsity / 3. With v the variance over
    that, thresholds and l1 penalties grow as √v, and penalties on the number of codes as v. The
    penalty is then steered to the sparsity.

    Args:
      name: the name of its encoder.
      sparsity: mean L0 to train at.
      input_dim: dimension of the activations.
      options: fields of `SparseAutoencoder`; they replace those that are set here. One is `base`,
        the learner whose dictionary it starts from.
    """
    check_number("sparsity", sparsity, above=0)
    learner = tuned_sae(name, sparsity=sparsity, input_dim=input_dim)
    scale = (3 * input_dim / sparsity) ** 0.5
    encoder = learner.encoder.scaled(scale)
    penalty = learner.penalty
    for _ in range(encoder.penalty_power):
        penalty *= scale
    suited: dict[str, Any] = {
        "encoder": encoder,
        "penalty": penalty,
        "l0": float(sparsity) if penalty else None,
        "schedule": "cosine",
        "standardised": True,
        "renormalise_every": None,
        "learning_rate": None,
        "weight_decay": 0.0,
        "batch_size": 256,
    }
    return replace(learner, **(suited | options))


def transcoder_for_activations(
    name: str, *, skip: bool = False, **options: Any
) -> "sae_gap.learners.sparse_transcoder.SparseTranscoder":
    """Makes a transcoder with the options of `sae_for_activations`, `input_dim` being that of what
    it explains.

    Args:
      name: the name of its encoder.
      skip: whether it has an affine skip.
      options: of `sae_for_activations`.
    """
    sae = sae_for_activations(name, **options)
    return sae_gap.learners.SparseTranscoder(**vars(sae), skip=skip)


def _sae_encoder(name: str, sparsity: int, tuned: bool = False) -> Any:
    check_choice("sae", name, saes())
    kind = saes()[name]
    return _make(kind, name, sparsity, **(kind.recipe.options if tuned else {}))


def _make(kind: Any, name: str, sparsity: int, **offered: Any) -> Any:
    try:
        return make(kind, k=sparsity, sparsity=sparsity, **offered)
    except TypeError as error:
        fault = f"{name} cannot be made from a sparsity and a weight alone ({error})"
        raise ValueError(f"{fault}; make it in Python.") from None
