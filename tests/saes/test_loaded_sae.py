"""SAEs: codes on unit atoms whatever the lengths on disk, dead atoms without codes, and what tells
one from another.
"""

import dataclasses

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from sae_gap.core.checks import detached
from sae_gap.core.types import Model
from sae_gap.encoders.encoder import Affine, Encoder
from sae_gap.encoders.topk import TopK
from sae_gap.saes.loaded_sae import SAE, of_parts
from sae_gap.saes.parts import Parts
from tests.saes.examples import transcoder

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
    np.testing.assert_allclose(np.linalg.norm(sae.unit_dictionary, axis=0), [1, 1, 0])
    # In its own units, as the model has them.
    np.testing.assert_allclose(sae.encode(X), np.ones((2, 3)))
    np.testing.assert_allclose(sae.reconstruct(X), ATOMS.sum(axis=0) + BIAS + np.zeros_like(X))


def test_a_dead_latent_of_an_sae_has_no_code_to_be_penalised():
    tensors = {"W_dec": ATOMS, "b_dec": BIAS, "W_enc": np.eye(3, dtype=np.float32)}
    tensors["b_enc"] = np.full(3, 5, np.float32)
    sae = of_parts(Parts("standard", {}, tensors, "ours", "standard", {}))
    assert np.all(np.asarray(sae.encode(X))[:, 2] > 0)
    codes = np.asarray(sae.encode_target(sae.target(X)))
    np.testing.assert_allclose(codes, np.asarray(sae.encode(X)) * [3, 0.5, 0], rtol=1e-6)


def test_a_name_or_a_place_in_memory_does_not_change_the_identity():
    """Nor does a version that has not changed."""

    def of(name, encode):
        affine = Affine(jnp.asarray(ATOMS), jnp.zeros(3))
        return SAE.of_model(
            Model(jnp.asarray(ATOMS.T), jnp.asarray(BIAS), affine, encode), name=name
        ).given.held.digest

    class Mine(TopK):
        pass

    before, function = of("mine", Mine(2)), lambda: lambda model, signals: signals @ model.decoder
    assert before == of("other", Mine(2)) and of("mine", function()) == of("mine", function())
    Mine.version = 2
    assert before != of("mine", Mine(2))


def tensor(array):
    """A tensor of PyTorch with a gradient."""
    kind = torch.bfloat16 if array.dtype == ml_dtypes.bfloat16 else torch.float32
    return torch.tensor(array.astype(np.float32)).to(kind).requires_grad_()


RNG = np.random.default_rng(5)
DRAWN = {
    "W_enc": RNG.normal(size=(4, 7)),
    "b_enc": RNG.normal(size=7),
    "W_dec": RNG.normal(size=(7, 4)),
    "b_dec": RNG.normal(size=4),
}
HELD = {name: array.astype(ml_dtypes.bfloat16) for name, array in DRAWN.items()}
ROWS = RNG.normal(1, 2, size=(9, 4)).astype(np.float32)
LIMITS = RNG.uniform(0.1, 2, size=7).astype(np.float32)


def above(limit):
    return lambda p: p * (p > np.maximum(limit, 0))


ARCHITECTURES = [
    ({"architecture": "relu"}, above(0)),
    ({"architecture": "topk", "k": 2}, lambda p: above(np.sort(p)[:, [4]])(p)),
    ({"architecture": "batchtopk", "threshold": 0.7}, above(0.7)),
    ({"architecture": "batchtopk", "k": 2}, lambda p: above(np.sort(p, axis=None)[-19])(p)),
    ({"architecture": "jumprelu", "threshold": LIMITS}, above(LIMITS)),
]


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(("options", "codes_of"), ARCHITECTURES)
@pytest.mark.parametrize("turned", [(), ("W_enc",), ("W_dec",), ("W_enc", "W_dec")])
def test_an_sae_of_arrays_infers_as_its_formula_says(options, codes_of, turned, centred):
    weight, encoder_bias, atoms, bias = (held.astype(np.float64) for held in HELD.values())
    kinds = [np.asarray, jnp.asarray, tensor, tensor]
    given = {
        name: kind(held.T if name in turned else held)
        for kind, (name, held) in zip(kinds, HELD.items(), strict=True)
    }
    sae = SAE.from_arrays(**given, centred=centred, name="mine", **options)
    codes = codes_of((ROWS - centred * bias) @ weight + encoder_bias)
    assert 0 < np.count_nonzero(codes) < codes.size and sae.name == "mine"
    np.testing.assert_allclose(sae.encode(ROWS), codes, atol=1e-5)
    np.testing.assert_allclose(sae.encode(tensor(ROWS)), codes, atol=1e-5)
    np.testing.assert_allclose(sae.reconstruct(ROWS), codes @ atoms + bias, atol=1e-4)


SKIP, OTHERS = RNG.normal(size=(5, 4)).astype("f"), RNG.normal(1, 2, size=(9, 5)).astype("f")
READS = {**{name: array.astype("f") for name, array in DRAWN.items()}, "W_skip": SKIP}
READS["W_enc"] = RNG.normal(size=(5, 7)).astype("f")


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("turned", [(), ("W_enc",), ("W_dec", "W_skip")])
def test_a_transcoder_of_arrays_infers_as_its_formula_says(turned, skip):
    given = {name: held.T if name in turned else held for name, held in READS.items()}
    weight, offset, atoms, bias, matrix = (
        READS[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip")
    )
    added = bias + (OTHERS @ matrix if skip else 0)
    if not skip:
        del given["W_skip"]
    sae = SAE.from_arrays(**given, architecture="relu", transcoder=True)
    codes = above(0)(OTHERS @ weight + offset)
    np.testing.assert_allclose(sae.encode(OTHERS), codes, atol=1e-5)
    np.testing.assert_allclose(sae.reconstruct(OTHERS), codes @ atoms + added, atol=1e-4)
    np.testing.assert_allclose(sae.target(ROWS, OTHERS), ROWS - added, atol=1e-4)
    assert "square matrices" not in sae.notes
    faults = [
        (lambda: sae.encode(ROWS), "activations have 4 columns, but the transcoder has num_inputs"),
        (lambda: sae.target(OTHERS, OTHERS), "targets have 5 columns, but the transcoder has inp"),
        (lambda: sae.encode_target(ROWS), "reads no target"),
    ]
    if skip:
        faults += [
            (lambda: sae.decode(codes), "give what it read, one row for each of the 9"),
            (lambda: sae.decode(codes, OTHERS[:3]), "one row for each of the 9"),
            (lambda: sae.target(ROWS), "give what it read"),
        ]
    else:
        np.testing.assert_array_equal(sae.decode(codes), sae.reconstruct(OTHERS))
        np.testing.assert_array_equal(sae.target(ROWS), sae.target(ROWS, OTHERS))
    for call, words in faults:
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.parametrize("linear", [True, None])
def test_a_square_skip_is_taken_as_one_says(linear):
    matrix, weight = RNG.normal(size=(4, 4)).astype("f"), RNG.normal(size=(4, 7)).astype("f")
    sae = SAE.from_arrays(
        **READS | {"W_skip": matrix, "W_enc": weight},
        architecture="relu",
        transcoder=True,
        linear=linear,
    )
    np.testing.assert_array_equal(sae.model.skip, matrix.T if linear else matrix)
    taken = sae.notes.get("square matrices", "")
    assert taken.startswith("taken as x @ W_skip;") == (linear is None)


def test_functions_that_encode_are_told_apart_by_what_they_read():
    model = transcoder(TopK(3))[0]

    def digest(encode):
        model_of = dataclasses.replace(model, encode=encode)
        return SAE.of_model(model_of).given.held.digest

    once, twice = (
        lambda model, x, times=times: times * jnp.asarray(x) @ model.encoder.weight
        for times in (1, 2)
    )

    class OfTargets(Encoder):
        reads_inputs = False

        def __call__(self, model, signals):
            return signals @ model.decoder

    assert len({digest(encode) for encode in (once, twice, TopK(3), OfTargets())}) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"skip": np.zeros((6, 5))}, r"skip must be of shape \(5, 6\).*transpose"),
        ({"centre": np.full(5, np.nan)}, "centre must be finite"),
    ],
)
def test_a_transcoder_whose_parts_do_not_fit_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        SAE.of_model(dataclasses.replace(transcoder(TopK(3))[0], **change))


def test_a_tensor_comes_to_the_host(monkeypatch):
    moved = []
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: moved.append(self) or self)
    np.testing.assert_array_equal(detached(tensor(ROWS)), ROWS)
    assert moved


@pytest.mark.parametrize("linear", [True, False, None])
def test_square_matrices_are_taken_as_one_says(linear):
    rng = np.random.default_rng(0)
    weight, atoms = rng.normal(size=(2, 4, 4)).astype(np.float32)
    zeros = np.zeros(4, np.float32)
    given = (weight.T, zeros, atoms.T, zeros) if linear else (weight, zeros, atoms, zeros)
    sae = SAE.from_arrays(*given, architecture="relu", linear=linear)
    np.testing.assert_allclose(
        sae.reconstruct(ROWS), np.maximum(ROWS @ weight, 0) @ atoms, rtol=1e-4
    )
    assert ("square matrices" in sae.notes) == (linear is None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"W_enc": np.zeros((4, 6))}, r"W_enc in the arrays has shape \(4, 6\) where \(4, 7\)"),
        ({"W_dec": np.full((7, 4), np.nan)}, "W_dec in the arrays has NaN"),
        ({"b_dec": ["a"]}, "b_dec must be an array of floats"),
        *(
            ({"b_enc": bias}, "b_enc must be a vector")
            for bias in (np.zeros((1, 7)), np.zeros(0), 0.0)
        ),
        ({"centred": "False"}, "centred must be True or False"),
        ({"architecture": "batchtopk", "threshold": 0.5, "k": 99}, "k must be an integer"),
        ({"architecture": "gated"}, "architecture must be one of relu, topk"),
        ({"W_skip": np.zeros((4, 4))}, "an SAE has no W_skip; give transcoder=True"),
        ({"k": None}, "topk takes k, but it is given none"),
        ({"threshold": 1.0}, "topk takes k, but it is given k and threshold"),
        ({"architecture": "relu"}, "relu takes neither k nor threshold, but it is given k"),
        ({"architecture": "batchtopk", "k": None}, "batchtopk takes threshold or k"),
        ({"k": 8}, "k must be an integer of at least 1 and of at most 7"),
        (
            {"architecture": "jumprelu", "k": None, "threshold": np.zeros(3)},
            r"threshold in the arrays has shape \(3,\)",
        ),
    ],
)
def test_arrays_that_make_no_sae_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        SAE.from_arrays(**DRAWN | {"architecture": "topk", "k": 2} | change)
