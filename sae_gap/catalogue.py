"""What the suite has, by name: encoders, learners, metrics and SAEs, and an encoder or a learner
made from its name.

A folder is the register: whatever class or metric a module of it defines is listed. Asking for a
list loads JAX; importing this module does not, so that rows are read without it.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sae_gap.core import registry
from sae_gap.core.checks import check_choice, check_number

if TYPE_CHECKING:
    import sae_gap.encoders.encoder
    import sae_gap.learners.learner
    import sae_gap.learners.sparse_autoencoder
    import sae_gap.metrics.metric


@functools.cache
def encoders() -> dict[str, Any]:
    """Every encoder of `sae_gap.encoders`, a class, by its name."""
    from sae_gap.encoders.encoder import Encoder

    return registry.classes("sae_gap.encoders", Encoder)


def saes() -> dict[str, Any]:
    """Every encoder that a sparse autoencoder trains, by its name."""
    return {
        name: kind for name, kind in encoders().items() if getattr(kind, "recipe", None) is not None
    }


@functools.cache
def learners() -> dict[str, Any]:
    """Every learner of `sae_gap.learners`, a class, by its name."""
    from sae_gap.learners.learner import Learner

    return registry.classes("sae_gap.learners", Learner)


@functools.cache
def metrics() -> dict[str, Any]:
    """Every metric of `sae_gap.metrics`, an object, by its name."""
    from sae_gap.metrics.metric import Metric

    return registry.instances("sae_gap.metrics", Metric)


def default_metrics() -> tuple["sae_gap.metrics.metric.Metric", ...]:
    """What a study measures unless it names its own."""
    return tuple(metric for metric in metrics().values() if metric.everywhere)


def default_columns() -> list[str]:
    """The columns of what a study measures unless it names its own."""
    return [name for metric in default_metrics() for name in metric.columns]


def make(kind: Callable[..., Any], **offered: Any) -> Any:
    """An instance of a class, given those of the offered values that it has a field for; None
    leaves a default.
    """
    fields = inspect.signature(kind).parameters
    return kind(
        **{name: value for name, value in offered.items() if value is not None and name in fields}
    )


def make_encoder(
    name: str,
    *,
    sparsity: int,
    lam: float = 0.1,
    base: "sae_gap.encoders.encoder.Encoder | None" = None,
    nonneg: bool | None = None,
    l0: float | None = None,
) -> "sae_gap.encoders.encoder.Encoder":
    """An encoder of `sae_gap.encoders`.

    Args:
      name: its name.
      sparsity: of an encoder with a field `k` or `sparsity`.
      lam: of an encoder with a field `lam`.
      base: the encoder whose support it refits, of one with a field `encoder`.
      nonneg: of an encoder with a field `nonneg`; None leaves its own.
      l0: of an encoder with a field `l0`, which `prepared` reads; None leaves its own.

    Raises:
      ValueError: no encoder has the name, or it needs more.
    """
    check_choice("encoder", name, encoders())
    offered = {"k": sparsity, "sparsity": sparsity, "lam": lam, "encoder": base, "nonneg": nonneg}
    return _make(encoders()[name], name, l0=l0, **offered)


def make_learner(
    name: str, *, sparsity: int, input_dim: int, lam: float = 0.1, num_steps: int | None = None
) -> "sae_gap.learners.learner.Learner":
    """A learner of `sae_gap.learners`, or the tuned SAE with an encoder of that name, with or
    without `sae_` before it.

    Args:
      name: its name.
      sparsity: of a learner or an encoder with a field `k` or `sparsity`.
      input_dim: dimension of the signals.
      lam: of a learner with a field `lam`.
      num_steps: steps of its fit; None takes its own default.

    Raises:
      ValueError: no learner and no SAE has the name, or it needs more, such as the learner that it
        goes on from.
    """
    from sae_gap.learners.learner import takes_steps

    if name not in learners():
        steps = {} if num_steps is None else {"num_steps": num_steps}
        return tuned_sae(name.removeprefix("sae_"), sparsity=sparsity, input_dim=input_dim, **steps)
    kind = learners()[name]
    return _make(
        kind,
        name,
        k=sparsity,
        sparsity=sparsity,
        lam=lam,
        num_steps=num_steps if takes_steps(kind) else None,
    )


def paper_sae(
    name: str, *, sparsity: int, **options: Any
) -> "sae_gap.learners.sparse_autoencoder.SparseAutoencoder":
    """A sparse autoencoder with the defaults throughout, which are the paper's.

    Args:
      name: of its encoder.
      sparsity: k of an encoder that has one.
      options: of `SparseAutoencoder`, such as `num_steps`.
    """
    from sae_gap.learners.sparse_autoencoder import SparseAutoencoder

    return SparseAutoencoder(_sae_encoder(name, sparsity), **options)


def tuned_sae(
    name: str, *, sparsity: int, input_dim: int, **options: Any
) -> "sae_gap.learners.sparse_autoencoder.SparseAutoencoder":
    """A sparse autoencoder with the hyper-parameters, the rate and the penalty that were found best
    for its encoder.

    Args:
      name: of its encoder.
      sparsity: k of an encoder that has one.
      input_dim: dimension of the signals.
      options: of `SparseAutoencoder`, such as `num_steps`.
    """
    from sae_gap.learners.sparse_autoencoder import SparseAutoencoder

    encoder = _sae_encoder(name, sparsity, tuned=True)
    recipe = encoder.recipe
    return SparseAutoencoder(
        encoder, learning_rate=recipe.rate, penalty=recipe.penalty / input_dim, **options
    )


def sae_for_activations(
    name: str,
    *,
    sparsity: int,
    input_dim: int,
    base: "sae_gap.learners.learner.Learner | None" = None,
    **options: Any,
) -> "sae_gap.learners.sparse_autoencoder.SparseAutoencoder":
    """A sparse autoencoder with the options that suit a network's activations.

    It learns from standardised rows, whose total variance is input_dim, at a rate that warms up,
    falls along a cosine and is left to the learner. Tuned penalties and thresholds hold where codes
    are as large as the paper's, uniform on (0, 1), whose signals have a variance of sparsity / 3.
    Thresholds and l1 penalties grow with the root of the variance over that, and penalties on the
    number of codes with all of it. From there a penalty is steered to the sparsity.

    Args:
      name: of its encoder.
      sparsity: mean L0 to train at.
      input_dim: of the activations.
      base: whose dictionary it starts from; None starts at random.
      options: of `SparseAutoencoder`, in the place of these.
    """
    from sae_gap.encoders.jumprelu import JumpReLU

    check_number("sparsity", sparsity, above=0)
    learner = tuned_sae(name, sparsity=sparsity, input_dim=input_dim, base=base)
    scale = (3 * input_dim / sparsity) ** 0.5
    encoder, penalty = learner.encoder, learner.penalty * scale
    if isinstance(encoder, JumpReLU):
        threshold, bandwidth = encoder.threshold * scale, encoder.bandwidth * scale
        encoder = dataclasses.replace(encoder, threshold=threshold, bandwidth=bandwidth)
        penalty *= scale
    suited = {
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
    return dataclasses.replace(learner, **(suited | options))


def _sae_encoder(name: str, sparsity: int, tuned: bool = False) -> Any:
    check_choice("sae", name, saes())
    kind = saes()[name]
    return _make(
        kind, name, k=sparsity, sparsity=sparsity, **(kind.recipe.options if tuned else {})
    )


def _make(kind: Any, name: str, **offered: Any) -> Any:
    try:
        return make(kind, **offered)
    except TypeError as error:
        fault = f"{name} cannot be made from a sparsity and a weight alone ({error})"
        raise ValueError(f"{fault}; make it in Python.") from None
