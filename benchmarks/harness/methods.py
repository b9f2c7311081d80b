"""The methods that studies share: each is a learner crossed with an encoder, named once."""

import math
from typing import Any

from benchmarks.harness.bench import Preset
from sae_gap.data.recording import Source
from sae_gap.encoders.encoder import Encoder
from sae_gap.encoders.linear import Linear
from sae_gap.encoders.on_support import LeastSquares, OnSupport
from sae_gap.learners import by_name
from sae_gap.learners.baselines import PCA, Raw
from sae_gap.learners.dl_fista import DLFista
from sae_gap.learners.learner import Learner
from sae_gap.learners.online.families import Families
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.learners.online.pruned import Pruned
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.probe import LinearProbe
from sae_gap.learners.softplus_adam import SoftplusAdam
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.learners.surgery import Surgery
from sae_gap.study.study import Method

# The SAEs of the paper.
SAES = ("relu", "topk", "jumprelu", "mp")
# The published SAEs are renormalised every 50 epochs of 40 batches; epochs here may be few and long.
RENORMALISE_EVERY = 2_000


def coded(
    name: str,
    family: str,
    learner: Learner,
    p: Preset,
    encoder: Encoder | None = None,
    at: tuple[int, ...] = (),
    **coordinates: str,
) -> Method:
    """A learner's dictionary with the best codes on it, which rows call "lasso" by both protocols' iterations.

    Args:
      name: the method's.
      family: the method's.
      learner: where the dictionary comes from.
      p: the preset, whose lasso finds the codes.
      encoder: what finds them in the place of that.
      at: steps of the fit that have rows of their own.
      **coordinates: further columns of its rows.
    """
    return Method(name, family, learner, p.lasso() if encoder is None else encoder, {"inference": "lasso"} | coordinates, at)


def sae(name: str, source: Source, p: Preset) -> SparseAutoencoder:
    """An SAE as the paper trains it."""
    return by_name.sae(name, sparsity=source.sparsity, num_steps=p.epochs)


def tuned(name: str, source: Source, p: Preset) -> SparseAutoencoder:
    """An SAE at its best, for a number of gradient steps rather than of epochs."""
    steps_per_epoch = math.ceil(source.num_train / SparseAutoencoder.batch_size)
    options: dict[str, Any] = {
        "num_steps": math.ceil(p.sae_steps / steps_per_epoch),
        "renormalise_every": max(1, round(RENORMALISE_EVERY / steps_per_epoch)),
    }
    input_dim = source.input_dim
    assert input_dim is not None  # A setting fills it in.
    return by_name.tuned_sae(name, sparsity=source.sparsity, input_dim=input_dim, **options)


def dl_fista(p: Preset, base: Learner | None = None) -> DLFista:
    """DL-FISTA, fitted in the paper's protocol on the very split that it is scored on."""
    return DLFista(p.weight, num_steps=p.rounds, split="id" if p.protocol == "paper" else "train", base=base)


def online(p: Preset, **options: Any) -> OnlineDictionary:
    """The suite's own dictionary learning, by the options of a preset."""
    return OnlineDictionary(visits=p.visits, **dict(p.online), **options)


def probe() -> Method:
    return Method("linear_probe", "probe", LinearProbe(), Linear())


def baselines() -> list[Method]:
    """What anything must beat: the signals themselves as codes, and their principal components."""
    return [Method(learner.name, "baseline", learner, Linear()) for learner in (Raw(), PCA())]


def own(name: str, source: Source, p: Preset, **options: Any) -> Method:
    """An SAE with its own codes."""
    learner = sae(name, source, p)
    return Method(f"sae_{name}", "sae", learner, learner.encoder, **options)


def frozen(name: str, source: Source, p: Preset, *, lam: float | None = None) -> Method:
    """An SAE's dictionary with the best codes, found from zero."""
    return coded(f"frozen_{name}", "frozen", sae(name, source, p), p, p.lasso(lam=lam))


def refined(name: str, source: Source, p: Preset) -> Method:
    """The same, found from the SAE's codes."""
    learner = sae(name, source, p)
    return coded(f"refined_{name}", "refined", learner, p, p.lasso(learner.encoder))


def support(name: str, source: Source, p: Preset) -> Method:
    """An SAE's dictionary with the best values on the support that its own codes have."""
    learner = sae(name, source, p)
    return Method(f"support_{name}", "support", learner, OnSupport(learner.encoder, p.weight))


def least_squares(name: str, source: Source, p: Preset) -> Method:
    """The same support with the values that fit the signals best, as published."""
    learner = sae(name, source, p)
    return Method(f"least_squares_{name}", "support", learner, LeastSquares(learner.encoder))


def renormed(name: str, source: Source, p: Preset, columns: str) -> Method:
    """An SAE's dictionary with other lengths of its atoms, and the best codes on that."""
    return coded(f"{columns}_{name}", "frozen", Surgery(columns, base=sae(name, source, p)), p)


def learned(p: Preset) -> list[Method]:
    """Dictionary learning: alternating as published, and this suite's own."""
    learners: dict[str, Learner] = {"dl_fista": dl_fista(p), "online_dl": online(p)}
    return [coded(name, "dictionary_learning", learner, p) for name, learner in learners.items()]


def families(p: Preset) -> Method:
    """Dictionary learning that tells parents from children."""
    learner = Families(base=online(p, incoherent=True), **dict(p.families))
    return coded("online_dl_families", "dictionary_learning", learner, p)


def pruned(p: Preset) -> Method:
    """The atoms of most energy, a quarter, of dictionary learning that tells parents from children."""
    learner = Pruned(num_slots=dict(p.families).get("num_slots"), base=families(p).learner)
    return coded("online_dl_families_pruned", "dictionary_learning", learner, p)


def softplus_adam(p: Preset) -> Method:
    learner = SoftplusAdam(p.weight, num_steps=p.blocks, split="id" if p.protocol == "paper" else "train")
    if p.protocol == "paper":
        return Method("softplus_adam", "dictionary_learning", learner, learner.encode)
    return coded("softplus_adam", "dictionary_learning", learner, p)


def oracle(p: Preset, *, lam: float | None = None) -> Method:
    """The true dictionary with the best codes: the ceiling for inference at a weight."""
    return coded("fista_oracle", "oracle", Oracle(), p, p.lasso(lam=lam))


def everything(source: Source, p: Preset) -> list[Method]:
    """The methods of the paper's sweeps over sizes."""
    saes = [own(name, source, p) for name in SAES]
    return [*baselines(), probe(), *saes, *learned(p), softplus_adam(p), oracle(p)]
