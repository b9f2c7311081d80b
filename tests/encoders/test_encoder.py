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
    rectangle,
    unit_atoms,
)
from sae_gap.encoders.jumprelu import JumpReLU, JumpReLUParameters
from sae_gap.learners.amortised import Amortised
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder


def test_affine_is_a_matrix_and_a_shift():
    weight, bias, signals = (
        np.arange(6.0).reshape(2, 3),
        np.array([1.0, -1.0, 0.5]),
        np.array([[1.0, 2.0], [0.0, -1.0]]),
    )
    found = Affine(jnp.asarray(weight), jnp.asarray(bias))(jnp.asarray(signals))
    np.testing.assert_allclose(found, [[7, 8, 12.5], [-2, -5, -4.5]])
    start = Affine.create(jnp.asarray(weight, jnp.float32))
    np.testing.assert_array_equal(start.weight, weight)
    assert start.bias.dtype == jnp.float32 and start.bias.tolist() == [0, 0, 0]


def test_unit_atoms_are_columns_of_unit_length_and_zero_stays():
    dictionary = jnp.array([[3.0, 0.0, 1e-10], [4.0, 0.0, 0.0]])
    atoms, norms = unit_atoms(dictionary)
    np.testing.assert_allclose(atoms, [[0.6, 0, 1], [0.8, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(norms, [5, 1, 1e-10], rtol=1e-6)
    np.testing.assert_allclose(atoms * norms, dictionary, rtol=1e-6)


def test_a_zero_atom_has_a_finite_gradient():
    dictionary = jnp.array([[3.0, 0.0], [4.0, 0.0]])
    gradient = jax.grad(
        lambda dictionary: unit_atoms(dictionary)[0][0].sum() + unit_atoms(dictionary)[1].sum()
    )(dictionary)
    np.testing.assert_allclose(gradient[:, 0], [0.128 + 0.6, -0.096 + 0.8], rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_the_rectangle_has_unit_width_and_open_ends():
    x = jnp.array([-0.6, -0.5, -0.49, 0.0, 0.49, 0.5, 0.6])
    assert rectangle(x).tolist() == [0, 0, 1, 1, 1, 0, 0] and rectangle(x).dtype == x.dtype


# The rest take another encoder, or what only a learner gives.
GIVEN = {"support", "least_squares", "linear", "lookup"}


class Halves(AmortisedEncoder):
    def __call__(self, model, signals):
        return self.preactivations(model, signals) / 2


def test_an_amortised_encoder_is_trained_on_the_error_of_its_own_codes_and_no_penalty():
    rng = np.random.default_rng(0)
    dictionary, weight = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))
    signals, bias, shift = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=5)
    model = Model(
        jnp.asarray(dictionary), jnp.asarray(bias), Affine(jnp.asarray(weight), jnp.asarray(shift))
    )
    codes = ((signals - bias) @ weight + shift) / 2
    loss, seen = Halves().loss(model, jnp.asarray(signals), 7.0)
    np.testing.assert_allclose(
        Halves().with_penalty(model, jnp.asarray(signals))[0], codes, rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        loss, np.mean((codes @ dictionary.T + bias - signals) ** 2, axis=1), rtol=1e-4
    )
    assert seen is None


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
