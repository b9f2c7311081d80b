"""SAEs in memory: of models and of arrays, each by its formula, and what tells one from another."""

import dataclasses

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from sae_gap.core import Model
from sae_gap.encoders import Affine, TopK
from sae_gap.saes import SAE
from tests.saes.examples import refused, transcoder

# The last atom is dead.
ATOMS = np.array([[3.0, 0, 0], [0, 0.5, 0], [0, 0, 0]], np.float32)
BIAS = np.array([1.0, -1, 2], np.float32)


def test_an_sae_of_a_model_has_its_units_and_atoms_of_unit_length():
    seen, x = [], np.array([[4.0, 1, 2], [2, 0, 0]], np.float32)

    def encode(model, signals):
        seen.append(np.asarray(signals))
        return jnp.ones((2, 3))

    sae = SAE.of_model(Model(jnp.asarray(ATOMS.T), jnp.asarray(BIAS), encode=encode), name="mine")
    np.testing.assert_allclose(sae.target(x), x - BIAS)
    np.testing.assert_allclose(sae.encode(x), np.ones((2, 3)))
    # The encoder is given activations as they are.
    np.testing.assert_allclose(seen[0], x)
    np.testing.assert_allclose(sae.lengths, [3, 0.5, 0])
    np.testing.assert_allclose(np.linalg.norm(sae.unit_dictionary, axis=0), [1, 1, 0])
    np.testing.assert_allclose(sae.reconstruct(x), ATOMS.sum(axis=0) + BIAS + np.zeros_like(x))


def test_the_identity_follows_codes_and_versions_but_no_name_and_no_place_in_memory():
    class Mine(TopK):
        pass

    affine = Affine(jnp.asarray(ATOMS), jnp.zeros(3))
    plain = Model(jnp.asarray(ATOMS.T), jnp.asarray(BIAS), affine)

    def digest(encode, name="mine", model=plain):
        model = dataclasses.replace(model, encode=encode)
        return SAE.of_model(model, name=name).given.held.digest

    def times(factor):
        return lambda model, x: factor * jnp.asarray(x) @ model.encoder.weight

    before = digest(Mine(2))
    assert before == digest(Mine(2), "other") and digest(times(1)) == digest(times(1))
    Mine.version = 2
    assert before != digest(Mine(2))
    reads = transcoder(TopK(3))[0]
    assert len({digest(encode, model=reads) for encode in (times(1), times(2), TopK(3))}) == 3


def tensor(array):
    """A tensor of PyTorch with a gradient."""
    kind = torch.bfloat16 if array.dtype == ml_dtypes.bfloat16 else torch.float32
    return torch.tensor(array.astype(np.float32)).to(kind).requires_grad_()


RNG = np.random.default_rng(5)
SIZES = {"W_enc": (4, 7), "b_enc": 7, "W_dec": (7, 4), "b_dec": 4}
DRAWN = {name: RNG.normal(size=size).astype("f") for name, size in SIZES.items()}
ROWS = RNG.normal(1, 2, size=(9, 4)).astype("f")
LIMITS = RNG.uniform(0.1, 2, size=7).astype("f")


def above(limit):
    return lambda p: p * (p > np.maximum(limit, 0))


ARCHITECTURES = [
    ({"architecture": "relu"}, above(0)),
    ({"architecture": "topk", "k": 2}, lambda p: above(np.sort(p)[:, [4]])(p)),
    ({"architecture": "batchtopk", "threshold": 0.7}, above(0.7)),
    ({"architecture": "batchtopk", "k": 2}, lambda p: above(np.sort(p, axis=None)[-19])(p)),
    ({"architecture": "jumprelu", "threshold": LIMITS}, above(LIMITS)),
]


@pytest.mark.parametrize("turned", [(), ("W_enc", "W_dec")])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(("options", "codes_of"), ARCHITECTURES)
def test_an_sae_of_arrays_infers_as_its_formula_says(
    options, codes_of, centred, turned, monkeypatch
):
    half = {name: array.astype(ml_dtypes.bfloat16) for name, array in DRAWN.items()}
    weight, offset, atoms, bias = (array.astype(np.float64) for array in half.values())
    kinds = [np.asarray, jnp.asarray, tensor, tensor]
    given = {
        name: kind(array.T if name in turned else array)
        for kind, (name, array) in zip(kinds, half.items(), strict=True)
    }
    moved = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: moved.append(self) or self)
    sae = SAE.from_arrays(**given, centred=centred, name="mine", **options)
    codes = codes_of((ROWS - centred * bias) @ weight + offset)
    assert 0 < np.count_nonzero(codes) < codes.size and sae.name == "mine" and len(moved) > 1
    np.testing.assert_allclose(sae.encode(tensor(ROWS)), codes, atol=1e-5)
    np.testing.assert_allclose(sae.reconstruct(ROWS), codes @ atoms + bias, atol=1e-4)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("turned", ["W_enc", ("W_dec", "W_skip")])
def test_a_transcoder_of_arrays_infers_as_its_formula_says(turned, skip):
    weight, matrix = RNG.normal(size=(5, 7)).astype("f"), RNG.normal(size=(5, 4)).astype("f")
    x = RNG.normal(1, 2, size=(9, 5)).astype("f")
    given = DRAWN | {"W_enc": weight} | ({"W_skip": matrix} if skip else {})
    given = {name: array.T if name in turned else array for name, array in given.items()}
    sae = SAE.from_arrays(**given, architecture="relu", transcoder=True)
    codes = above(0)(x @ weight + DRAWN["b_enc"])
    added = DRAWN["b_dec"] + (x @ matrix if skip else 0)
    np.testing.assert_allclose(sae.encode(x), codes, atol=1e-5)
    np.testing.assert_allclose(sae.reconstruct(x), codes @ DRAWN["W_dec"] + added, atol=1e-4)
    np.testing.assert_allclose(sae.target(ROWS, x), ROWS - added, atol=1e-4)
    refused(lambda: sae.encode(ROWS), "activations have 4", "the transcoder has num_inputs")
    refused(lambda: sae.target(x, x), "targets have 5", "the transcoder has input_dim")
    if skip:
        refused(lambda: sae.decode(codes), "what it read, one row for each of the 9")
        refused(lambda: sae.decode(codes, x[:3]), "one row for each of the 9")
        refused(lambda: sae.target(ROWS), "what it read")
    else:
        np.testing.assert_array_equal(sae.target(ROWS), sae.target(ROWS, x))


@pytest.mark.parametrize("linear", [True, False, None])
def test_square_matrices_are_taken_as_one_says(linear):
    weight, atoms, skip = RNG.normal(size=(3, 4, 4)).astype("f")
    given = {"W_enc": weight, "b_enc": np.zeros(4), "W_dec": atoms, "b_dec": np.zeros(4)}
    options = {"architecture": "relu", "transcoder": True, "linear": linear, "W_skip": skip}
    sae = SAE.from_arrays(**given, **options)
    if linear:
        weight, atoms, skip = weight.T, atoms.T, skip.T
    wanted = np.maximum(ROWS @ weight, 0) @ atoms + ROWS @ skip
    np.testing.assert_allclose(sae.reconstruct(ROWS), wanted, rtol=1e-4, atol=1e-4)
    taken = sae.notes.get("square matrices", "")
    assert taken.startswith("taken as x @ W_enc and z @ W_dec and x @ W_skip") == (linear is None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"W_enc": np.zeros((4, 6))}, "W_enc in the arrays has shape (4, 6) where (4, 7)"),
        ({"W_dec": np.full((7, 4), np.nan)}, "W_dec in the arrays has NaN"),
        ({"b_dec": ["a"]}, "b_dec must be an array of floats"),
        ({"b_enc": None}, "b_enc must be an array of floats, but it is None"),
        ({"b_enc": np.zeros(0)}, "b_enc must be a vector"),
        ({"centred": "False"}, "centred must be True or False"),
        ({"architecture": "batchtopk", "threshold": 0.5, "k": 8}, "of at most 7"),
        ({"W_skip": np.zeros((4, 4))}, "an SAE has no W_skip; give transcoder=True"),
        ({"k": None}, "topk takes k, but it is given none"),
        ({"architecture": "relu"}, "relu takes neither k nor threshold, but it is given k"),
        ({"architecture": "jumprelu", "k": None, "threshold": np.zeros(3)}, "has shape (3,)"),
    ],
)
def test_arrays_that_make_no_sae_are_refused(change, words):
    options = DRAWN | {"architecture": "topk", "k": 2} | change
    refused(lambda: SAE.from_arrays(**options), words)
