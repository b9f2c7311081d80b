"""Encoders and learners by name: the paper's SAEs have the defaults, and tuned ones differ as they
say.
"""

import pytest

from sae_gap import catalogue
from sae_gap.encoders import OMP, JumpReLU, MatchingPursuit, ReLU, TopK
from sae_gap.learners import DLFista, Oracle, SparseAutoencoder


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
        assert (learner.num_steps, learner.batch_size, learner.learning_rate) == (500, 64, 5e-4)
        found = learner.weight_decay, learner.penalty, learner.renormalise_every
        assert found == (1e-2, 1e-4, 50)


@pytest.mark.parametrize("name", catalogue.saes())
def test_tuned_saes_have_the_recipe_of_their_encoder(name):
    learner = catalogue.tuned_sae(name, sparsity=3, input_dim=12, num_steps=2)
    recipe = catalogue.saes()[name].recipe
    assert learner.name == name and getattr(learner.encoder, "k", 3) == 3
    assert (learner.num_steps, learner.learning_rate) == (2, recipe.rate)
    assert 12 * learner.penalty == pytest.approx(recipe.penalty)


def test_what_a_study_knows_is_given_to_whom_it_concerns():
    tuned = catalogue.tuned_sae("jumprelu", sparsity=3, input_dim=10)
    assert tuned.encoder == JumpReLU(threshold=0.1, bandwidth=0.1)
    assert catalogue.make_encoder("omp", sparsity=4, lam=0.2) == OMP(4)
    assert catalogue.make_encoder("omp", sparsity=4, nonneg=True) == OMP(4, nonneg=True)
    assert catalogue.make_encoder("lasso", sparsity=4, lam=0.2).lam == 0.2
    given = {"sparsity": 3, "input_dim": 10, "lam": 0.2}
    assert catalogue.make_learner("dl_fista", num_steps=7, **given) == DLFista(0.2, num_steps=7)
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
    for name, factor in {"relu": 27**0.5, "gated": 27**0.5, "jumprelu": 27.0, "topk": 1.0}.items():
        tuned, found = (
            catalogue.tuned_sae(name, **given),
            catalogue.sae_for_activations(name, **given),
        )
        assert found.penalty == pytest.approx(factor * tuned.penalty)
        assert found.l0 == (None if name == "topk" else 3) and found.base is None
    jumprelu = catalogue.sae_for_activations("jumprelu", **given).encoder
    assert (jumprelu.threshold, jumprelu.bandwidth) == pytest.approx((0.1 * 27**0.5,) * 2)
    own = {
        "encoder": ReLU(),
        "penalty": 0.5,
        "l0": 2.0,
        "learning_rate": 1e-4,
        "standardised": False,
        "base": Oracle(),
    }
    assert catalogue.sae_for_activations("relu", **given, **own) == SparseAutoencoder(
        schedule="cosine", weight_decay=0.0, batch_size=256, renormalise_every=None, **own
    )


@pytest.mark.parametrize(
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
        ("sae_for_activations", "relu", {"input_dim": 4, "sparsity": 0}, "sparsity must be"),
    ],
)
def test_names_of_nothing_and_what_needs_more_are_refused(make, name, size, fault):
    with pytest.raises(ValueError, match=fault):
        getattr(catalogue, make)(name, **{"sparsity": 3} | size)
