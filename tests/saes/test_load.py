"""One opener reads whatever holds atoms: each kind gives its atoms, and a mistake is one sentence."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import sae_gap
from benchmarks.real import train_real
from sae_gap.core import identity
from sae_gap.learners import OnlineDictionary
from sae_gap.storage import Folder, trees
from tests import torch_files
from tests.saes.examples import FILES, refused
from tests.saes.test_bad_input import configure, copy

ATOMS = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
BIAS, MEAN = np.arange(6, dtype=np.float32), np.full(6, 2, np.float32)
MODEL = sae_gap.Model(jnp.asarray(ATOMS), jnp.asarray(BIAS))


def fit(folder):
    folder.mkdir()
    note = {"learner": identity.describe(OnlineDictionary()), "source": {"seed": 3}}
    (folder / "fit.safetensors").write_bytes(trees.dump(MODEL, note))


def trained(folder):
    train_real.save(MODEL, Folder(folder), {})


def learned(folder):
    sae_gap.dictionary(ATOMS, BIAS, l0=2).save(folder)


# What is written to a place, the file in it, and the bias in it.
KINDS = {
    "fit": (fit, "", BIAS),
    "learned": (learned, "", BIAS),
    "learned file": (learned, "dictionary.safetensors", BIAS),
    "trained": (trained, "", BIAS),
    "trained file": (trained, "dictionary.npy", BIAS),
    "x.npy": (lambda path: np.save(path, ATOMS), "", MEAN),
    "x.safetensors": (lambda path: save_file({"any": ATOMS}, path), "", MEAN),
    "x.pt": (lambda path: torch_files.save(path, ATOMS), "", MEAN),
    "y.pt": (lambda path: torch_files.save(path, {"atoms": ATOMS}), "", MEAN),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_dictionary_opens_with_its_own_bias_or_else_the_mean(tmp_path, kind):
    write, name, bias = KINDS[kind]
    write(tmp_path / kind)
    sae = sae_gap.load_sae(tmp_path / kind / name, mean=lambda: MEAN)
    unit = ATOMS / np.linalg.norm(ATOMS, axis=0)
    np.testing.assert_allclose(sae.unit_dictionary, unit, atol=1e-6)
    np.testing.assert_array_equal(sae.bias, bias)
    assert (sae.given.family, sae.signed, sae.model.encode) == ("dictionary", False, None)
    refused(lambda: sae.encode(np.ones((2, 6))), "a decoder alone")
    if bias is MEAN:
        other = {"mean": np.ones(10)}
        refused(lambda: sae_gap.load_sae(tmp_path / kind, **other), "shape (10, num_latents)")
        assert not sae_gap.load_sae(tmp_path / kind).bias.any()


HERE = "model.layers.5.pre_feedforward_layernorm.output"


@pytest.mark.parametrize(
    ("case", "entries", "transcodes"),
    [
        ("transcoder", {"type": "sae", "hf_hook_point_out": HERE}, False),
        ("transcoder", {"type": "sae"}, True),
        ("transcoder", {"hf_hook_point_out": HERE}, True),
        ("transcoder_affine", {"type": "sae", "hf_hook_point_out": HERE}, True),
    ],
)
def test_each_sign_of_a_transcoder_of_gemma_scope_is_enough(tmp_path, case, entries, transcodes):
    folder = copy(tmp_path, f"gemma_scope/{case}")
    configure(folder, **entries, affine_connection=False)
    assert sae_gap.load_sae(folder).transcodes == transcodes


def test_an_sae_without_its_encoder_keeps_what_is_done_to_activations():
    sae, x = sae_gap.load_sae(FILES / "saelens/layer_norm"), np.eye(6) + 0.1
    alone = sae.decoder_alone
    np.testing.assert_array_equal(alone.target(x), sae.target(x))
    np.testing.assert_allclose(alone.decode(sae.encode(x), x), sae.reconstruct(x), atol=1e-5)
    assert (alone.given.family, alone.model.encode) == ("dictionary", None)


def test_a_file_that_holds_no_atoms_is_refused(tmp_path):
    save_file({"a": ATOMS, "b": ATOMS}, tmp_path / "two.safetensors")
    np.save(tmp_path / "row.npy", ATOMS[0])
    (tmp_path / "cut.npy").write_bytes(b"no array")
    for name, words in (
        ("two.safetensors", "must hold one tensor, but has a, b"),
        ("row.npy", "must be a non-empty matrix"),
        ("cut.npy", "cannot be read as weights of an SAE or an array"),
    ):
        refused(lambda: sae_gap.load_sae(tmp_path / name), words)  # noqa: B023
