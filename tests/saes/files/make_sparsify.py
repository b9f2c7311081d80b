"""Writes the files under sparsify/ with that library: `pip install eai-sparsify`, then run this
file.

Each folder holds what sparsify saved and `expected.npz`: activations with what sparsify makes of
them.
"""

import importlib.metadata
import json
import pathlib
import shutil

import numpy as np
import torch
from sparsify import SparseCoder
from sparsify.config import SparseCoderConfig

HERE = pathlib.Path(__file__).parent / "sparsify"
D, N, SAMPLES = 6, 12, 24


def save(name, seed, *, d=D, dtype=torch.float32, old=None, encode=None, **options):
    """A sparse coder of random parameters; `old` are entries of an older configuration, in place of
    those that it lacked.
    """
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    generator = torch.Generator().manual_seed(seed)
    sae = SparseCoder(d, SparseCoderConfig(**options), dtype=dtype)
    with torch.no_grad():
        for part, parameter in sae.named_parameters():
            drawn = 0.6 * torch.randn(parameter.shape, generator=generator)
            if part == "W_dec":
                drawn = drawn * (0.2 + 2 * torch.rand(len(drawn), 1, generator=generator))
            parameter.copy_(drawn + (part == "b_dec"))
    sae.save_to_disk(folder)
    if old is not None:
        written = json.loads((folder / "cfg.json").read_text())
        kept = {
            name: value
            for name, value in written.items()
            if name in ("expansion_factor", "k", "normalize_decoder", "d_in")
        }
        (folder / "cfg.json").write_text(json.dumps(kept | old))
    sae = SparseCoder.load_from_disk(folder).to(torch.float32)
    x = 1.5 * torch.randn(SAMPLES, d, generator=generator) + 2 * torch.randn(d, generator=generator)
    with torch.no_grad():
        values, places = (sae.encode(x) if encode is None else encode(sae, x))[:2]
        codes = torch.zeros(SAMPLES, sae.num_latents).scatter_(1, places, values)
        arrays = {"activations": x, "codes": codes, "reconstruction": sae.decode(values, places)}
    np.savez(folder / "expected.npz", **{name: value.numpy() for name, value in arrays.items()})


def signed(sae, x):
    """What the library did with `signed` when it had that option: the k largest magnitudes, with
    their signs.
    """
    hidden = sae.encoder(x - sae.b_dec)
    places = hidden.abs().topk(sae.cfg.k).indices
    return hidden.gather(1, places), places


def main():
    save("layers.0", 0, num_latents=N, k=3)
    save("layers.1.mlp", 1, expansion_factor=2, k=3)
    save("square", 2, d=8, num_latents=8, k=3)
    save("groupmax", 3, num_latents=N, k=3, activation="groupmax")
    save("bfloat16", 4, num_latents=N, k=3, dtype=torch.bfloat16)
    save("old", 5, expansion_factor=2, k=3, old={})
    save("old_signed", 6, expansion_factor=2, k=3, old={"signed": True}, encode=signed)


if __name__ == "__main__":
    print(importlib.metadata.version("eai-sparsify"), torch.__version__)
    main()
