"""What no library's file shows: dead atoms, activations of zeros, older options."""

import json
import shutil
import struct
import warnings
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sae_gap
from sae_gap.encoders.encoder import encode
from sae_gap.saes import foreign_encoders
from sae_gap.saes.loaded_sae import of_parts
from sae_gap.saes.parts import Parts
from sae_gap.storage.tensor_files import Config, Tensors, read_npz
from tests.saes.examples import example

FILES = Path(__file__).parent / "files"


def changed(tmp_path, case, tensors=None, **entries):
    """A copy of an SAE of SAELens with other tensors and other entries of its configuration, and
    its weights.
    """
    folder = tmp_path / "sae"
    shutil.copytree(FILES / "saelens" / case, folder)
    held = load_file(folder / "sae_weights.safetensors") | (tensors or {})
    save_file(held, folder / "sae_weights.safetensors")
    config = json.loads((folder / "cfg.json").read_text()) | entries
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder, held


def activations(n=24, d=6):
    return np.random.default_rng(3).normal(size=(n, d)).astype(np.float32) + 1


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2), ("F64", np.float64)],
)
def test_weights_of_eight_or_sixty_four_bits_are_read_as_they_are(tmp_path, kind, dtype):
    folder, held = changed(tmp_path, "standard")
    narrow = {name: array.astype(dtype) for name, array in held.items()}
    header, content = {}, b""
    for name, array in narrow.items():
        end = len(content) + array.nbytes
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(content), end]}
        content += array.tobytes()
    text = json.dumps(header).encode()
    (folder / "sae_weights.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sae = sae_gap.load_sae(folder)
    np.testing.assert_array_equal(sae.model.encoder.weight, narrow["W_enc"].astype(np.float32))


@pytest.mark.parametrize("case", ["topk_rescaled", "abstopk_rescaled", "pursuit"])
def test_a_dead_atom_is_never_among_the_largest(tmp_path, case):
    """Its code times its length is nothing."""
    atoms = load_file(FILES / "saelens" / case / "sae_weights.safetensors")["W_dec"].copy()
    atoms[4] = 0
    sae = sae_gap.load_sae(changed(tmp_path, case, {"W_dec": atoms})[0])
    codes = np.asarray(sae.encode(activations()))
    assert np.isfinite(codes).all() and float(sae.lengths[4]) == 0
    assert not np.any(np.asarray(sae.unit_dictionary)[:, 4])
    assert not codes[:, 4].any() and (codes != 0).sum(axis=1).max() > 1


def test_an_activation_of_zeros_has_no_direction_and_stays():
    sae = sae_gap.load_sae(FILES / "saelens/constant_norm")
    x = np.zeros((2, 6), np.float32)
    np.testing.assert_allclose(sae.target(x), -np.tile(sae.bias, (2, 1)))
    assert np.isfinite(sae.reconstruct(x)).all()


def test_an_older_scaling_factor_multiplies_the_codes_as_they_are_decoded(tmp_path):
    factors = np.linspace(0.5, 2, 10).astype(np.float32)
    folder, held = changed(
        tmp_path, "old", {"scaling_factor": factors}, finetuning_scaling_factor=True
    )
    sae, x = sae_gap.load_sae(folder), activations()
    codes = np.maximum((x - held["b_dec"]) @ held["W_enc"] + held["b_enc"], 0)
    np.testing.assert_allclose(sae.encode(x), codes, atol=1e-5)
    np.testing.assert_allclose(
        sae.reconstruct(x), (codes * factors) @ held["W_dec"] + held["b_dec"], rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("flag", [True, False])
def test_an_older_flag_of_normalisation(tmp_path, flag):
    sae = sae_gap.load_sae(changed(tmp_path, "old", normalize_activations=flag)[0])
    assert sae.normalisation.name == "none"
    assert ("caution" in sae.notes) == flag


def test_a_scaler_that_cannot_be(tmp_path):
    folder, _ = changed(tmp_path, "scaled")
    (folder / "activation_scaler.json").write_text(json.dumps({"scaling_factor": -1.0}))
    with pytest.raises(ValueError, match="above 0"):
        sae_gap.load_sae(folder)


def test_signed_codes_are_held_against_a_signed_optimum():
    sae, x = sae_gap.load_sae(FILES / "saelens/abstopk"), activations()
    assert np.any(encode(sae.model.encode, sae.model, x) < 0)
    gap = sae_gap.amortisation_gap(sae.model, x, 0.3)
    assert np.any(gap.optimum.codes < 0) and gap.gap.min() > 0


def test_a_dead_atom_reaches_no_threshold_on_codes_of_unit_atoms():
    eye, names = np.eye(2, dtype=np.float32), ("ours", "jumprelu", {})
    tensors = {"W_dec": np.diag([2, 0]).astype(np.float32), "b_dec": eye[0], "W_enc": eye}
    tensors |= {"b_enc": np.zeros(2, np.float32), "threshold": 0.5}
    sae = of_parts(Parts("jumprelu", {}, tensors, *names, codes_of_unit_atoms=True))
    np.testing.assert_array_equal(
        sae.encode_target(jnp.array([[0.0, 1.0], [-0.8, 1.0]])), [[2, 0], [0, 0]]
    )


def test_what_a_bias_adds_to_codes_is_summed_in_double_precision():
    long, weight = np.array([2.0**24, 1.0], np.float32), np.ones((2, 3), np.float32)
    arrays = {"W_dec": weight.T, "b_dec": long, "W_enc": weight}
    arrays["b_enc"] = np.full(3, -(2.0**24), np.float32)
    sae = of_parts(Parts("standard", {}, arrays, "ours", "standard", {}))
    np.testing.assert_array_equal(sae.model.encoder.bias, [1, 1, 1])


def test_a_pursuit_stops_once_little_is_left():
    model = sae_gap.Model(jnp.eye(3), jnp.zeros(3))
    signals = jnp.array([[3, 1, 0.5], [3, 2, 0.5]])
    codes = foreign_encoders.RepeatingPursuit(9, residual=1.2)(model, signals)
    # After 3, what is left of the first is of norm 1.12.
    np.testing.assert_allclose(codes, [[3, 0, 0], [3, 2, 0]])


def test_columns_that_come_first_in_an_archive_are_read_as_they_are(tmp_path):
    weights = np.arange(12.0).reshape(3, 4)
    np.savez(tmp_path / "params.npz", W_enc=np.asfortranarray(weights))
    np.testing.assert_array_equal(read_npz(tmp_path / "params.npz").take("W_enc", 3, 4), weights)


def test_tensors_and_entries_of_other_types():
    held = Tensors(Path("w"), {"big": np.array([1.5, -2], ">f4"), "whole": np.ones(2, int)})
    found = held.take("big", 2)
    np.testing.assert_array_equal(found, [1.5, -2])
    assert found.dtype == np.dtype("float32") and found.dtype.isnative
    with pytest.raises(ValueError, match=r"whole in w has the type .*; save it as float32"):
        held.take("whole", 2)
    assert Config(Path("c"), {"k": 3.0}).size("k") == 3
    for wrong in (True, 0, 2**31, 2.5, "3"):
        with pytest.raises(ValueError, match="integer of at least 1"):
            Config(Path("c"), {"k": wrong}).size("k")


def test_a_home_is_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    sae_gap.save_sae(example("relu"), "~/mine")
    assert (tmp_path / "mine").is_dir() and sae_gap.load_sae("~/mine").architecture == "standard"
