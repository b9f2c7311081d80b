"""SAEs in memory, of models and of arrays, each by its formula; and what `save_sae` and fits of the
suite leave: the same SAE to whoever reads it, whole or not at all.
"""

import functools
import json
import os
import re
from dataclasses import replace

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import torch
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import mark, raises
from safetensors.numpy import load_file

from sae_gap import catalogue, load_sae, save_sae
from sae_gap.core import Model, describe
from sae_gap.encoders import Lasso, LearnedSteps, MatchingPursuit, TopK, encode
from sae_gap.learners import SparseAutoencoder, SparseTranscoder
from sae_gap.saes import FIT, SAE, as_fit
from sae_gap.storage import trees
from sae_gap.testing import check_sae_format
from tests.saes.examples import FILES, close, example, refused, transcoder
from tests.saes.test_libraries import loaded

# The last atom is dead.
ATOMS = np.array([[3.0, 0, 0], [0, 0.5, 0], [0, 0, 0]], np.float32)
BIAS = np.array([1.0, -1, 2], np.float32)
PLAIN = Model(
    jnp.asarray(ATOMS.T),
    jnp.asarray(BIAS),
    encode=lambda model, x: 2 * jnp.asarray(x) @ ATOMS,
)


def test_an_sae_of_a_model_has_its_units_and_atoms_of_unit_length():
    sae = SAE.of_model(PLAIN)
    x = np.ones((2, 3), "f")
    assert_allclose(sae.target(x), x - BIAS)
    # The encoder is given activations as they are.
    assert_allclose(sae.encode(x), 2 * x @ ATOMS)
    assert_allclose(sae.lengths, [3, 0.5, 0])
    assert_allclose(np.linalg.norm(sae.unit_dictionary, axis=0), [1, 1, 0])
    assert_allclose(sae.reconstruct(x), 2 * x @ ATOMS @ ATOMS + BIAS)


def tensor(array):
    """A tensor of PyTorch with a gradient."""
    kind = torch.bfloat16 if array.dtype == ml_dtypes.bfloat16 else torch.float32
    return torch.tensor(array.astype(np.float32)).to(kind).requires_grad_()


RNG = default_rng(5)
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
    (
        {"architecture": "batchtopk", "k": 2},
        lambda p: above(np.sort(p, axis=None)[-19])(p),
    ),
    (
        {"architecture": "jumprelu", "threshold": LIMITS, "centred": False},
        above(LIMITS),
    ),
]


@mark.parametrize("turned", [(), ("W_enc", "W_dec")])
@mark.parametrize(("options", "codes_of"), ARCHITECTURES)
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
    assert_allclose(sae.encode(tensor(ROWS)), codes, atol=1e-5)
    assert_allclose(sae.reconstruct(ROWS), codes @ atoms + bias, atol=1e-4)


@mark.parametrize("turned", ["W_enc", ("W_dec", "W_skip")])
def test_a_transcoder_of_arrays_infers_as_its_formula_says(turned):
    weight = RNG.normal(size=(5, 7)).astype("f")
    skip = RNG.normal(size=(5, 4)).astype("f")
    x = RNG.normal(1, 2, size=(9, 5)).astype("f")
    given = DRAWN | {"W_enc": weight, "W_skip": skip}
    given = {
        name: array.T if name in turned else array for name, array in given.items()
    }
    sae = SAE.from_arrays(**given, architecture="relu", transcoder=True)
    codes = above(0)(x @ weight + DRAWN["b_enc"])
    added = DRAWN["b_dec"] + x @ skip
    assert_allclose(sae.encode(x), codes, atol=1e-5)
    assert_allclose(sae.reconstruct(x), codes @ DRAWN["W_dec"] + added, atol=1e-4)
    assert_allclose(sae.target(ROWS, x), ROWS - added, atol=1e-4)
    refused(
        lambda: sae.encode(ROWS), "activations have 4", "the transcoder has num_inputs"
    )
    refused(lambda: sae.target(x, x), "targets have 5", "the transcoder has input_dim")
    refused(lambda: sae.decode(codes, x[:3]), "what it read, one row for each of the 9")
    refused(lambda: sae.target(ROWS), "what it read")


@mark.parametrize("linear", [True, None])
def test_square_matrices_are_taken_as_one_says(linear):
    weight, atoms = RNG.normal(size=(2, 4, 4)).astype("f")
    none = np.zeros(4)
    sae = SAE.from_arrays(weight, none, atoms, none, architecture="relu", linear=linear)
    if linear:
        weight = weight.T
        atoms = atoms.T
    wanted = np.maximum(ROWS @ weight, 0) @ atoms
    assert_allclose(sae.reconstruct(ROWS), wanted, rtol=1e-4, atol=1e-4)
    assert ("square matrices" in sae.notes) == (linear is None)


@mark.parametrize(
    ("change", "words"),
    [
        (
            {"W_enc": np.zeros((4, 6))},
            "W_enc in the arrays has shape (4, 6) where (4, 7)",
        ),
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
    sae = load_sae(FILES / "saelens/layer_norm")
    eye = np.eye(6)
    for call, words in (
        (lambda: sae.encode(np.ones((3, 7))), "7 columns, but the SAE has input_dim 6"),
        (lambda: sae.encode(np.nan * eye), "activations"),
        (lambda: sae.encode(np.ones((3, 2, 3))), "(3, 2, 3)"),
        (
            lambda: sae.decode(sae.encode(eye)),
            "by itself (layer norm); give like=activations",
        ),
        (lambda: sae.decode(np.ones((2, 9)), like=eye[:2]), "9 columns"),
    ):
        refused(call, words)
    alone = sae.decoder_alone
    assert_array_equal(alone.target(eye), sae.target(eye))
    assert (alone.given.family, alone.model.encode) == ("dictionary", None)


def test_a_crosscoder_takes_layers_before_dimensions(tmp_path):
    sae = load_sae(FILES / "crosscoder/relu")
    x = RNG.normal(size=(20, 3, 2))
    save_sae(sae, tmp_path / "sae")
    again = load_sae(tmp_path / "sae")
    again.encode(x)
    for wrong in (x.swapaxes(1, 2), x[:, :2]):
        encode = functools.partial(again.encode, wrong)
        refused(encode, "as (n, layers, dim), but they are (20, 2,")


X = default_rng(0).normal(1, 1.5, size=(24, 6)).astype("f")


def written(folder, model, kind=SparseAutoencoder, **encoder):
    """A file as a finished fit leaves it, but for what its encoder says of itself."""
    described = describe(kind(model.encode))
    described["encoder"] |= encoder
    folder.mkdir()
    note = {"learner": described, "source": {"seed": 3}}
    (folder / "fit.safetensors").write_bytes(trees.dump(model, note))
    return folder


@mark.parametrize("name", catalogue.saes())
def test_a_fit_infers_as_its_model_does(tmp_path, name):
    model = example(name)
    own = np.asarray(encode(model.encode, model, jnp.asarray(X)))
    folder = written(tmp_path / "fit", model)
    (folder / "000001.safetensors").write_bytes(b"a model along the fit")
    check_sae_format(folder, X, own, model.reconstruct(own, None))
    sae = load_sae(folder)
    assert (sae.library, sae.architecture) == ("sae_gap", type(model.encode).__name__)
    # One that infers by thresholds keeps its k in a note.
    k = {"k": "3"} if name in ("batchtopk", "matryoshka") else {}
    assert sae.notes == {"fit": "fit", "learner": "SparseAutoencoder", "seed": "3"} | k


@mark.parametrize("skip", [True, False])
@mark.parametrize(
    "name", [name for name, kind in catalogue.saes().items() if kind.reads_inputs]
)
def test_a_transcoder_infers_as_its_model_does_whatever_form_it_is_saved_in(
    tmp_path, name, skip
):
    model, x = transcoder(catalogue.make_encoder(name, sparsity=3), skip=skip)
    codes = np.asarray(encode(model.encode, model, jnp.asarray(x)))
    # The formula, apart from the model's own.
    again = codes @ model.dictionary.T + model.bias + (x @ model.skip if skip else 0)
    save_sae(model, tmp_path / "saved")
    for folder in (
        written(tmp_path / "fit", model, SparseTranscoder),
        tmp_path / "saved",
    ):
        check_sae_format(folder, x, codes, again)
        sae = load_sae(folder)
        assert sae.transcodes and not sae.centred
        assert (sae.num_inputs, sae.input_dim) == (5, 6)
    by_saelens = name in ("relu", "jumprelu", "batchtopk", "matryoshka")
    kind = "skip_transcoder" if skip else "transcoder"
    assert by_saelens == (sae.library == "SAELens") == sae.architecture.endswith(kind)


def test_a_transcoder_of_an_encoder_of_the_suite_alone_keeps_its_centre(tmp_path):
    model, _ = transcoder(LearnedSteps(2, 0))
    (tmp_path / FIT).write_bytes(as_fit(model, model.encode, {}))
    assert_array_equal(load_sae(tmp_path).model.centre, model.centre)


@mark.parametrize(
    ("encoder", "alone"), [(TopK(50), False), (MatchingPursuit(50), True)]
)
def test_a_k_beyond_the_width_is_all_latents_and_the_own_form_is_said(
    tmp_path, caplog, encoder, alone
):
    model = example(encoder)
    save_sae(model, tmp_path / "sae", metadata={"hook_name": "blocks.2"})
    again = load_sae(tmp_path / "sae")
    close(again.encode(X), encode(encoder, model, jnp.asarray(X)))
    assert ("sae_gap.load_sae alone reads it" in caplog.text) == alone
    assert (again.library == "sae_gap") == alone
    assert again.notes["hook_name"] == "blocks.2"


FAULTS = [
    ("topk", {"k": "three"}, "of at most 10, but it is 'three'"),
    ("topk", {"k": 11}, "of at most 10, but it is 11"),
    ("topk", {"class": "sae_gap.JumpReLU"}, "no tensor .encoder.log_threshold"),
    ("topk", {"class": "os.system"}, "'os.system'"),
    ("batch_pursuit", {"screens": 2**31 - 1}, "screens in"),
    ("lista_matryoshka", {"step": float("nan")}, "step in the fit fit must be"),
    ("lista_matryoshka", {"step": -1}, "step must be a finite number above 0"),
]


@mark.parametrize(("name", "values", "words"), FAULTS)
def test_a_fit_that_is_no_sae_is_refused_in_a_sentence(tmp_path, name, values, words):
    folder = written(tmp_path / "fit", example(name), **values)
    refused(lambda: load_sae(folder), words)


def test_a_fit_whose_numbers_changed_is_refused(tmp_path):
    path = written(tmp_path / "fit", example("topk")) / "fit.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(lambda: load_sae(path), "its numbers are not those that were written")


def content(folder):
    """The configuration, but for the version that wrote it, and the tensors."""
    text = (folder / "cfg.json").read_text()
    text = re.sub(r'("sae_gap_version": )".*"', r"\1null", text)
    return text, load_file(folder / "sae_weights.safetensors")


@mark.parametrize("case", sorted(os.listdir(FILES / "saved")))
def test_the_files_that_saelens_read_are_those_written_now(tmp_path, case):
    save_sae(loaded(f"saved/{case}"), tmp_path / "sae")
    assert sorted(os.listdir(tmp_path)) == ["sae"]
    text, tensors = content(tmp_path / "sae")
    former, former_tensors = content(FILES / "saved" / case)
    assert text == former and '"sae_gap_version": null' in text
    assert tensors.keys() == former_tensors.keys()
    # The exponential of a threshold is rounded in its own way by each machine.
    for name, value in tensors.items():
        assert_allclose(value, former_tensors[name], rtol=1e-6, err_msg=name)


# What goes on from a known encoder may infer in its own way.
class Louder(TopK):
    def __call__(self, model, signals):
        return 2 * super().__call__(model, signals)


MODEL = example("relu")
PURSUED = example("batch_pursuit")
BARE = replace(MODEL, encode=None)
REFUSED = [
    (BARE, "dictionary alone, which is no SAE; fit an encoder by sae_gap.learn"),
    (replace(MODEL, encode=Lasso(0.1)), "SAELens has no encoder like Lasso"),
    (replace(MODEL, encode=Louder(3)), "SAELens has no encoder like Louder"),
    (replace(MODEL, encoder=None), "Model.encoder"),
    (replace(example("lista_matryoshka"), encoder=None), "Model.encoder"),
    (replace(PURSUED, encoder=PURSUED.encoder.__class__(jnp.nan)), "has NaN"),
]


@mark.parametrize(("model", "words"), REFUSED)
def test_a_model_needs_a_dictionary_and_an_encoder_that_is_known(
    tmp_path, model, words
):
    refused(lambda: save_sae(model, tmp_path / "sae"), words)
    assert os.listdir(tmp_path) == []


def test_metadata_are_written_but_cannot_change_the_form(tmp_path, monkeypatch):
    metadata = {"hook_name": "h", "sae_lens_version": "3"}
    monkeypatch.setenv("HOME", str(tmp_path))
    save_sae(example(TopK(2)), "~/of/saes", metadata=metadata)
    config = json.loads((tmp_path / "of/saes/cfg.json").read_text())
    assert (config["architecture"], config["k"]) == ("topk", 2)
    save_sae(load_sae("~/of/saes"), "~/again", metadata={"hook_name": "other"})
    notes = load_sae("~/again").notes
    assert (notes["hook_name"], notes["sae_lens_version"]) == ("other", "6.0.0")


def test_nothing_else_is_overwritten_and_a_full_disk_is_said(tmp_path, monkeypatch):
    folder = tmp_path / "sae"
    other = tmp_path / "other"
    folder.mkdir()
    save_sae(MODEL, folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    # The same SAE may be saved again.
    save_sae(MODEL, folder)
    twice = replace(MODEL, dictionary=2 * MODEL.dictionary)
    for model in (example("topk"), twice, PURSUED):
        refused(lambda: save_sae(model, folder), "already")  # noqa: B023
    (folder / "notes.txt").touch()
    refused(lambda: save_sae(MODEL, folder), "already")
    (folder / "notes.txt").unlink()
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    refused(lambda: save_sae(MODEL, folder / "cfg.json/below"), "cannot be written")
    with raises(TypeError, match="JSON"):
        save_sae(MODEL, other, metadata={"a": {1}})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sae_gap.storage.folder.Folder.write", full)
    refused(lambda: save_sae(MODEL, other), "No space left")
    assert os.listdir(tmp_path) == ["sae"]
