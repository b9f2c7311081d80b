"""The methods that studies share: each function returns a list of learners crossed with encoders.

The SAEs are the paper's four unless others are named.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import learners
from benchmarks.harness.preset import Preset
from benchmarks.options import option
from sae_gap import catalogue
from sae_gap.data import Source
from sae_gap.encoders import Encoder, LeastSquares, Linear, OnSupport
from sae_gap.learners import PCA, Learner, LinearProbe, Oracle, Raw, SparseAutoencoder
from sae_gap.study import Method

SAES = ("relu", "topk", "jumprelu", "mp")


@dataclasses.dataclass(frozen=True)
class Tuned(Preset):
    """A preset with SAEs that have tuned options, beside the paper's."""

    tuned: tuple[str, ...] = option(
        (), "SAEs to train with tuned options too.", choices=tuple(catalogue.saes())
    )


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


def probe() -> list[Method]:
    return [Method("linear_probe", "probe", LinearProbe(), Linear())]


def baselines() -> list[Method]:
    """Baselines that anything must beat: the signals as codes, and their principal components."""
    return [Method(learner.name, "baseline", learner, Linear()) for learner in (Raw(), PCA())]


def saes(source: Source, p: Preset, names: Sequence[str] = SAES) -> list[SparseAutoencoder]:
    """SAEs trained as in the paper."""
    return [learners.sae(name, source, p) for name in names]


def with_tuned(source: Source, p: Tuned) -> dict[str, SparseAutoencoder]:
    """The paper's SAEs and the tuned ones, which differ in their options, by name."""
    tuned = {f"tuned_{name}": learners.tuned_sae(name, source, p) for name in p.tuned}
    return {sae.name: sae for sae in saes(source, p)} | tuned


def own(source: Source, p: Preset, *, names: Sequence[str] = SAES, **options: Any) -> list[Method]:
    """SAEs with their own codes."""
    return [
        Method(f"sae_{sae.name}", "sae", sae, sae.encoder, **options)
        for sae in saes(source, p, names)
    ]


def frozen(source: Source, p: Preset, *, weights: Sequence[float | None] = (None,)) -> list[Method]:
    """The dictionaries of SAEs with the best codes, found from zero, at each weight."""
    each = itertools.product(saes(source, p), weights)
    return [coded(f"frozen_{sae.name}", sae, p, p.lasso(lam=lam)) for sae, lam in each]


def refined(source: Source, p: Preset) -> list[Method]:
    """The dictionaries of SAEs with the best codes, found from the SAEs' codes."""
    return [
        coded(f"refined_{sae.name}", sae, p, p.lasso(sae.encoder), family="refined")
        for sae in saes(source, p)
    ]


def support(source: Source, p: Preset) -> list[Method]:
    """The dictionaries of SAEs with the best values on the support of their own codes."""
    return [
        Method(f"support_{sae.name}", "support", sae, OnSupport(sae.encoder, p.lam))
        for sae in saes(source, p)
    ]


def least_squares(source: Source, p: Preset) -> list[Method]:
    """The same support with the values that fit the signals best, as published."""
    return [
        Method(f"least_squares_{sae.name}", "support", sae, LeastSquares(sae.encoder))
        for sae in saes(source, p)
    ]


def parts(source: Source, p: Preset) -> list[Method]:
    """SAEs with all codes that split their distance to the oracle."""
    return [*own(source, p), *support(source, p), *frozen(source, p), *refined(source, p)]


def learned(p: Preset) -> list[Method]:
    """Dictionary learning: alternating as published, and this suite's own."""
    return [coded(one.name, one, p) for one in (learners.dl_fista(p), learners.online(p))]


def families(p: Preset, pruned: bool = False) -> list[Method]:
    """Dictionary learning that tells parents from children; with `pruned`, also the quarter of its
    atoms with the most energy.
    """
    kinds = (learners.families, learners.pruned) if pruned else (learners.families,)
    return [coded(one.name, one, p) for one in (kind(p) for kind in kinds)]


def softplus_adam(p: Preset) -> list[Method]:
    learner = learners.softplus_adam(p)
    if p.protocol == "paper":
        return [Method(learner.name, "dictionary_learning", learner, learner.encode)]
    return [coded(learner.name, learner, p)]


def oracle(p: Preset, *, weights: Sequence[float | None] = (None,)) -> list[Method]:
    """The true dictionary with the best codes: the upper bound for inference at each weight."""
    return [coded("fista_oracle", Oracle(), p, p.lasso(lam=lam)) for lam in weights]


def everything(source: Source, p: Preset) -> list[Method]:
    """The methods of the paper's sweeps over sizes."""
    return [*baselines(), *probe(), *own(source, p), *learned(p), *softplus_adam(p), *oracle(p)]
