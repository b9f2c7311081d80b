"""The methods that studies share, as functions of a source and a preset that return a list.

The SAEs are the paper's four unless others are named.

`method_of` crosses any learner with any encoder by name: whatever is registered runs in every
study, listed there or not. `LEARNER:ENCODER` is the encoder on the learner's dictionary, `LEARNER`
alone the certified lasso, and `sae_ENCODER` a sparse autoencoder with its own codes. A study's own
dictionary takes precedence.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.harness import Preset, learners
from benchmarks.options import frozen, option
from sae_gap import catalogue
from sae_gap.data import Source
from sae_gap.encoders import AmortisedEncoder, Encoder, LeastSquares, Linear, OnSupport
from sae_gap.learners import (
    PCA,
    Amortised,
    HostLearner,
    Learner,
    LinearProbe,
    Oracle,
    Raw,
    SparseAutoencoder,
)
from sae_gap.study import Method, chain

Listed = Callable[[Source, Any], list[Method]]
SAES = ("relu", "topk", "jumprelu", "mp")


@frozen
class Tuned(Preset):
    """A preset with SAEs that have tuned options, beside the paper's."""

    tuned: tuple[str, ...] = option(
        (), "SAEs to train with tuned options too.", choices=tuple(catalogue.saes())
    )


def with_tuned(source: Source, p: Tuned) -> dict[str, SparseAutoencoder]:
    """The paper's SAEs and the tuned ones, which differ in their options, by name."""
    tuned = {f"tuned_{name}": learners.tuned_sae(name, source, p) for name in p.tuned}
    return {name: learners.sae(name, source, p) for name in SAES} | tuned


def coded(
    name: str,
    learner: Learner,
    p: Preset,
    encoder: Encoder | None = None,
    at: tuple[int, ...] = (),
    family: str = "",
    **coordinates: str,
) -> Method:
    """A learner's dictionary with its best codes; rows call them "lasso" whichever protocol's
    iterations find them.

    Args:
      name: name of the method.
      learner: source of the dictionary.
      p: the preset, whose lasso finds the codes.
      encoder: finds the codes instead.
      at: steps of the fit that have their own rows.
      family: family of the method; by default its learner's, or "frozen" for an SAE.
      **coordinates: further columns of its rows.
    """
    return Method(
        name,
        family or ("frozen" if learner.family == "sae" else learner.family),
        learner,
        p.lasso() if encoder is None else encoder,
        {"inference": "lasso"} | coordinates,
        at,
    )


def on(kind: str, name: str, sae: Any, p: Preset, **row: Any) -> Method:
    """An SAE's dictionary with a kind of codes.

    Args:
      kind: "sae", its own; "support", the best values on their support; "least_squares", the
        values there that fit the signals best, as published; "frozen", the best codes, found from
        zero; or "refined", found from its own.
      name: name of the SAE.
      sae: the SAE.
      p: the preset.
      **row: further columns of the rows.
    """
    own = sae.encoder
    if kind in ("frozen", "refined"):
        best = p.lasso(own if kind == "refined" else None)
        return coded(f"{kind}_{name}", sae, p, best, family=kind, **row)
    encoder = {
        "support": OnSupport(own, p.lam),
        "least_squares": LeastSquares(own),
    }.get(kind, own)
    return Method(
        f"{kind}_{name}", "sae" if kind == "sae" else "support", sae, encoder, row
    )


def along(method: Method, at: tuple[int, ...]) -> Method:
    """The method at some steps of its fit and at the end; a method without a fit as it is."""
    last = method.learner.num_steps
    steps = *(step for step in at if step < last), last
    return dataclasses.replace(method, at=steps if last else ())


def every(*kinds: Listed) -> Listed:
    """The methods of some kinds, one kind after the other."""
    return lambda source, p: [method for kind in kinds for method in kind(source, p)]


def saes(*kinds: str, names: tuple[str, ...] = SAES) -> Listed:
    """SAEs trained as in the paper, with kinds of codes, see `on`."""
    return lambda source, p: [
        on(kind, name, learners.sae(name, source, p), p)
        for kind in kinds
        for name in names
    ]


def _plain(*made: Learner) -> Listed:
    return lambda source, p: [
        Method(one.name, one.family, one, Linear()) for one in made
    ]


def _best(*kinds: Callable[[Any], Learner]) -> Listed:
    return lambda source, p: [
        coded(one.name, one, p) for one in (kind(p) for kind in kinds)
    ]


def softplus_adam(source: Source, p: Preset) -> list[Method]:
    """Dictionary learning by gradients, with its own codes in the paper's protocol."""
    learner = learners.softplus_adam(p)
    if p.protocol == "paper":
        return [Method(learner.name, learner.family, learner, learner.encode)]
    return [coded(learner.name, learner, p)]


def oracle(source: Source, p: Preset) -> list[Method]:
    """The true dictionary with the best codes: the upper bound for inference."""
    return [coded("fista_oracle", Oracle(), p)]


probe = _plain(LinearProbe())
# SAEs with all codes that split their distance to the oracle.
parts = saes("sae", "support", "frozen", "refined")
# Alternating as published, and this suite's own.
learned = _best(learners.dl_fista, learners.online)
# Those that tell parents from children, and the quarter of their atoms with the most energy.
families = _best(learners.families)
pruned = _best(learners.families, learners.pruned)
# The methods of the paper's sweeps over sizes. Anything must beat the first two: the signals as
# codes, and their principal components.
everything = every(
    _plain(Raw(), PCA()), probe, saes("sae"), learned, softplus_adam, oracle
)
_COMMON = every(everything, pruned)


def method_of(name: str, study: Sequence[Method], source: Source, p: Preset) -> Method:
    """The method of a name that the study does not list.

    Args:
      name: "LEARNER:ENCODER", "LEARNER" or "sae_ENCODER".
      study: all methods of the study.
      source: gives the sparsity and the dimension.
      p: gives the weight and the lengths.

    Raises:
      ValueError: the name is not registered, or no method can be made of it.
    """
    left, colon, right = name.partition(":")
    for method in _COMMON(source, p):
        if method.name == name:
            return method
    sae = left.removeprefix("sae_")
    learner = learner_of(sae if sae in catalogue.saes() else left, study, source, p)
    own = learner.encode
    if colon:
        family = "frozen" if learner.family == "sae" else learner.family
        crossed, encoder = _encoded(learner, right, source, p)
        # The lasso has one name in both protocols; a learner trained for the crossing has its own.
        row = {}
        if encoder == p.lasso() or crossed is not learner:
            row["inference"] = right
        return Method(name, family, crossed, encoder, row)
    if sae != left and own is not None:
        return Method(name, "sae", learner, own)
    return coded(name, learner, p, family="frozen" if own is not None else "")


def learner_of(name: str, study: Sequence[Method], source: Any, p: Preset) -> Learner:
    """The learner of a name: the study's, else a shared one, else one made by convention.

    Raises:
      ValueError: there is none of that name.
    """
    # Learners that build on a dictionary share its name.
    found = [
        method.learner
        for method in (*study, *_COMMON(source, p))
        if method.learner.name == name
    ]
    if found:
        return min(found, key=lambda learner: len(chain(learner)))
    kind = catalogue.learners().get(name)
    if kind is None and name not in catalogue.saes():
        raise ValueError(
            f"{name!r} is no method of this study, no learner ({', '.join(catalogue.learners())}) "
            f"and no SAE ({', '.join(catalogue.saes())})."
        )
    # On the host, steps are minibatches, not epochs, and the learner sets their number.
    steps = None if kind is not None and issubclass(kind, HostLearner) else p.epochs
    return catalogue.make_learner(
        name,
        sparsity=source.sparsity,
        input_dim=source.input_dim,
        lam=p.lam,
        num_steps=steps,
    )


def _encoded(
    learner: Learner, name: str, source: Any, p: Preset
) -> tuple[Learner, Encoder]:
    """The learner and the encoder of a crossing. An encoder with parameters is trained on the
    learner's dictionary, by its own loss if its batches leave state behind.
    """
    if name == "lasso":
        return learner, p.lasso()
    if learner.encode is not None and learner.encode.name == name:
        return learner, learner.encode
    encoder = catalogue.make_encoder(
        name, sparsity=source.sparsity, lam=p.lam, base=learner.encode
    )
    if (
        not isinstance(encoder, AmortisedEncoder)
        or encoder.parameters(jnp.zeros((1, 1)), jax.random.key(0)) is None
    ):
        return learner, encoder
    if type(encoder).observe is not AmortisedEncoder.observe:
        return SparseAutoencoder(
            encoder, base=learner, frozen=True, num_steps=p.epochs
        ), encoder
    trained = Amortised((encoder,), p.lam, base=learner, num_steps=p.epochs)
    return trained, trained.members[0]
