"""The binary: one screen, and the exit code says whether something is wrong."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from numpy.random import default_rng
from pytest import fixture, mark

import sae_gap
from sae_gap.core import Model, Transcoder
from sae_gap.encoders import Affine, TopK
from tests.conftest import call_binary
from tests.torch_files import save


@fixture(scope="module")
def files(tmp_path_factory):
    """An SAE of orthonormal atoms, activations that it reconstructs, and one of negated weights."""
    folder = tmp_path_factory.mktemp("files")
    rng = default_rng(0)
    atoms = np.linalg.qr(rng.normal(size=(12, 12)))[0].astype(np.float32)
    codes = rng.uniform(1, 2, (300, 12)) * (np.argsort(rng.random((300, 12))) < 3)
    x = (codes @ atoms.T + 0.05 * rng.normal(size=(300, 12))).astype(np.float32)
    mean = jnp.zeros(12)
    bias = jnp.full(12, 1e-3)
    model = Model(jnp.asarray(atoms), mean, Affine(jnp.asarray(atoms), bias), TopK(3))
    sae_gap.save_sae(model, folder / "mine")
    reads = Transcoder(model.dictionary, mean, model.encoder, TopK(3), centre=mean)
    sae_gap.save_sae(reads, folder / "reads")
    wrong = Affine(-model.encoder.weight, bias)
    sae_gap.save_sae(replace(model, encoder=wrong), folder / "wrong")
    save(folder / "x.pt", x)
    save(folder / "y.pt", x + 1e-6)
    return folder


@mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("mine", "--activations=x.pt", "--rows=50"), 0, "on 50 rows: L0"),
        (
            ("--sae=wrong", "--activations=x.pt"),
            1,
            "wrong: the encoder's columns point away",
        ),
        (
            ("reads", "--activations=x.pt", "--targets=y.pt"),
            0,
            "of a transcoder of 12 inputs",
        ),
        ((), 2, "nothing to check; give FOLDER and --activations"),
        (("mine",), 2, "--activations is needed: a file or a folder of activations."),
        (("mine", "--sae=wrong", "--activations=x.pt"), 2, "--sae is given twice"),
    ],
)
def test_the_exit_code_says_what_was_found(files, monkeypatch, arguments, code, words):
    monkeypatch.chdir(files)
    found, out, err = call_binary("check", *arguments)
    assert found == code and words in (err if code == 2 else out), (out, err)
    assert (
        (err.count("\n") == 1 and out == "")
        if code == 2
        else len(out.splitlines()) < 25
    )
