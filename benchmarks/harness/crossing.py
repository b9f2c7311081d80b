"""Crosses any learner with any encoder by name: whatever is registered runs in every study, listed
there or not.

`LEARNER:ENCODER` is the encoder on the learner's dictionary, `LEARNER` alone the certified lasso,
and `sae_ENCODER` a sparse autoencoder with its own codes. A study's own dictionary takes
precedence.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.harness import methods
from benchmarks.harness.preset import Preset
from sae_gap import catalogue
from sae_gap.data import Source
from sae_gap.encoders import AmortisedEncoder
from sae_gap.learners import Amortised, HostLearner, Learner, SparseAutoencoder
from sae_gap.study import Method, chain

_COMMON = methods.every(methods.everything, methods.pruned)


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
        told = {"inference": right} if encoder == p.lasso() or crossed is not learner else {}
        return Method(name, family, crossed, encoder, told)
    if sae != left and own is not None:
        return Method(name, "sae", learner, own)
    return methods.coded(name, learner, p, family="frozen" if own is not None else "")


def learner_of(name: str, study: Sequence[Method], source: Any, p: Preset) -> Learner:
    """The learner of a name: the study's, else a shared one, else one made by convention.

    Raises:
      ValueError: there is none of that name.
    """
    known = (method.learner for method in (*study, *_COMMON(source, p)))
    # Learners that build on a dictionary share its name.
    found = [learner for learner in known if learner.name == name]
    if found:
        return min(found, key=lambda learner: len(chain(learner)))
    kind = catalogue.learners().get(name)
    if kind is None and name not in catalogue.saes():
        raise ValueError(
            f"{name!r} is no method of this study, no learner "
            f"({', '.join(catalogue.learners())}) and no "
            f"SAE ({', '.join(catalogue.saes())})."
        )
    # On the host, steps are minibatches, not epochs, and the learner sets their number.
    steps = None if kind is not None and issubclass(kind, HostLearner) else p.epochs
    return catalogue.make_learner(
        name, sparsity=source.sparsity, input_dim=source.input_dim, lam=p.lam, num_steps=steps
    )


def _encoded(learner, name, source, p):
    """The learner and the encoder of a crossing. An encoder with parameters is trained on the
    learner's dictionary, by its own loss if its batches leave state behind.
    """
    if name == "lasso":
        return learner, p.lasso()
    if learner.encode is not None and learner.encode.name == name:
        return learner, learner.encode
    if name not in catalogue.encoders():
        raise ValueError(
            f"--methods has {name!r} for an encoder; choose from {', '.join(catalogue.encoders())}."
        )
    encoder = catalogue.make_encoder(name, sparsity=source.sparsity, lam=p.lam, base=learner.encode)
    if not isinstance(encoder, AmortisedEncoder):
        return learner, encoder
    if encoder.parameters(jnp.zeros((1, 1)), jax.random.key(0)) is None:
        return learner, encoder
    if type(encoder).observe is not AmortisedEncoder.observe:
        frozen = SparseAutoencoder(encoder, base=learner, frozen=True, num_steps=p.epochs)
        return frozen, encoder
    trained = Amortised((encoder,), p.lam, base=learner, num_steps=p.epochs)
    return trained, trained.members[0]
