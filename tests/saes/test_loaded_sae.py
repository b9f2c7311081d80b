"""SAEs in memory: of models and of arrays, each by its formula."""

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

import sae_gap
from sae_gap.core import Model
from sae_gap.saes import SAE
from tests.saes.examples import FILES, refused

# The last atom is dead.
ATOMS = np.array([[3.0, 0, 0], [0, 0.5, 0], [0, 0, 0]], np.float32)
BIAS = np.array([1.0, -1, 2], np.float32)
PLAIN = Model(
    jnp.asarray(ATOMS.T), jnp.asarray(BIAS), encode=lambda model, x: 2 * jnp.asarray(x) @ ATOMS
)


def test_an_sae_of_a_model_has_its_units_and_atoms_of_unit_length():
    sae, x = SAE.of_model(PLAIN), np.ones((2, 3), "f")
    np.testing.assert_allclose(sae.target(x), x - BIAS)
    # The encoder is given activations as they are.
    np.testing.assert_allclose(sae.encode(x), 2 * x @ ATOMS)
    np.testing.assert_allclose(sae.lengths, [3, 0.5, 0])
    np.testing.assert_allclose(np.linalg.norm(sae.unit_dictionary, axis=0), [1, 1, 0])
    np.testing.assert_allclose(sae.reconstruct(x), 2 * x @ ATOMS @ ATOMS + BIAS)


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
    ({"architecture": "relu", "centred": False}, above(0)),
    ({"architecture": "topk", "k": 2}, lambda p: above(np.sort(p)[:, [4]])(p)),
    ({"architecture": "batchtopk", "threshold": 0.7}, above(0.7)),
    ({"architecture": "batchtopk", "k": 2}, lambda p: above(np.sort(p, axis=None)[-19])(p)),
    ({"architecture": "jumprelu", "threshold": LIMITS, "centred": False}, above(LIMITS)),
]


@pytest.mark.parametrize("turned", [(), ("W_enc", "W_dec")])
@pytest.mark.parametrize(("options", "codes_of"), ARCHITECTURES)
def test_an_sae_of_arrays_infers_as_its_formula_says(options, codes_of, turned):
    half = {name: array.astype(ml_dtypes.bfloat16) for name, array in DRAWN.items()}
    weight, offset, atoms, bias = (array.astype(np.float64) for array in half.values())
    kinds = [np.asarray, jnp.asarray, tensor, tensor]
    given = {
        name: kind(array.T if name in turned else array)
        for kind, (name, array) in zip(kinds, half.items(), strict=True)
    }
    sae = SAE.from_arrays(**given, name="mine", **options)
    codes = codes_of((ROWS - options.get("centred", True) * bias) @ weight + offset)
    assert 0 < np.count_nonzero(codes) < codes.size and sae.name == "mine"
    assert ("k" in sae.notes) == ("k" in options)
    np.testing.assert_allclose(sae.encode(tensor(ROWS)), codes, atol=1e-5)
    np.testing.assert_allclose(sae.reconstruct(ROWS), codes @ atoms + bias, atol=1e-4)


@pytest.mark.parametrize("turned", ["W_enc", ("W_dec", "W_skip")])
def test_a_transcoder_of_arrays_infers_as_its_formula_says(turned):
    weight, skip = RNG.normal(size=(5, 7)).astype("f"), RNG.normal(size=(5, 4)).astype("f")
    x, given = RNG.normal(1, 2, size=(9, 5)).astype("f"), DRAWN | {"W_enc": weight, "W_skip": skip}
    given = {name: array.T if name in turned else array for name, array in given.items()}
    sae = SAE.from_arrays(**given, architecture="relu", transcoder=True)
    codes, added = above(0)(x @ weight + DRAWN["b_enc"]), DRAWN["b_dec"] + x @ skip
    np.testing.assert_allclose(sae.encode(x), codes, atol=1e-5)
    np.testing.assert_allclose(sae.reconstruct(x), codes @ DRAWN["W_dec"] + added, atol=1e-4)
    np.testing.assert_allclose(sae.target(ROWS, x), ROWS - added, atol=1e-4)
    refused(lambda: sae.encode(ROWS), "activations have 4", "the transcoder has num_inputs")
    refused(lambda: sae.target(x, x), "targets have 5", "the transcoder has input_dim")
    refused(lambda: sae.decode(codes, x[:3]), "what it read, one row for each of the 9")
    refused(lambda: sae.target(ROWS), "what it read")


@pytest.mark.parametrize("linear", [True, None])
def test_square_matrices_are_taken_as_one_says(linear):
    weight, atoms = RNG.normal(size=(2, 4, 4)).astype("f")
    given = {"W_enc": weight, "b_enc": np.zeros(4), "W_dec": atoms, "b_dec": np.zeros(4)}
    sae = SAE.from_arrays(**given, architecture="relu", linear=linear)
    if linear:
        weight, atoms = weight.T, atoms.T
    wanted = np.maximum(ROWS @ weight, 0) @ atoms
    np.testing.assert_allclose(sae.reconstruct(ROWS), wanted, rtol=1e-4, atol=1e-4)
    assert ("square matrices" in sae.notes) == (linear is None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"W_enc": np.zeros((4, 6))}, "W_enc in the arrays has shape (4, 6) where (4, 7)"),
        ({"b_enc": np.zeros(0)}, "of at most 0"),
        ({"b_enc": None}, "b_enc must be an array of floats, but it is None"),
        ({"architecture": "batchtopk", "threshold": 0.5, "k": 8}, "of at most 7"),
        ({"W_skip": np.zeros((4, 4))}, "an SAE has no W_skip; give transcoder=True"),
        ({"architecture": "relu"}, "relu takes neither"),
        ({"centred": "no"}, "centred must be True or False"),
    ],
)
def test_arrays_that_make_no_sae_are_refused(change, words):
    options = DRAWN | {"architecture": "topk", "k": 2} | change
    refused(lambda: SAE.from_arrays(**options), words)


def test_activations_and_codes_that_do_not_fit():
    sae, eye = sae_gap.load_sae(FILES / "saelens/layer_norm"), np.eye(6)
    for call, words in (
        (lambda: sae.encode(np.ones((3, 7))), "7 columns, but the SAE has input_dim 6"),
        (lambda: sae.encode(np.nan * eye), "activations"),
        (lambda: sae.encode(np.ones((3, 2, 3))), "(3, 2, 3)"),
        (lambda: sae.decode(sae.encode(eye)), "by itself (layer norm); give like=activations"),
        (lambda: sae.decode(np.ones((2, 9)), like=eye[:2]), "9 columns"),
    ):
        refused(call, words)
    alone = sae.decoder_alone
    np.testing.assert_array_equal(alone.target(eye), sae.target(eye))
    assert (alone.given.family, alone.model.encode) == ("dictionary", None)


def test_a_crosscoder_takes_layers_before_dimensions(tmp_path):
    sae, x = sae_gap.load_sae(FILES / "crosscoder/relu"), RNG.normal(size=(20, 3, 2))
    sae_gap.save_sae(sae, tmp_path / "sae")
    again = sae_gap.load_sae(tmp_path / "sae")
    again.encode(x)
    for wrong in (x.swapaxes(1, 2), x[:, :2]):
        refused(lambda: again.encode(wrong), "as (n, layers, dim), but they are (20, 2,")  # noqa: B023
