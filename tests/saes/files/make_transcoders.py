"""Writes transcoders with SAELens and sparsify, and in the layouts of Gemma Scope, circuit-tracer and
crosscoders, each with what a library, or the formula of its source, makes of inputs.

Run in an environment with `pip install sae-lens eai-sparsify`, from the folder `files`.
"""

import json
import pathlib
import shutil
import warnings
from unittest import mock

import numpy as np
import sae_lens
import torch
from sae_lens import SAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.registry import get_sae_class
from safetensors.torch import save_file
from sparsify import SparseCoder
from sparsify.config import SparseCoderConfig

HERE = pathlib.Path.cwd()
D, OUT, N, SAMPLES = 5, 6, 10, 24


def fresh(name):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def drawn(shape, name, generator):
    value = 0.6 * torch.randn(shape, generator=generator)
    if name == "W_dec":
        return value * (0.2 + 2 * torch.rand(len(value), 1, generator=generator))
    if name == "threshold":
        return value.abs() + 0.1
    return value + (name == "b_dec")


def filled(sae, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(drawn(parameter.shape, name, generator))
    return sae


def inputs(seed, *shape):
    generator = torch.Generator().manual_seed(1_000 + seed)
    return 1.5 * torch.randn(SAMPLES, *shape, generator=generator) + 1


def expect(folder, x, codes, reconstruction):
    arrays = {"activations": x, "codes": codes, "reconstruction": reconstruction}
    assert (codes > 0).any() and (codes == 0).any(), folder
    np.savez(
        folder / "expected.npz",
        **{name: value.detach().float().numpy() for name, value in arrays.items()},
    )


def saelens(name, architecture, seed, d=D, out=OUT):
    kind, config = get_sae_class(architecture)
    sae = filled(kind(config(d_in=d, d_sae=N, d_out=out, apply_b_dec_to_input=False)), seed)
    sae.cfg.metadata.hook_name = "blocks.3.ln2.hook_normalized"
    sae.cfg.metadata.hook_name_out = "blocks.3.hook_mlp_out"
    folder = fresh(name)
    sae.save_model(folder)
    again, x = SAE.load_from_disk(folder, dtype="float32"), inputs(seed, d)
    with torch.no_grad():
        expect(folder, x, again.encode(x), again(x))


def sparsify(name, seed, d=6, **options):
    sae = SparseCoder(d, SparseCoderConfig(transcode=True, num_latents=12, k=3, **options))
    filled(sae, seed).save_to_disk(fresh(name))
    sae, x = SparseCoder.load_from_disk(HERE / name), inputs(seed, d)
    with torch.no_grad():
        values, places = sae.encode(x)[:2]
        codes = torch.zeros(SAMPLES, 12).scatter_(1, places, values)
        expect(HERE / name, x, codes, sae(x).sae_out)


def gemma(name, place, seed, affine, d=6):
    folder, generator = fresh(name), torch.Generator().manual_seed(seed)
    shapes = {"w_enc": (d, N), "w_dec": (N, d), "b_enc": (N,), "b_dec": (d,), "threshold": (N,)}
    if affine:
        shapes["affine_skip_connection"] = (d, d)
    held = {key: drawn(size, key.replace("w_", "W_"), generator) for key, size in shapes.items()}
    save_file(held, folder / "params.safetensors")
    hook = "model.layers.5.{}_feedforward_layernorm.output"
    entries = {
        "architecture": "jump_relu",
        "model_name": "gemma-v3-1b-pt",
        "hf_hook_point_in": hook.format("pre"),
        "hf_hook_point_out": hook.format("post"),
    }
    entries |= {"width": N, "affine_connection": affine, "type": "transcoder"}
    (folder / "config.json").write_text(json.dumps(entries))

    def local(repo=None, filename=None, **options):
        return str(folder / (filename or options["filename"]).split("/")[-1])

    sizes = {key: list(size) for key, size in shapes.items()}
    with (
        mock.patch.object(loaders, "hf_hub_download", local),
        mock.patch.object(loaders, "get_safetensors_tensor_shapes", lambda *args: sizes),
    ):
        config, found, _ = loaders.gemma_3_sae_huggingface_loader(
            "google/gemma-scope-2-1b-pt", place
        )
    kind, options = get_sae_class(config["architecture"])
    sae = kind(options(d_in=d, d_sae=N, d_out=d, apply_b_dec_to_input=False))
    sae.load_state_dict(found)
    x = inputs(seed, d)
    with torch.no_grad():
        expect(folder, x, sae.encode(x), sae(x))
        if affine:
            skip = x @ held["affine_skip_connection"]
            torch.testing.assert_close(sae(x) - sae.decode(sae.encode(x)), skip)


def gemma_first(name, seed, d=6):
    folder, generator = fresh(name), torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (d, N), "W_dec": (N, d), "b_enc": (N,), "b_dec": (d,), "threshold": (N,)}
    held = {key: drawn(size, key, generator) for key, size in shapes.items()}
    np.savez(folder / "params.npz", **{key: value.numpy() for key, value in held.items()})
    kind, options = get_sae_class("jumprelu_transcoder")
    sae = kind(options(d_in=d, d_sae=N, d_out=d, apply_b_dec_to_input=False))
    sae.load_state_dict(held)
    x = inputs(seed, d)
    with torch.no_grad():
        expect(folder, x, sae.encode(x), sae(x))


def circuit_tracer(name, seed, kind, skip, d=6):
    """By the formulas of its source: `h = W_enc x + b_enc`, `h (h > θ)`, `x W_skipᵀ`."""
    folder, generator = fresh(name), torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (N, d), "W_dec": (N, d), "b_enc": (N,), "b_dec": (d,)}
    shapes |= {"W_skip": (d, d)} if skip else {}
    held = {key: drawn(size, key, generator) for key, size in shapes.items()}
    if kind == "jumprelu":
        held["activation_function.threshold"] = drawn((N,), "threshold", generator)
    save_file(held, folder / "layer_3.safetensors")
    told = {"model_name": "google/gemma-2-2b", "model_kind": "transcoder_set"}
    told |= {"feature_input_hook": "ln2.hook_normalized", "feature_output_hook": "hook_mlp_out"}
    told |= {"activation": "topk", "k": 3} if kind == "topk" else {}
    (folder / "config.yaml").write_text(
        "".join(f'{key}: "{value}"\n' for key, value in told.items())
    )
    x = inputs(seed, d)
    hidden = x @ held["W_enc"].T + held["b_enc"]
    codes = hidden.relu()
    if kind == "jumprelu":
        codes = hidden * (hidden > held["activation_function.threshold"])
    elif kind == "topk":
        codes = torch.zeros_like(hidden).scatter(1, (best := hidden.topk(3)).indices, best.values)
    guess = codes @ held["W_dec"] + held["b_dec"]
    expect(folder, x, codes, guess + x @ held["W_skip"].T if skip else guess)


def crosscoder(name, seed, jump, layers=3, d=2):
    folder, generator = fresh(name), torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (layers, d, N), "W_dec": (N, layers, d), "b_enc": (N,), "b_dec": (layers, d)}
    held = {key: 0.6 * torch.randn(size, generator=generator) for key, size in shapes.items()}
    if jump:
        held["threshold"] = drawn((N,), "threshold", generator)
    torch.save(held, folder / "cc_weights.pt")
    x = inputs(seed, layers, d)
    hidden = torch.einsum("nld,ldm->nm", x, held["W_enc"]) + held["b_enc"]
    codes = hidden.relu() * (hidden > held["threshold"]) if jump else hidden.relu()
    guess = torch.einsum("nm,mld->nld", codes, held["W_dec"]) + held["b_dec"]
    expect(folder, x, codes, guess.reshape(SAMPLES, -1))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(sae_lens.__version__, torch.__version__)
    saelens("saelens/transcoder", "transcoder", 40)
    saelens("saelens/transcoder_skip_square", "skip_transcoder", 41, out=D)
    saelens("saelens/transcoder_jumprelu", "jumprelu_transcoder", 42)
    saelens("saelens/transcoder_jumprelu_skip", "jumprelu_skip_transcoder", 43)
    sparsify("sparsify/layers.2.mlp", 44)
    sparsify("sparsify/layers.3.mlp", 45, skip_connection=True)
    gemma("gemma_scope/transcoder", "transcoder/layer_5_width_16k_l0_small", 46, False)
    place = "transcoder/layer_5_width_16k_l0_small_affine"
    gemma("gemma_scope/transcoder_affine", place, 47, True)
    gemma_first("gemma_scope/gemma-scope-2b-pt-transcoders", 48)
    circuit_tracer("circuit_tracer/relu_skip", 49, "relu", True)
    circuit_tracer("circuit_tracer/jumprelu", 50, "jumprelu", False)
    circuit_tracer("circuit_tracer/topk", 51, "topk", False)
    crosscoder("crosscoder/relu", 52, False)
    crosscoder("crosscoder/jumprelu", 53, True)
