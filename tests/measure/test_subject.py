"""Subjects: codes on unit atoms whatever the lengths on disk, dead atoms without codes, and digests that tell arrays apart."""

import jax.numpy as jnp
import numpy as np

from sae_gap.core.types import Model
from sae_gap.encoders.relu import ReLU
from sae_gap.measure import evenly_spaced, of_model, of_sae
from sae_gap.measure.subject import digest
from sae_gap.saes import loaded_sae

# The last atom is dead.
ATOMS = np.array([[3.0, 0, 0], [0, 0.5, 0], [0, 0, 0]], np.float32)
BIAS = np.array([1.0, -1, 2], np.float32)
X = np.array([[4.0, 1, 2], [2, 0, 0]], np.float32)


def test_codes_of_a_model_are_on_unit_atoms_and_those_of_a_dead_one_are_zero():
    seen = []

    def encode(model, signals):
        seen.append(np.asarray(signals))
        return jnp.ones((2, 3))

    subject = of_model("mine", Model(jnp.asarray(ATOMS.T), jnp.asarray(BIAS), encode=encode))
    target = subject.target(X)
    np.testing.assert_allclose(target, X - BIAS)
    codes = subject.encode(target)
    np.testing.assert_allclose(codes, [[3, 0.5, 0]] * 2)
    # The encoder is given activations as they are.
    np.testing.assert_allclose(seen[0], X)
    np.testing.assert_allclose(subject.decode(codes, X), ATOMS.sum(axis=0) + BIAS + np.zeros_like(X))
    np.testing.assert_allclose(np.linalg.norm(subject.dictionary, axis=0), [1, 1, 0])


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
    subject = of_sae("theirs", sae)
    assert np.all(np.asarray(sae.encode(X))[:, 2] > 0)
    codes = np.asarray(subject.encode(subject.target(X)))
    np.testing.assert_allclose(codes, np.asarray(sae.encode(X)) * [3, 0.5, 0], rtol=1e-6)
    np.testing.assert_allclose(subject.decode(codes, X), sae.reconstruct(X), rtol=1e-6)


def test_digests_tell_shapes_types_and_bytes_apart():
    arrays = [np.zeros(4), np.zeros((2, 2)), np.zeros(8, np.float32), np.zeros(4, np.int64), np.ones(4), np.zeros(3)]
    assert len({digest([array]) for array in arrays}) == len(arrays)
    assert digest([np.zeros(4), np.ones(2)]) != digest([np.ones(2), np.zeros(4)])
    turned = np.arange(6.0).reshape(2, 3)
    assert digest([np.asfortranarray(turned)]) == digest([turned]) != digest([turned.T])


def test_what_is_spread_is_even_and_each_once():
    np.testing.assert_array_equal(evenly_spaced(10, 3), [0, 3, 6])
    np.testing.assert_array_equal(evenly_spaced(3, 10), [0, 1, 2])
    assert len(set(evenly_spaced(1_000, 999))) == 999 and evenly_spaced(1_000, 999).max() < 1_000
