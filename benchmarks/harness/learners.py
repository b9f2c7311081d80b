"""Learners with the training lengths of a preset."""

import math
from typing import Any

from benchmarks.harness import Preset
from sae_gap import catalogue
from sae_gap.learners import (
    DLFista,
    Families,
    Learner,
    OnlineDictionary,
    Pruned,
    SoftplusAdam,
    SparseAutoencoder,
)

# The published SAEs are renormalised every 50 epochs of 40 batches; here epochs may be few and
# long.
_RENORMALISE_EVERY = 2_000


def sae(name: str, source: Any, p: Preset) -> SparseAutoencoder:
    """An SAE trained as in the paper."""
    return catalogue.paper_sae(name, sparsity=source.sparsity, num_steps=p.epochs)


def tuned_sae(name: str, source: Any, p: Preset) -> SparseAutoencoder:
    """A tuned SAE, for a number of gradient steps instead of epochs."""
    steps_per_epoch = math.ceil(source.num_train / SparseAutoencoder.batch_size)
    return catalogue.tuned_sae(
        name,
        sparsity=source.sparsity,
        input_dim=source.input_dim,
        num_steps=math.ceil(p.sae_steps / steps_per_epoch),
        renormalise_every=max(1, round(_RENORMALISE_EVERY / steps_per_epoch)),
    )


def dl_fista(p: Preset, base: Learner | None = None) -> DLFista:
    """DL-FISTA; the paper's protocol fits it on the very split that is scored."""
    return DLFista(p.lam, num_steps=p.rounds, split=_split(p), base=base)


def online(p: Preset, **options: Any) -> OnlineDictionary:
    """The suite's own dictionary learning."""
    return OnlineDictionary(**{"visits": p.visits, **p.online, **options})


def families(p: Preset) -> Families:
    """Online dictionary learning that tells parents from children."""
    return Families(base=online(p, incoherent=True), **p.families)


def pruned(p: Preset) -> Pruned:
    """The quarter of the atoms of `families` with the most energy."""
    base = families(p)
    return Pruned(num_slots=base.num_slots, base=base)


def softplus_adam(p: Preset) -> SoftplusAdam:
    return SoftplusAdam(p.lam, num_steps=p.blocks, split=_split(p))


def _split(p: Preset) -> str:
    return "id" if p.protocol == "paper" else "train"
