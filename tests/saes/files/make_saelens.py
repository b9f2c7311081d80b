"""Writes the files under saelens/ with SAELens itself: `python make_saelens.py`, where
`pip install sae-lens` was done.

Each folder holds what SAELens saved and `expected.npz`: activations with what SAELens makes of
them.
"""

import json
import pathlib
import shutil
import warnings

import numpy as np
import sae_lens
import torch
from sae_lens import SAE, TrainingSAE
from sae_lens.registry import get_sae_class, get_sae_training_class
from sae_lens.training.activation_scaler import ActivationScaler, ActivationWhitening
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent / "saelens"
D, N, SAMPLES = 6, 10, 24


def filled(sae, seed, spread=0.4):
    """Every parameter drawn at random, so that atoms have all lengths and no bias is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if name == "threshold":
                drawn = 0.5 * drawn  # some negative
            elif name == "W_dec":
                drawn = drawn * (0.2 + 2 * torch.rand(len(drawn), 1, generator=generator)) * spread
            elif name == "b_dec":
                drawn = drawn + 1
            parameter.copy_(drawn.to(parameter.dtype))
    return sae


def activations(d, seed, shape=()):
    generator = torch.Generator().manual_seed(1_000 + seed)
    offset = 2 * torch.randn(d, generator=generator)
    return (1.5 * torch.randn(SAMPLES, d, generator=generator) + offset).reshape(
        SAMPLES, *(shape or (d,))
    )


def expect(folder, sae, x, scaler=None):
    """What the library gives, in float32; a scaler is what it puts before and after."""
    sae = sae.to(dtype=torch.float32)
    with torch.no_grad():
        seen = x if scaler is None else scaler.scale(x)
        codes = sae.encode(seen)
        reconstruction = sae.decode(codes)
        reconstruction = reconstruction if scaler is None else scaler.unscale(reconstruction)
    arrays = {
        "activations": x,
        "codes": codes,
        "reconstruction": reconstruction.reshape(len(x), -1),
    }
    np.savez(folder / "expected.npz", **{name: value.numpy() for name, value in arrays.items()})
    assert (codes != 0).sum() > 0 and torch.isfinite(reconstruction).all(), folder


def fresh(name):
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def inference(name, architecture, seed, *, d=D, n=N, shape=(), **options):
    kind, config = get_sae_class(architecture)
    sae = filled(kind(config(d_in=d, d_sae=n, **options)), seed)
    sae.cfg.metadata.hook_name = "blocks.3.attn.hook_z" if shape else "blocks.3.hook_resid_post"
    sae.cfg.metadata.model_name = "tiny"
    folder = fresh(name)
    sae.save_model(folder)
    expect(folder, SAE.load_from_disk(folder, dtype="float32"), activations(d, seed, shape))


def training(name, architecture, seed, *, export=False, threshold=0.7, **options):
    """A checkpoint of training or its export; what it infers is what the export does."""
    kind, config = get_sae_training_class(architecture)
    sae = filled(kind(config(d_in=D, d_sae=N, k=3, **options)), seed)
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold = torch.tensor(threshold, dtype=torch.double)
    folder = fresh(name)
    (sae.save_inference_model if export else sae.save_model)(folder)
    beside = fresh(f"{name}_export")
    sae.save_inference_model(beside)
    expect(folder, SAE.load_from_disk(beside), activations(D, seed))
    shutil.rmtree(beside)


def old(name, seed, tensors=None, rename=None, **entries):
    """A configuration as it was before version 6, over weights in today's names."""
    folder = fresh(name)
    kind, config = get_sae_class("standard")
    sae = filled(kind(config(d_in=D, d_sae=N)), seed)
    sae.save_model(folder)
    weights = load_file(folder / "sae_weights.safetensors") | (tensors or {})
    save_file(weights, folder / "sae_weights.safetensors")
    plain = {
        "d_in": D,
        "d_sae": N,
        "dtype": "float32",
        "device": "cpu",
        "model_name": "tiny",
        "hook_point": "blocks.1.hook_mlp_out",
    }
    (folder / "cfg.json").write_text(json.dumps(plain | entries))
    expect(folder, SAE.load_from_disk(folder), activations(D, seed))


def main():
    warnings.simplefilter("ignore")
    inference("standard", "standard", 0)
    inference("standard_square", "standard", 1, d=7, n=7)
    inference("standard_input_as_it_is", "standard", 2, apply_b_dec_to_input=False)
    inference("standard_bfloat16", "standard", 3, dtype="bfloat16")
    inference("standard_float16", "standard", 4, dtype="float16")
    inference("layer_norm", "standard", 5, normalize_activations="layer_norm")
    inference("constant_norm", "standard", 6, normalize_activations="constant_norm_rescale")
    inference("hook_z", "standard", 7, shape=(2, 3), reshape_activations="hook_z")
    inference(
        "hook_z_layer_norm",
        "standard",
        8,
        shape=(2, 3),
        reshape_activations="hook_z",
        normalize_activations="layer_norm",
    )
    inference("topk", "topk", 9, k=3)
    inference("topk_rescaled", "topk", 10, k=3, rescale_acts_by_decoder_norm=True)
    inference(
        "topk_square_rescaled",
        "topk",
        11,
        d=7,
        n=7,
        k=3,
        rescale_acts_by_decoder_norm=True,
        apply_b_dec_to_input=False,
    )
    inference("abstopk", "abstopk", 12, k=3)
    inference("abstopk_rescaled", "abstopk", 13, k=3, rescale_acts_by_decoder_norm=True)
    inference("jumprelu", "jumprelu", 14)
    inference(
        "jumprelu_input_as_it_is",
        "jumprelu",
        15,
        apply_b_dec_to_input=False,
        normalize_activations="constant_norm_rescale",
    )
    inference("gated", "gated", 16)
    inference("gated_input_as_it_is", "gated", 17, apply_b_dec_to_input=False)
    inference(
        "pursuit",
        "matching_pursuit",
        18,
        max_iterations=5,
        stop_on_duplicate_support=False,
        residual_threshold=0.0,
    )
    inference("pursuit_stops", "matching_pursuit", 19, residual_threshold=1.5)
    inference(
        "pursuit_leaves",
        "matching_pursuit",
        34,
        residual_threshold=1.5,
        stop_on_duplicate_support=False,
        max_iterations=8,
    )
    inference(
        "pursuit_without_bias", "matching_pursuit", 20, apply_b_dec_to_input=False, max_iterations=4
    )
    training("batchtopk_export", "batchtopk", 21, export=True)
    training("batchtopk_checkpoint", "batchtopk", 22)
    training(
        "batchtopk_checkpoint_as_they_are", "batchtopk", 23, rescale_acts_by_decoder_norm=False
    )
    training("matryoshka_export", "matryoshka_batchtopk", 24, export=True, matryoshka_widths=[4, N])
    training("matryoshka_checkpoint", "matryoshka_batchtopk", 25, matryoshka_widths=[4, N])
    training("topk_checkpoint", "topk", 26, rescale_acts_by_decoder_norm=False)
    old("old", 27)
    old(
        "old_topk",
        28,
        activation_fn_str="topk",
        activation_fn_kwargs={"k": 3},
        normalize_activations="layer_norm",
    )
    old(
        "old_scaling_of_ones",
        29,
        tensors={"scaling_factor": torch.ones(N)},
        normalize_activations="none",
    )
    jumprelu_of_logarithms()
    scaled()
    whitened()


def jumprelu_of_logarithms():
    """Older checkpoints of training hold the logarithm of the threshold, which the library turns
    into one as it loads.
    """
    inference("jumprelu_logarithms", "jumprelu", 30)
    folder = HERE / "jumprelu_logarithms"
    weights = load_file(folder / "sae_weights.safetensors")
    weights["log_threshold"] = weights.pop("threshold").abs().log()
    save_file(weights, folder / "sae_weights.safetensors")
    expect(folder, TrainingSAE.load_from_disk(folder), activations(D, 30))


def scaled():
    """A checkpoint whose activations a scaler multiplies."""
    inference("scaled", "standard", 31, normalize_activations="expected_average_only_in")
    folder, scaler = HERE / "scaled", ActivationScaler(scaling_factor=0.37)
    scaler.save(str(folder / "activation_scaler.json"))
    expect(folder, SAE.load_from_disk(folder), activations(D, 31), scaler)
    inference(
        "scaled_without_factor", "standard", 32, normalize_activations="expected_average_only_in"
    )


def whitened():
    inference("whitened", "standard", 33, normalize_activations="covariance_whitening")
    folder, x = HERE / "whitened", activations(D, 33)
    values, vectors = torch.linalg.eigh(torch.cov(x.T.double()))
    statistics = ActivationWhitening(
        x.mean(0).double(), vectors * values.rsqrt(), values.sqrt()[:, None] * vectors.T
    )
    scaler = ActivationScaler(whitening=statistics)
    scaler.save(str(folder / "activation_scaler.json"))
    expect(folder, SAE.load_from_disk(folder), x, scaler)


if __name__ == "__main__":
    print(sae_lens.__version__, torch.__version__)
    main()
