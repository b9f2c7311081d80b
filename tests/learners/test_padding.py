"""Padding with zero dimensions, which lets settings share their programs, changes nothing that is
learned or measured.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap import Setting, draw, fit
from sae_gap.encoders.lista import LISTA
from sae_gap.encoders.relu import ReLU
from sae_gap.learners.amortised import Lista
from sae_gap.learners.dl_fista import DLFista
from sae_gap.learners.online.online_dictionary import OnlineDictionary
from sae_gap.learners.softplus_adam import SoftplusAdam
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder

BARE = Setting(num_latents=20, sparsity=3, num_samples=200)
PADDED = dataclasses.replace(BARE, padded_dim=20)
DIMS = BARE.input_dim
# A heavy penalty, so that a share of it would show at once.
LEARNERS = {
    "relu": SparseAutoencoder(ReLU(), num_steps=20, penalty=0.1),
    "dl_fista": DLFista(num_steps=10),
    "online_dl": OnlineDictionary(visits=5, num_steps=5),
    "softplus_adam": SoftplusAdam(
        num_steps=2, block=100, improvement=0.01, patience=20, least_updates=20
    ),
    "lista": Lista(
        LISTA(2, factored=False, threshold=0.01), base=DLFista(num_steps=3), lam=1.0, num_steps=20
    ),
}


@pytest.fixture
def same_draws(monkeypatch):
    """What is random of a padded dictionary is what is random of the bare one, with anything in the
    padding.
    """
    for name in ("normal", "uniform"):
        drawn = getattr(jax.random, name)

        def padded(key, shape=(), *args, drawn=drawn, **options):
            if tuple(shape) != (PADDED.padded_dim, BARE.num_latents):
                return drawn(key, shape, *args, **options)
            bare = drawn(key, (DIMS, BARE.num_latents), *args, **options)
            return jnp.pad(bare, ((0, PADDED.padded_dim - DIMS), (0, 0)), constant_values=0.3)

        monkeypatch.setattr(jax.random, name, padded)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_learns_the_same(name, same_draws):
    learner, key = LEARNERS[name], jax.random.key(5)
    given = [None, None]
    if learner.base is not None:
        given = [
            [fit(learner.base, [draw(setting)], [key])[0].end.model] for setting in (BARE, PADDED)
        ]
    bare, padded = (
        fit(learner, [draw(setting)], [key], bases=base)[0]
        for setting, base in zip((BARE, PADDED), given, strict=True)
    )
    assert bare.end.step == padded.end.step
    bare, padded = bare.end.model, padded.end.model
    np.testing.assert_allclose(padded.dictionary[:DIMS], bare.dictionary, atol=2e-4)
    np.testing.assert_allclose(padded.bias[:DIMS], bare.bias, atol=2e-4)
    assert not np.any(padded.dictionary[DIMS:]) and not np.any(padded.bias[DIMS:])
    encode = getattr(learner, "encoder", learner.encode)
    if encode is not None:
        codes = [
            encode(model, draw(setting).id.signals)
            for model, setting in ((bare, BARE), (padded, PADDED))
        ]
        assert np.mean(np.abs(codes[0])) > 1e-3
        np.testing.assert_allclose(codes[1], codes[0], atol=2e-3)
