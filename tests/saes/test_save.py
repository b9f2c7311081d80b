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
from sae_gap.encoders import BatchPursuit, Lasso, ListaMatryoshka, TopK
from sae_gap.saes import save
from tests.saes.examples import ENCODERS, HOOK, SAVED, TRANSCODERS, example, refused, saved
from tests.saes.test_libraries import loaded


@pytest.mark.parametrize("name", (*ENCODERS, *TRANSCODERS))
def test_the_files_that_saelens_read_are_those_written_now(tmp_path, name):
    folder = tmp_path / "sae"
    sae_gap.save_sae(saved(name), folder, metadata=HOOK)
    assert sorted(os.listdir(tmp_path)) == ["sae"]
    # The version that wrote them is the one thing that may differ.
    now, then = (
        re.sub(r'("sae_gap_version": )".*"', r"\1null", path.read_text())
        for path in (folder / "cfg.json", SAVED / name / "cfg.json")
    )
    assert now == then and '"sae_gap_version": null' in now
    now, then = (load_file(path / "sae_weights.safetensors") for path in (folder, SAVED / name))
    assert now.keys() == then.keys()
    # The exponential of a threshold is rounded in its own way by each machine.
    for tensor, value in now.items():
        np.testing.assert_allclose(value, then[tensor], rtol=1e-6, err_msg=tensor)


def test_metadata_come_before_the_notes_of_a_loaded_sae_and_cannot_change_the_form(tmp_path):
    folder, hook = tmp_path / "of" / "many" / "saes", "blocks.7.hook_mlp_out"
    metadata = {"hook_name": hook, "sae_lens_version": "3"}
    sae_gap.save_sae(loaded("saelens/topk"), folder, metadata=metadata)
    notes = sae_gap.load_sae(folder).notes
    assert (notes["hook_name"], notes["sae_lens_version"]) == (hook, "6.0.0")


# What goes on from a known encoder may infer in its own way.
class Louder(TopK):
    def __call__(self, model, signals):
        return 2 * super().__call__(model, signals)


MODEL = example("relu")
BARE = dataclasses.replace(MODEL, encode=None)
PURSUED = sae_gap.Model(
    jnp.eye(6), jnp.zeros(6), BatchPursuit(3).parameters(jnp.eye(6), jax.random.key(0))
)
REFUSED = [
    (BARE, None, "dictionary alone", "sae_gap.learn"),
    (dataclasses.replace(MODEL, dictionary=None), None, "no dictionary"),
    (BARE, Lasso(0.1), "Lasso", "TopK"),
    (MODEL, Louder(3), "Louder"),
    (BARE, lambda model, signals: signals, "function"),
    (dataclasses.replace(BARE, encoder=None), TopK(3), "TopK", "Model.encoder"),
    (dataclasses.replace(BARE, encoder=None), ListaMatryoshka(3), "Lista", "Model.encoder"),
    (loaded("saelens/topk"), TopK(3), "leave encoder out"),
    (dataclasses.replace(MODEL, bias=MODEL.bias.at[2].set(jnp.nan)), None, "bias", "finite"),
    (eqx.tree_at(lambda model: model.encoder.value, PURSUED, jnp.nan), BatchPursuit(3), "NaN"),
]


@pytest.mark.parametrize("fault", REFUSED, ids=lambda fault: fault[2])
def test_a_model_needs_a_dictionary_and_an_encoder_that_is_known(tmp_path, fault):
    model, encoder, *words = fault
    refused(lambda: sae_gap.save_sae(model, tmp_path / "sae", encoder=encoder), *words)
    assert os.listdir(tmp_path) == []


def test_a_given_encoder_is_the_one_written(tmp_path):
    sae_gap.save_sae(BARE, tmp_path / "sae", encoder=TopK(2))
    config = json.loads((tmp_path / "sae/cfg.json").read_text())
    assert (config["architecture"], config["k"]) == ("topk", 2)


def test_nothing_is_overwritten_and_nothing_is_left_half_written(tmp_path, monkeypatch):
    folder, other = tmp_path / "sae", tmp_path / "other"
    folder.mkdir()
    sae_gap.save_sae(MODEL, folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    refused(lambda: sae_gap.save_sae(example("topk"), folder), "already")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/below"):
        refused(lambda: sae_gap.save_sae(MODEL, tmp_path / place), "cannot be written")  # noqa: B023
    with pytest.raises(TypeError, match="JSON"):
        sae_gap.save_sae(MODEL, other, metadata={"a": {1}})
    with pytest.raises(TypeError, match="a dict is neither"):
        sae_gap.save_sae({}, other)

    def full(folder, name, content):
        if name.endswith(".json"):
            raise OSError(28, "No space left on device")
        folder.local.mkdir()
        (folder.local / name).write_bytes(content)

    monkeypatch.setattr(save.Folder, "write", full)
    refused(lambda: sae_gap.save_sae(MODEL, other), "No space left")
    assert sorted(os.listdir(tmp_path)) == ["file", "sae"]
