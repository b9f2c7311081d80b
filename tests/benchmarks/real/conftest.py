"""A recording of a tiny model, and an SAE of random atoms whose encoder is their transpose."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import sae_gap
from sae_gap.core import Model
from sae_gap.encoders import Affine, TopK
from sae_gap.lm import Texts, record
from tests import tiny

WORDS = ("the", "cat", "in", "hat", "sat", "on", "12", "mats", "near", "inn")


@pytest.fixture(scope="package")
def recorded(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("recorded"), np.random.default_rng(0)
    lm = tiny.tiny_lm(folder)
    texts = [" ".join(rng.choice(WORDS, 24)) for _ in range(20)]
    texts = Texts(tuple(texts), tuple(map(str, range(20))), None)
    found = record(lm, texts, folder / "r", layers=(0, 1), context=32)
    mean = jnp.asarray(found.activations(1).mean())
    atoms = jnp.asarray(rng.normal(size=(lm.model.dim, 96)) / lm.model.dim**0.5, jnp.float32)
    model = Model(atoms, mean, Affine(atoms, -mean @ atoms), TopK(4))
    sae_gap.save_sae(model, folder / "mine", metadata={"hook_name": "blocks.1.hook_resid_post"})
    flags = (f"--recording={folder / 'r'}", "--layer=1", f"--model={folder / 'tiny.gguf'}")
    flags += ("--l0=4", "--tokens=100", f"--results_dir={folder / 'results'}")
    names = {"folder": folder, "lm": lm, "texts": texts}
    return SimpleNamespace(**names, found=found, model=model, flags=flags)
