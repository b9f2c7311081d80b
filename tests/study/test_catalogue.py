"""The catalogue of sparse autoencoders: the published recipes are the paper's, and tuned ones differ from them as they say."""

import jax
import numpy as np
import pytest

from sae_gap import fit
from sae_gap.encoders.jumprelu import JumpReLU
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.study.catalogue import PUBLISHED, RECIPES, published, tuned


def test_the_published_ones_are_the_papers():
    assert PUBLISHED == ("relu", "topk", "jumprelu", "mp")
    encoders = {"relu": ReLU(), "topk": TopK(7), "jumprelu": JumpReLU(threshold=1e-3, bandwidth=1e-3), "mp": MatchingPursuit(7)}
    for name, encoder in encoders.items():
        learner = published(name, sparsity=7)
        assert learner == SparseAutoencoder(encoder)
        assert (learner.num_steps, learner.batch_size, learner.learning_rate) == (500, 64, 5e-4)
        assert (learner.weight_decay, learner.penalty, learner.renormalise_every) == (1e-2, 1e-4, 50)


@pytest.mark.parametrize("name", sorted(set(RECIPES) - set(PUBLISHED)))
def test_what_the_paper_lacks_has_no_published_form(name):
    with pytest.raises(ValueError, match="relu, topk, jumprelu, mp"):
        published(name, sparsity=3)


@pytest.mark.parametrize("name", RECIPES)
def test_tuned_options_train(task, name):
    learner = tuned(name, sparsity=3, input_dim=12, num_steps=2)
    assert learner.name == name and getattr(learner.encoder, "k", 3) == 3
    assert learner.num_steps == 2 and learner.learning_rate > SparseAutoencoder(learner.encoder).learning_rate
    assert 12 * learner.penalty == pytest.approx(RECIPES[name].penalty)
    model = fit(learner, [task], [jax.random.key(0)])[0].end.model
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model))


@pytest.mark.parametrize("make", [published, lambda name, **options: tuned(name, input_dim=12, **options)])
def test_options_are_handed_on_and_names_told_apart(make):
    assert make("topk", sparsity=3, num_steps=9).num_steps == 9
    assert len({make(name, sparsity=3).name for name in PUBLISHED}) == 4
