"""What encoders share: the affine map, unit atoms and the defaults of an amortised encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sae_gap
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import (
    Affine,
    AmortisedEncoder,
    Encoder,
    check_model,
    unit_atoms,
)
from sae_gap.encoders.jumprelu import JumpReLU, JumpReLUParameters
from sae_gap.learners.amortised import Amortised
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder


def test_unit_atoms_are_columns_of_unit_length_and_zero_stays():
    dictionary = jnp.array([[3.0, 0.0, 1e-10], [4.0, 0.0, 0.0]])
    atoms, norms = unit_atoms(dictionary)
    np.testing.assert_allclose(atoms, [[0.6, 0, 1], [0.8, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(norms, [5, 1, 1e-10], rtol=1e-6)
    np.testing.assert_allclose(atoms * norms, dictionary, rtol=1e-6)


def test_an_encoder_without_a_call_says_so():
    with pytest.raises(TypeError):
        Encoder()(None, None)


class TwoLayers(AmortisedEncoder):
    """A square second layer, which starts at random."""

    def parameters(self, weight, key):
        return Affine.create(weight), Affine.create(jax.random.normal(key, (weight.shape[1],) * 2))

    def __call__(self, model, signals):
        first, second = model.encoder
        return jax.nn.relu(second(jax.nn.relu(first(signals - model.bias))))


def test_an_encoder_with_layers_of_its_own_is_trained_and_its_gap_is_measured():
    task = sae_gap.draw(sae_gap.Setting(9, 2, 20))
    several = Amortised((TwoLayers(), TwoLayers()), base=Oracle(), num_steps=1)
    for learner in (SparseAutoencoder(TwoLayers(), num_steps=1), several):
        ends = [
            end.end.model
            for end in sae_gap.fit(learner, [task, task], list(jax.random.split(jax.random.key(0))))
        ]
        starts = jax.tree.leaves([model.encoder for model in ends])
        seconds = [np.asarray(leaf) for leaf in starts if leaf.shape == (9, 9)]
        # Each fit, and each encoder of one, draws another second layer.
        assert len(seconds) in (2, 4)
        assert all(
            abs(np.corrcoef(one.ravel(), seconds[0].ravel())[0, 1]) < 0.6 for one in seconds[1:]
        )
        encode = TwoLayers() if learner.encode is not None else learner.members[1]
        assert (
            sae_gap.amortisation_gap(ends[0], task.ood.signals, 0.1, encode=encode).gap >= 0
        ).all()


def test_parameters_of_another_dictionary_are_refused_before_they_are_used():
    turned = JumpReLUParameters(Affine(jnp.ones((6, 4)), jnp.zeros(4)), jnp.zeros(4))
    with pytest.raises(
        ValueError, match=r"affine.weight must have the shape \(4, 6\) .* transpose it"
    ):
        check_model(Model(jnp.ones((4, 6)), jnp.zeros(4), turned, JumpReLU()))
    with pytest.raises(
        ValueError,
        match=r"JumpReLU reads JumpReLUParameters from Model\.encoder, but it is .*; give",
    ):
        check_model(Model(jnp.ones((4, 6)), jnp.zeros(4), turned.affine), JumpReLU())
    with pytest.raises(ValueError, match="log_threshold"):
        parameters = JumpReLUParameters(Affine(jnp.ones((4, 6)), jnp.zeros(6)), jnp.zeros(1))
        check_model(Model(jnp.ones((4, 6)), jnp.zeros(4), parameters), JumpReLU())
