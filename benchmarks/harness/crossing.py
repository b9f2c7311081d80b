"""Any learner crossed with any encoder, by name: what is registered runs in every study, whether
that lists it or not.

`LEARNER:ENCODER` has the codes of the encoder on the learner's dictionary, `LEARNER` alone the
certified lasso, and `sae_ENCODER` is a sparse autoencoder with its own codes. A dictionary that the
study has itself is the study's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.harness import methods
from benchmarks.harness.preset import Preset
from sae_gap import catalogue
from sae_gap.data.recording import Source
from sae_gap.encoders.encoder import AmortisedEncoder, Encoder
from sae_gap.learners.amortised import Amortised
from sae_gap.learners.learner import HostLearner, Learner
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.study.study import Method


def method_of(name: str, study: Sequence[Method], source: Source, p: Preset) -> Method:
    """The method of a name that the study has not.

    Args:
      name: "LEARNER:ENCODER", "LEARNER" or "sae_ENCODER".
      study: all methods of the study.
      source: what has the sparsity and the dimension.
      p: what has the weight and the lengths.

    Raises:
      ValueError: nothing of the name is registered, or it cannot be made of these.
    """
    left, colon, right = name.partition(":")
    common = {
        method.name: method
        for method in (*methods.everything(source, p), *methods.families(p, pruned=True))
    }
    if not colon and name in common:
        return common[name]
    sae = left.removeprefix("sae_")
    if sae != left and sae in catalogue.learners():
        raise ValueError(
            f"--methods has {name!r}, but {sae} is no SAE; write {name.removeprefix('sae_')}."
        )
    learner = _learner(sae if sae in catalogue.saes() else left, study, common, source, p)
    own = learner.encode
    if colon:
        family = "frozen" if learner.family == "sae" else learner.family
        crossed, encoder = _encoded(learner, right, source, p)
        # The lasso of both protocols has one name, and what is trained for a dictionary its own.
        told = {"inference": right} if encoder == p.lasso() or crossed is not learner else {}
        return Method(name, family, crossed, encoder, told)
    if left.startswith("sae_") and own is not None:
        return Method(name, "sae", learner, own)
    return methods.coded(name, learner, p, family="frozen" if own is not None else "")


def _learner(
    name: str, study: Sequence[Method], common: Mapping[str, Method], source: Any, p: Preset
) -> Learner:
    """The study's own learner of a name, or else a shared one, or else one that is made by
    convention.
    """
    for known in (study, common.values()):
        found = [method.learner for method in known if method.learner.name == name]
        if found:
            # What goes on from a dictionary has its name too.
            return min(found, key=_depth)
    kind = catalogue.learners().get(name)
    if kind is None and name not in catalogue.saes():
        raise ValueError(
            f"--methods has {name!r}, which is no method of this study, no learner "
            f"({', '.join(catalogue.learners())}) and no "
            f"SAE ({', '.join(catalogue.saes())})."
        )
    # Steps on the host are minibatches, not epochs, and their number is the learner's own.
    steps = None if kind is not None and issubclass(kind, HostLearner) else p.epochs
    return catalogue.make_learner(
        name, sparsity=source.sparsity, input_dim=source.input_dim, lam=p.lam, num_steps=steps
    )


def _depth(learner: Learner) -> int:
    return 0 if learner.base is None else 1 + _depth(learner.base)


def _encoded(learner: Learner, name: str, source: Any, p: Preset) -> tuple[Learner, Encoder]:
    """The learner and the encoder of a crossing; an encoder with parameters is trained on the
    learner's dictionary, by its own loss where its batches leave something behind.
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
