"""What `save_sae` writes: the same SAE to whoever reads it, whole or not at all."""

import dataclasses
import json
import os
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

import sae_gap
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.screened_pursuit import BatchPursuit
from sae_gap.encoders.topk import TopK
from sae_gap.saes import save
from tests.saes.examples import ENCODERS, SAVED, TRANSCODERS, example, saved
from tests.saes.test_libraries import loaded


@pytest.mark.parametrize("name", (*ENCODERS, *TRANSCODERS))
def test_the_files_that_saelens_read_are_those_written_now(tmp_path, name):
    sae_gap.save_sae(
        saved(name), tmp_path / "sae", metadata={"hook_name": "blocks.2.hook_resid_post"}
    )
    assert sorted(os.listdir(tmp_path)) == ["sae"]
    # The version that wrote them is the one thing that may differ.
    now, then = (
        re.sub(r'("sae_gap_version": )".*"', r"\1null", path.read_text())
        for path in (tmp_path / "sae/cfg.json", SAVED / name / "cfg.json")
    )
    assert now == then and '"sae_gap_version": null' in now
    now, then = (
        load_file(folder / "sae_weights.safetensors") for folder in (tmp_path / "sae", SAVED / name)
    )
    assert now.keys() == then.keys()
    # The exponential of a threshold is rounded in its own way by each machine.
    for tensor, value in now.items():
        np.testing.assert_allclose(value, then[tensor], rtol=1e-6, err_msg=tensor)


def test_metadata_come_before_the_notes_of_a_loaded_sae_and_folders_are_made(tmp_path):
    sae = loaded("saelens/topk")
    folder = tmp_path / "of" / "many" / "saes"
    sae_gap.save_sae(sae, folder, metadata={"hook_name": "blocks.7.hook_mlp_out"})
    assert (
        sae.notes["hook_name"]
        != "blocks.7.hook_mlp_out"
        == sae_gap.load_sae(folder).notes["hook_name"]
    )


def refused(call, *words):
    with pytest.raises(ValueError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_model_needs_a_dictionary_and_an_encoder_that_is_known(tmp_path):
    model, folder = example("relu"), tmp_path / "sae"
    bare = dataclasses.replace(model, encode=None)
    refused(lambda: sae_gap.save_sae(bare, folder), "dictionary alone", "sae_gap.learn")
    refused(
        lambda: sae_gap.save_sae(dataclasses.replace(model, dictionary=None), folder),
        "no dictionary",
    )
    refused(lambda: sae_gap.save_sae(bare, folder, encoder=Lasso(0.1)), "Lasso", "TopK")
    refused(
        lambda: sae_gap.save_sae(bare, folder, encoder=MatchingPursuit(3)),
        "no parameters that MatchingPursuit",
    )

    # What goes on from a known encoder may infer in its own way.
    class Louder(TopK):
        def __call__(self, model, signals):
            return 2 * super().__call__(model, signals)

    refused(lambda: sae_gap.save_sae(model, folder, encoder=Louder(3)), "Louder")
    refused(
        lambda: sae_gap.save_sae(bare, folder, encoder=lambda model, signals: signals), "function"
    )
    refused(
        lambda: sae_gap.save_sae(dataclasses.replace(bare, encoder=None), folder, encoder=TopK(3)),
        "TopK",
        "Model.encoder",
    )
    refused(
        lambda: sae_gap.save_sae(loaded("saelens/topk"), folder, encoder=TopK(3)),
        "leave encoder out",
    )
    spoilt = dataclasses.replace(model, bias=model.bias.at[2].set(jnp.nan))
    refused(lambda: sae_gap.save_sae(spoilt, folder), "bias", "finite")
    encoder, atoms = BatchPursuit(3), jnp.eye(6)
    spoilt = sae_gap.Model(
        atoms, jnp.zeros(6), encoder.parameters(atoms, jax.random.key(0)), encoder
    )
    spoilt = eqx.tree_at(lambda model: model.encoder.value, spoilt, jnp.nan)
    refused(lambda: sae_gap.save_sae(spoilt, folder), "NaN")
    assert os.listdir(tmp_path) == []


def test_a_given_encoder_is_the_one_written(tmp_path):
    sae_gap.save_sae(
        dataclasses.replace(example("relu"), encode=None), tmp_path / "sae", encoder=TopK(2)
    )
    config = json.loads((tmp_path / "sae/cfg.json").read_text())
    assert (config["architecture"], config["k"]) == ("topk", 2)


def test_nothing_is_overwritten_and_nothing_is_left_half_written(tmp_path, monkeypatch):
    model, folder = example("relu"), tmp_path / "sae"
    folder.mkdir()
    sae_gap.save_sae(model, folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    refused(lambda: sae_gap.save_sae(example("topk"), folder), "already")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").write_text("x")
    refused(lambda: sae_gap.save_sae(model, tmp_path / "file"), "cannot be written")
    refused(lambda: sae_gap.save_sae(model, tmp_path / "file" / "below"), "cannot be written")
    with pytest.raises(TypeError, match="JSON"):
        sae_gap.save_sae(model, tmp_path / "other", metadata={"a": {1}})

    def full(folder, name, content):
        if name.endswith(".json"):
            raise OSError(28, "No space left on device")
        folder.local.mkdir()
        (folder.local / name).write_bytes(content)

    monkeypatch.setattr(save.Folder, "write", full)
    refused(lambda: sae_gap.save_sae(model, tmp_path / "other"), "No space left")
    assert sorted(os.listdir(tmp_path)) == ["file", "sae"]


def test_metadata_cannot_change_the_form_and_what_is_no_model_is_said(tmp_path):
    sae_gap.save_sae(example("topk"), tmp_path / "sae", metadata={"sae_lens_version": "3"})
    assert sae_gap.load_sae(tmp_path / "sae").notes["sae_lens_version"] == "6.0.0"
    with pytest.raises(TypeError, match="a dict is neither"):
        sae_gap.save_sae({}, tmp_path / "other")
