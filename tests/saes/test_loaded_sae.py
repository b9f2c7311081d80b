"""SAEs: codes on unit atoms whatever the lengths on disk, dead atoms without codes, and what tells
one from another.
"""

import jax.numpy as jnp
import numpy as np

from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK
from sae_gap.saes import loaded_sae
from sae_gap.saes.loaded_sae import SAE

# The last atom is dead.
ATOMS = np.array([[3.0, 0, 0], [0, 0.5, 0], [0, 0, 0]], np.float32)
BIAS = np.array([1.0, -1, 2], np.float32)
X = np.array([[4.0, 1, 2], [2, 0, 0]], np.float32)


def test_codes_of_a_model_are_on_unit_atoms_and_those_of_a_dead_one_are_zero():
    seen = []

    def encode(model, signals):
        seen.append(np.asarray(signals))
        return jnp.ones((2, 3))

    sae = SAE.of_model(Model(jnp.asarray(ATOMS.T), jnp.asarray(BIAS), encode=encode), name="mine")
    target = sae.target(X)
    np.testing.assert_allclose(target, X - BIAS)
    codes = sae.encode_target(target)
    np.testing.assert_allclose(codes, [[3, 0.5, 0]] * 2)
    # The encoder is given activations as they are.
    np.testing.assert_allclose(seen[0], X)
    np.testing.assert_allclose(
        sae.decode_target(codes, X), ATOMS.sum(axis=0) + BIAS + np.zeros_like(X)
    )
    np.testing.assert_allclose(np.linalg.norm(sae.model.dictionary, axis=0), [1, 1, 0])
    # In its own units, as the model has them.
    np.testing.assert_allclose(sae.encode(X), np.ones((2, 3)))
    np.testing.assert_allclose(sae.reconstruct(X), sae.decode_target(codes), rtol=1e-6)


def test_a_dead_latent_of_an_sae_has_no_code_to_be_penalised():
    sae = loaded_sae.assemble(
        ReLU(),
        atoms=ATOMS,
        bias=BIAS,
        weight=np.eye(3, dtype=np.float32),
        encoder_bias=np.full(3, 5, np.float32),
        library="ours",
        architecture="standard",
        notes={},
    )
    assert np.all(np.asarray(sae.encode(X))[:, 2] > 0)
    codes = np.asarray(sae.encode_target(sae.target(X)))
    np.testing.assert_allclose(codes, np.asarray(sae.encode(X)) * [3, 0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(sae.decode_target(codes, X), sae.reconstruct(X), rtol=1e-6)


def test_a_name_or_a_place_in_memory_does_not_change_the_identity():
    """Nor does a version that has not changed."""

    def of(name, encode):
        affine = Affine(jnp.asarray(ATOMS), jnp.zeros(3))
        return SAE.of_model(
            Model(jnp.asarray(ATOMS.T), jnp.asarray(BIAS), affine, encode), name=name
        ).identity

    class Mine(TopK):
        pass

    before, function = of("mine", Mine(2)), lambda: lambda model, signals: signals @ model.decoder
    assert before == of("other", Mine(2)) and of("mine", function()) == of("mine", function())
    Mine.version = 2
    assert before != of("mine", Mine(2))
