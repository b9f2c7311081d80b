"""What no library's file shows: dead atoms, activations of zeros, older options."""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import load_file, save_file

import sae_gap
from sae_gap.saes import Parts, RepeatingPursuit, of_parts
from sae_gap.storage import Config, Tensors
from tests.saes.examples import FILES, example, refused


def changed(tmp_path, case, tensors=None, **entries):
    """A copy of an SAE of SAELens with other tensors and other entries of its configuration, and
    its weights.
    """
    folder = tmp_path / "sae"
    shutil.copytree(FILES / "saelens" / case, folder)
    weights = load_file(folder / "sae_weights.safetensors") | (tensors or {})
    save_file(weights, folder / "sae_weights.safetensors")
    config = json.loads((folder / "cfg.json").read_text()) | entries
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder, weights


X = np.random.default_rng(3).normal(1, size=(24, 6)).astype("f")


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64])
def test_weights_of_eight_or_sixty_four_bits_are_read_as_they_are(tmp_path, kind):
    folder, weights = changed(tmp_path, "standard")
    narrow = {name: torch.tensor(array).to(kind) for name, array in weights.items()}
    safetensors.torch.save_file(narrow, folder / "sae_weights.safetensors")
    found = sae_gap.load_sae(folder).model.encoder.weight
    np.testing.assert_array_equal(found, narrow["W_enc"].float())


@pytest.mark.parametrize("case", ["topk_rescaled", "abstopk_rescaled", "pursuit"])
def test_a_dead_atom_is_never_among_the_largest(tmp_path, case):
    """Its code times its length is nothing."""
    atoms = load_file(FILES / "saelens" / case / "sae_weights.safetensors")["W_dec"].copy()
    atoms[4] = 0
    sae = sae_gap.load_sae(changed(tmp_path, case, {"W_dec": atoms})[0])
    codes = np.asarray(sae.encode(X))
    assert np.isfinite(codes).all() and float(sae.lengths[4]) == 0
    assert not codes[:, 4].any() and (codes != 0).sum(axis=1).max() > 1


def test_an_activation_of_zeros_has_no_direction_and_stays():
    sae = sae_gap.load_sae(FILES / "saelens/constant_norm")
    x = np.zeros((2, 6), np.float32)
    np.testing.assert_allclose(sae.target(x), -np.tile(sae.bias, (2, 1)))
    assert np.isfinite(sae.reconstruct(x)).all()


def test_an_older_scaling_factor_multiplies_the_codes_as_they_are_decoded(tmp_path):
    factors = np.linspace(0.5, 2, 10).astype("f")
    options = {"finetuning_scaling_factor": True}
    folder, held = changed(tmp_path, "old", {"scaling_factor": factors}, **options)
    sae = sae_gap.load_sae(folder)
    codes = np.maximum((X - held["b_dec"]) @ held["W_enc"] + held["b_enc"], 0)
    np.testing.assert_allclose(sae.encode(X), codes, atol=1e-5)
    wanted = (codes * factors) @ held["W_dec"] + held["b_dec"]
    np.testing.assert_allclose(sae.reconstruct(X), wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("flag", [True, False])
def test_an_older_flag_of_normalisation(tmp_path, flag):
    sae = sae_gap.load_sae(changed(tmp_path, "old", normalize_activations=flag)[0])
    assert sae.normalisation.name == "none" and ("caution" in sae.notes) == flag


def test_codes_of_unit_atoms_keep_their_thresholds_and_a_dead_atom_reaches_none():
    eye = np.eye(2, dtype="f")
    tensors = {"W_dec": np.diag([2, 0]).astype("f"), "b_dec": eye[0], "W_enc": eye}
    tensors |= {"b_enc": np.zeros(2, "f"), "threshold": 0.5}
    parts = Parts("jumprelu", {}, tensors, "ours", "jumprelu", {}, codes_of_unit_atoms=True)
    np.testing.assert_array_equal(of_parts(parts).encode(eye), [[2, 0], [0, 0]])


def test_what_a_bias_adds_to_codes_is_summed_in_double_precision():
    long, weight = np.array([2.0**24, 1.0], np.float32), np.ones((2, 3), np.float32)
    arrays = {"W_dec": weight.T, "b_dec": long, "W_enc": weight}
    arrays["b_enc"] = np.full(3, -(2.0**24), np.float32)
    sae = of_parts(Parts("standard", {}, arrays, "ours", "standard", {}))
    np.testing.assert_array_equal(sae.model.encoder.bias, [1, 1, 1])


def test_a_pursuit_stops_once_little_is_left():
    model = sae_gap.Model(jnp.eye(3), jnp.zeros(3))
    signals = jnp.array([[3, 1, 0.5], [3, 2, 0.5]])
    # After 3, what is left of the first is of norm 1.12.
    codes = RepeatingPursuit(9, residual=1.2)(model, signals)
    np.testing.assert_allclose(codes, [[3, 0, 0], [3, 2, 0]])


def test_tensors_and_entries_of_other_types():
    found = Tensors(Path("w"), {"big": np.array([1.5, -2], ">f4")}).take("big", 2)
    assert found.tolist() == [1.5, -2] and found.dtype.isnative
    assert Config(Path("c"), {"k": 3.0}).size("k") == 3
    wrong = Config(Path("c"), dict(enumerate((True, 0, 2**31, 2.5, "3"))))
    for name in wrong.entries:
        refused(lambda: wrong.size(name), "integer of at least 1")  # noqa: B023


def test_a_home_is_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sae_gap.save_sae(example("relu"), "~/mine")
    assert (tmp_path / "mine").is_dir() and sae_gap.load_sae("~/mine").architecture == "standard"
