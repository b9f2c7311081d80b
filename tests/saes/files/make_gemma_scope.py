"""Writes the files under gemma_scope/ in the layout of the two releases, and what SAELens makes of
them.

Run with `pip install sae-lens`. Its loaders want a repository on the Hugging Face hub; here they
are handed the local files.
"""

import json
import pathlib
import shutil
from unittest import mock

import numpy as np
import sae_lens
import torch
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent / "gemma_scope"
SAMPLES = 24


def parameters(d, n, seed):
    rng = np.random.default_rng(seed)
    drawn = {
        "W_enc": 0.6 * rng.normal(size=(d, n)),
        "W_dec": rng.normal(size=(n, d)) * rng.uniform(0.2, 2, (n, 1)),
        "b_enc": rng.normal(size=n),
        "b_dec": 1 + rng.normal(size=d),
        "threshold": rng.uniform(0.1, 1, n),
    }
    return {name: value.astype(np.float32) for name, value in drawn.items()}, rng


def expect(folder, config, weights, rng):
    d, n = weights["W_enc"].shape
    sae = JumpReLUSAE(
        JumpReLUSAEConfig(d_in=d, d_sae=n, apply_b_dec_to_input=config["apply_b_dec_to_input"])
    )
    sae.load_state_dict(weights)
    x = torch.tensor(
        1.5 * rng.normal(size=(SAMPLES, d)) + 2 * rng.normal(size=d), dtype=torch.float32
    )
    with torch.no_grad():
        codes = sae.encode(x)
        arrays = {"activations": x, "codes": codes, "reconstruction": sae.decode(codes)}
    np.savez(folder / "expected.npz", **{name: value.numpy() for name, value in arrays.items()})


def fresh(name):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def first(name, seed, d=6, n=10):
    folder = fresh(name)
    weights, rng = parameters(d, n, seed)
    np.savez(folder / "params.npz", **weights)
    overrides = {"d_in": d, "d_sae": n}
    place = "layer_3/width_16k/average_l0_10"
    with mock.patch.object(
        loaders, "hf_hub_download", lambda *args, **kwargs: str(folder / "params.npz")
    ):
        config, found, _ = loaders.gemma_2_sae_huggingface_loader(
            "google/gemma-scope-2b-pt-res", place, cfg_overrides=overrides
        )
    expect(folder, config, found, rng)


def second(name, seed, d=6, n=10):
    folder = fresh(name)
    weights, rng = parameters(d, n, seed)
    save_file(
        {name.lower(): torch.tensor(value) for name, value in weights.items()},
        folder / "params.safetensors",
    )
    hook = "model.layers.5.output"
    entries = {
        "architecture": "jump_relu",
        "model_name": "gemma-v3-1b-pt",
        "hf_hook_point_in": hook,
        "hf_hook_point_out": hook,
    }
    (folder / "config.json").write_text(
        json.dumps(entries | {"width": n, "affine_connection": False, "type": "sae"})
    )
    shapes = {name.lower(): list(value.shape) for name, value in weights.items()}
    with (
        mock.patch.object(
            loaders,
            "hf_hub_download",
            lambda repo=None, name=None, **k: str(
                folder / (k.get("filename") or name).split("/")[-1]
            ),
        ),
        mock.patch.object(loaders, "get_safetensors_tensor_shapes", lambda *args: shapes),
    ):
        place = "resid_post/layer_5_width_16k_l0_small"
        config, found, _ = loaders.gemma_3_sae_huggingface_loader(
            "google/gemma-scope-2-1b-pt", place
        )
    expect(folder, config, found, rng)


if __name__ == "__main__":
    print(sae_lens.__version__, torch.__version__)
    first("first", 0)
    first("first_square", 1, d=7, n=7)
    second("second", 2)
    second("second_square", 3, d=7, n=7)
