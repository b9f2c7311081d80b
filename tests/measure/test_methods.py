"""Every option of the table of codes changes what is built, at L0s that are not whole, too small to
round, or beyond half of the width.
"""

from dataclasses import replace

import jax.numpy as jnp
from numpy.random import default_rng
from pytest import mark

from sae_gap.core import Model
from sae_gap.encoders import (
    FISTA,
    OMP,
    Affine,
    AtWeight,
    BatchPursuit,
    InNorm,
    Lasso,
    LearnedSteps,
    OnSupport,
    Own,
    Pruned,
    ScreenedPursuit,
    ThresholdingPursuit,
    TopK,
)
from sae_gap.measure import learner_at, learners_of, methods_of
from sae_gap.saes import SAE, AbsTopK

WIDTH = 6
DIM = 4
ATOMS = jnp.asarray(default_rng(0).normal(size=(DIM, WIDTH)), jnp.float32)
OWN = TopK(2)


def sae(encode=OWN, name="mine"):
    affine = encode and Affine(ATOMS, jnp.zeros(WIDTH))
    return SAE.of_model(Model(ATOMS, jnp.zeros(DIM), affine, encode), name=name)


def on(encoder, nonneg=True):
    return OnSupport(encoder, 0.0, nonneg, 0.0)


# By the definitions of the table: a pursuit has room for the next whole number of atoms, matching
# pursuit takes the nearest one, and neither is below 1.
BUILT = {
    ("own", 2.4): Own(OWN),
    ("own_refit", 2.4): on(Own(OWN)),
    ("lasso", 2.4): Lasso(l0=2.4, nonneg=True),
    ("lasso_refit", 2.4): on(Lasso(l0=2.4, nonneg=True)),
    ("omp", 2.4): on(OMP(2, nonneg=True)),
    ("omp", 2.6): on(OMP(3, nonneg=True)),
    ("omp", 0.3): on(OMP(1, nonneg=True)),
    ("screened", 2.4): BatchPursuit(3, l0=2.4),
    ("screened", 0.3): BatchPursuit(1, l0=0.3),
    ("proposed", 2.4): BatchPursuit(3, screens=1, l0=2.4, proposer=Own(OWN)),
    ("weighted", 2.4): InNorm(BatchPursuit(3, l0=2.4)),
    ("thresholded", 2.4): AtWeight(ThresholdingPursuit(), Lasso(l0=2.4, nonneg=True)),
    ("batch_pursuit_1x4", 2.4): BatchPursuit(3, screens=1, breadth=4, l0=2.4),
    ("screened_pursuit_2x4", 2.4): ScreenedPursuit(3, screens=2, breadth=4),
    ("fista_5", 2.4): Pruned(FISTA(l0=2.4, iterations=5), 2.4, by="magnitude"),
    ("lasso_pruned", 2.4): Pruned(on(Lasso(l0=4.8, nonneg=True)), 2.4, "loss", True),
    # A pursuit of twice as many is of all latents at most.
    ("lasso_pruned", 3.4): Pruned(on(Lasso(l0=WIDTH, nonneg=True)), 3.4, "loss", True),
    ("omp_pruned", 3.4): Pruned(on(OMP(WIDTH, nonneg=True)), 3.4, "loss", True),
    ("omp_pruned_refit", 2.4): on(Pruned(on(OMP(5, nonneg=True)), 2.4, "loss", True)),
}


@mark.parametrize(("name", "l0"), BUILT)
def test_codes_are_built_as_the_table_says(name, l0):
    (method,) = methods_of(sae().given, [name, f"other:{name}"], l0)
    assert method.encoder == BUILT[name, l0]
    level = {} if name.startswith("own") else {"level": l0}
    assert method.row == {"codes": name} | level
    # A signed SAE has the signed form, or none.
    signed = [*methods_of(sae(AbsTopK(2)).given, [name], l0)]
    if name.split("_")[0] in ("own", "lasso", "omp", "fista"):
        whole = signed[0].encoder
        parts = [whole, getattr(whole, "encoder", whole)]
        assert not any(getattr(part, "nonneg", False) for part in parts)
    else:
        assert not signed


@mark.parametrize(
    ("name", "l0", "encoder"),
    [
        ("retrained", 2.4, LearnedSteps(2, steps=0)),
        ("retrained", 0.3, LearnedSteps(1, steps=0)),
        ("hidden_8", 2.6, LearnedSteps(3, steps=0, hidden=8)),
        ("learned_steps_2", 2.6, LearnedSteps(3, steps=2)),
    ],
)
def test_an_encoder_is_trained_on_the_frozen_dictionary_of_another(name, l0, encoder):
    given = sae().given
    plain, refitted = methods_of(given, [name, f"{name}_refit"], l0)
    learner = plain.learner
    assert (learner.encoder, learner.base, learner.frozen) == (encoder, given, True)
    assert (plain.encoder, refitted.encoder) == (learner.encode, on(learner.encode))
    # Its passes, steps and rate, and the units in which it learns.
    assert (learner.num_steps, learner.batch_size, learner.schedule) == (
        6,
        512,
        "cosine",
    )
    assert learner.standardised and not learner.weight_decay
    assert learner.learning_rate is learner.renormalise_every is None
    assert not [*methods_of(sae(AbsTopK(2)).given, [name], l0)]


def test_controls_are_of_the_width_and_signs_of_the_first():
    one = sae(AbsTopK(2))
    other = sae(name="other")
    found = learners_of([one, other], ["random", "online_dl", "topk"], 2.4, DIM)
    assert [*found] == ["mine", "other", "random", "online_dl", "topk"]
    assert found["mine"] == (one.given, {}) and found["other"] == (other.given, {})
    for name in ("random", "online_dl", "topk"):
        assert found[name] == (
            learner_at(name, WIDTH, 2.4, DIM),
            {"family": "control", "signed": True},
        )
    assert [*learners_of([one], ["none"], 2.4, DIM)] == ["mine"]
    # Each argument reaches the learner.
    online = learner_at("online_dl", 40, 2.4, DIM, 7.0)
    assert online.centred and not online.incoherent
    decorrelated = learner_at("online_dl_incoherent", 40, 2.4, DIM, 7.0)
    assert decorrelated == replace(online, incoherent=True)
    assert (
        online.visits == 7
        and online.num_slots == learner_at("online_dl", 9, 2.4, DIM).num_slots
    )
    assert len({learner_at("online_dl", 9, l0, DIM).num_slots for l0 in (1, 3, 5)}) == 3
    started = learner_at(
        "topk_from_online_dl", 40, 2.6, DIM, 7.0, num_steps=3, batch_size=5
    )
    assert started.base == learner_at("online_dl", 40, 2.6, DIM, 7.0)
    assert (started.encoder.k, started.num_steps, started.batch_size) == (3, 3, 5)
    for ending, skip in (("_transcoder", False), ("_skip_transcoder", True)):
        assert learner_at(f"topk{ending}", 40, 2.6, DIM).skip is skip
