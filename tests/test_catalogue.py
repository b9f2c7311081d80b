"""Encoders and learners by name: the paper's SAEs have the defaults, and tuned ones differ as they
say.
"""

import dataclasses

from pytest import approx, mark, raises

from sae_gap import catalogue
from sae_gap.encoders import OMP, JumpReLU, MatchingPursuit, ReLU, TopK
from sae_gap.learners import (
    DLFista,
    OnlineDictionary,
    Oracle,
    SparseAutoencoder,
    SparseTranscoder,
)


def test_saes_by_default_are_the_papers():
    encoders = {
        "relu": ReLU(),
        "topk": TopK(7),
        "jumprelu": JumpReLU(threshold=1e-3, bandwidth=1e-3),
        "mp": MatchingPursuit(7),
    }
    for name, encoder in encoders.items():
        learner = catalogue.paper_sae(name, sparsity=7)
        assert learner == SparseAutoencoder(encoder) and learner.name == name


@mark.parametrize("name", catalogue.saes())
def test_tuned_saes_have_the_recipe_of_their_encoder(name):
    learner = catalogue.tuned_sae(name, sparsity=3, input_dim=12, num_steps=2)
    recipe = catalogue.saes()[name].recipe
    assert learner.name == name and getattr(learner.encoder, "k", 3) == 3
    assert (learner.num_steps, learner.learning_rate) == (2, recipe.rate)
    assert 12 * learner.penalty == approx(recipe.penalty)


def test_what_a_study_knows_is_given_to_whom_it_concerns():
    tuned = catalogue.tuned_sae("jumprelu", sparsity=3, input_dim=10)
    assert tuned.encoder == JumpReLU(threshold=0.1, bandwidth=0.1)
    assert catalogue.make_encoder("omp", sparsity=4, lam=0.2) == OMP(4)
    assert catalogue.make_encoder("omp", sparsity=4, nonneg=True) == OMP(4, nonneg=True)
    assert catalogue.make_encoder("lasso", sparsity=4, lam=0.2).lam == 0.2
    given = {"sparsity": 3, "input_dim": 10, "lam": 0.2}
    assert catalogue.make_learner("dl_fista", num_steps=7, **given) == DLFista(
        0.2, num_steps=7
    )
    assert catalogue.make_learner("dl_fista", **given) == DLFista(0.2)
    assert catalogue.make_learner("oracle", num_steps=7, **given) == Oracle()
    for name in ("topk", "sae_topk"):
        assert catalogue.make_learner(name, num_steps=7, **given) == SparseAutoencoder(
            TopK(3), num_steps=7, learning_rate=1e-3, penalty=0.0
        )


def test_penalties_on_activations_grow_with_the_variance_of_the_codes():
    """Of 27 standardised dimensions at an L0 of 3 the codes' variance is 27, where the paper's is
    1.
    """
    given = {"sparsity": 3, "input_dim": 27}
    for name, factor in {
        "relu": 27**0.5,
        "gated": 27**0.5,
        "jumprelu": 27.0,
        "topk": 1.0,
    }.items():
        tuned = catalogue.tuned_sae(name, **given)
        found = catalogue.sae_for_activations(name, **given)
        assert found.penalty == approx(factor * tuned.penalty)
        assert found.l0 == (None if name == "topk" else 3) and found.base is None
    jumprelu = catalogue.sae_for_activations("jumprelu", **given).encoder
    assert (jumprelu.threshold, jumprelu.bandwidth) == approx((0.1 * 27**0.5,) * 2)
    own = {
        "encoder": ReLU(),
        "penalty": 0.5,
        "l0": 2.0,
        "learning_rate": 1e-4,
        "standardised": False,
        "base": Oracle(),
    }
    assert catalogue.sae_for_activations("relu", **given, **own) == SparseAutoencoder(
        schedule="cosine",
        weight_decay=0.0,
        batch_size=256,
        renormalise_every=None,
        **own,
    )


@mark.parametrize(
    ("make", "name", "size", "fault"),
    [
        ("make_encoder", "nothing", {}, "encoder must be one of"),
        (
            "make_encoder",
            "support",
            {},
            "support cannot be made from a sparsity and a weight alone",
        ),
        ("make_learner", "sae_nothing", {"input_dim": 4}, "sae must be one of"),
        ("make_learner", "families", {"input_dim": 4}, "needs a base"),
        ("paper_sae", "lista", {}, "sae must be one of"),
        (
            "sae_for_activations",
            "relu",
            {"input_dim": 4, "sparsity": 0},
            "sparsity must be",
        ),
    ],
)
def test_names_of_nothing_and_what_needs_more_are_refused(make, name, size, fault):
    with raises(ValueError, match=fault):
        getattr(catalogue, make)(name, **{"sparsity": 3} | size)


# Of all learners that take steps, as their papers and README.md of learners/online give them.
SAE = {"num_steps": 500, "batch_size": 64, "learning_rate": 5e-4, "weight_decay": 0.01}
SAE |= {"penalty": 1e-4, "renormalise_every": 50, "l0": None, "schedule": "constant"}
SAE |= {"frozen": False, "standardised": False}
ENCODERS = {"num_steps": 200, "lam": 0.1}
ONLINE = {"num_steps": 100, "visits": 400, "batch_size": None, "rates": None}
ONLINE |= {"margin": 2.5, "num_rounds": 3, "num_slots": None, "replace": True}
ONLINE |= {"weak": None, "centred": False}
DEFAULTS = {
    "sparseautoencoder": SAE,
    "sparsetranscoder": SAE | {"skip": False},
    "amortised": ENCODERS,
    "lista": ENCODERS,
    "online_dl": ONLINE | {"incoherent": False},
    "families": {
        "num_steps": 37,
        "visits": 3,
        "margin": 4.0,
        "weight": 0.5,
        "num_slots": None,
    },
    "dl_fista": {"lam": 0.1, "num_steps": 1_000, "split": "train", "tol": 1e-5},
    "softplus_adam": {"lam": 0.1, "num_steps": 100, "block": 500, "split": "train"},
    "sklearn": {"lam": 0.1, "batch_size": 256, "num_steps": 1_000},
    "spams": {"lam": 0.1, "batch_size": 256, "num_steps": 5_000},
}


@mark.parametrize("name", DEFAULTS)
def test_defaults_are_those_that_are_documented(name):
    fields = dataclasses.fields(catalogue.learners()[name])
    parts = {"base", "encoder", "encoders"}
    assert {
        each.name: each.default for each in fields if each.name not in parts
    } == DEFAULTS[name]


# What factories for activations set, and another value of each option.
SUITED = {"schedule": "cosine", "standardised": True, "renormalise_every": None}
SUITED |= {
    "learning_rate": None,
    "weight_decay": 0.0,
    "batch_size": 256,
    "num_steps": 500,
}
FREE = {
    "schedule": "constant",
    "standardised": False,
    "renormalise_every": 7,
    "num_steps": 3,
}
FREE |= {
    "learning_rate": 0.1,
    "weight_decay": 0.2,
    "batch_size": 32,
    "penalty": 0.3,
    "l0": 5.0,
}
WARM = {"visits": 150, "batch_size": 143, "rates": (0.5, 0.1, 0.02), "margin": 3.0}
WARM |= {"num_slots": 16, "weak": 0.25, "centred": True}


def online(**options):
    """With slots for twice an L0 of 7, in fours; at half the root of 36 dimensions."""
    return OnlineDictionary.for_activations(100, 7, 36, **options)


def of_sae(**options):
    return catalogue.sae_for_activations("relu", sparsity=3, input_dim=12, **options)


def of_transcoder(**options):
    return catalogue.transcoder_for_activations(
        "relu", sparsity=3, input_dim=12, **options
    )


@mark.parametrize(
    ("make", "kind", "suited", "others"),
    [
        (online, OnlineDictionary, WARM, {"visits": 9}),
        (of_sae, SparseAutoencoder, SUITED, FREE | {"base": Oracle()}),
        (
            of_transcoder,
            SparseTranscoder,
            SUITED | {"skip": False},
            FREE | {"skip": True},
        ),
    ],
)
def test_each_option_of_a_factory_is_one_of_what_it_makes(make, kind, suited, others):
    made = make()
    assert (
        type(made) is kind and {name: getattr(made, name) for name in suited} == suited
    )
    for name, value in others.items():
        assert getattr(made, name) != value
        assert make(**{name: value}) == dataclasses.replace(made, **{name: value})
    # Beyond 64 dimensions the threshold rises no further.
    assert OnlineDictionary.for_activations(100, 7, 400).margin == 4
