"""Writes the files under dictionary_learning/ with that library: `pip install dictionary-learning`,
then run this file.

Each folder holds what the library's trainers write and `expected.npz`: activations with what
`load_dictionary` makes of them.
"""

import importlib.metadata
import json
import pathlib
import shutil

import numpy as np
import torch
from dictionary_learning.dictionary import (
    AutoEncoder,
    AutoEncoderNew,
    GatedAutoEncoder,
    JumpReluAutoEncoder,
)
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
from dictionary_learning.trainers.top_k import AutoEncoderTopK
from dictionary_learning.utils import load_dictionary

HERE = pathlib.Path(__file__).parent / "dictionary_learning"
D, N, SAMPLES, K = 6, 10, 24, 3


def filled(dictionary, seed):
    """Every parameter drawn at random, so that atoms have all lengths and no bias is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in dictionary.named_parameters():
            drawn = 0.6 * torch.randn(parameter.shape, generator=generator)
            if name in ("bias", "b_dec", "decoder.bias", "decoder_bias"):
                drawn = drawn + 1
            if name in ("W_dec", "decoder.weight"):
                lengths = 0.2 + 2 * torch.rand(
                    len(drawn) if name == "W_dec" else drawn.shape[1], generator=generator
                )
                drawn = drawn * (lengths[:, None] if name == "W_dec" else lengths)
            parameter.copy_(drawn)
    return dictionary


def activations(d, seed):
    generator = torch.Generator().manual_seed(1_000 + seed)
    return 1.5 * torch.randn(SAMPLES, d, generator=generator) + 2 * torch.randn(
        d, generator=generator
    )


def save(name, dictionary, seed, state=None, *, encode=None, place="ae.pt", **entries):
    """Writes a folder as a trainer does, and what the library makes of the file."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    (folder / place).parent.mkdir(parents=True)
    trainer = {
        "dict_class": type(dictionary).__name__,
        "activation_dim": dictionary.activation_dim,
        "dict_size": dictionary.dict_size,
        "layer": 3,
        "lm_name": "tiny",
    }
    (folder / "config.json").write_text(json.dumps({"trainer": trainer | entries}))
    torch.save(dictionary.state_dict() if state is None else state, folder / place)
    if state is None:
        dictionary, _ = load_dictionary(str(folder), "cpu")
    x = activations(dictionary.activation_dim, seed)
    with torch.no_grad():
        codes = dictionary.encode(x) if encode is None else encode(dictionary, x)
        arrays = {"activations": x, "codes": codes, "reconstruction": dictionary.decode(codes)}
    np.savez(
        (folder / place).parent / "expected.npz",
        **{name: value.numpy() for name, value in arrays.items()},
    )
    assert (codes != 0).any(), name


def with_threshold(dictionary, threshold):
    dictionary.threshold.fill_(threshold)
    return dictionary


def main():
    save("autoencoder", filled(AutoEncoder(D, N), 0), 0)
    save("autoencoder_square", filled(AutoEncoder(7, 7), 1), 1)
    save("autoencoder_new", filled(AutoEncoderNew(D, N), 2), 2)
    save("gated", filled(GatedAutoEncoder(D, N), 3), 3)
    save("jumprelu", filled(JumpReluAutoEncoder(D, N), 4), 4)
    save("topk", filled(AutoEncoderTopK(D, N, K), 5), 5, k=K)
    save("topk_square", filled(AutoEncoderTopK(7, 7, K), 6), 6, k=K)
    save("batchtopk", with_threshold(filled(BatchTopKSAE(D, N, K), 7), 0.8), 7, k=K)
    save("batchtopk_not_estimated", filled(BatchTopKSAE(D, N, K), 8), 8, k=K)
    groups = {"group_sizes": [4, N - 4]}
    save(
        "matryoshka",
        with_threshold(filled(MatryoshkaBatchTopKSAE(D, N, K, **groups), 9), 0.6),
        9,
        k=K,
        **groups,
    )

    # An older file, from before thresholds, which takes the largest of a batch.
    dictionary = filled(BatchTopKSAE(D, N, K), 10)
    state = {
        name: value
        for name, value in dictionary.state_dict().items()
        if name not in ("k", "threshold")
    }
    save(
        "batchtopk_older",
        dictionary,
        10,
        state,
        encode=lambda sae, x: sae.encode(x, use_threshold=False),
        k=K,
    )
    # Weights that lie in memory as their transposes do, or amid a larger storage.
    dictionary = filled(AutoEncoderTopK(D, N, K), 11)
    state = dictionary.state_dict()
    state["encoder.weight"] = state["encoder.weight"].T.contiguous().T
    state["decoder.weight"] = torch.cat(
        [torch.ones(D, 2), state["decoder.weight"], torch.ones(D, 1)], dim=1
    )[:, 2:-1]
    assert (
        not state["encoder.weight"].is_contiguous() and not state["decoder.weight"].is_contiguous()
    )
    save("strides", dictionary, 11, state, k=K)
    # Amid training: beside an optimiser's state, and in the folder of checkpoints.
    dictionary = filled(AutoEncoderTopK(D, N, K), 12)
    optimiser = torch.optim.Adam(dictionary.parameters())
    dictionary(activations(D, 12)).sum().backward()
    optimiser.step()
    save(
        "nested",
        dictionary,
        12,
        {"ae": dictionary.state_dict(), "optimizer": optimiser.state_dict(), "step": 500},
        k=K,
    )
    dictionary = filled(AutoEncoderTopK(D, N, K), 13)
    save(
        "amid_training", dictionary, 13, dictionary.state_dict(), place="checkpoints/ae_500.pt", k=K
    )
    for kind, seed in ((torch.bfloat16, 14), (torch.float16, 15)):
        dictionary = filled(AutoEncoderNew(D, N), seed).to(kind)
        state = dict(dictionary.state_dict())
        save(f"autoencoder_new_{str(kind).removeprefix('torch.')}", dictionary.float(), seed, state)


if __name__ == "__main__":
    print(importlib.metadata.version("dictionary-learning"), torch.__version__)
    main()
