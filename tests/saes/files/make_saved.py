"""Adds `expected.npz` to each folder under saved/: what SAELens makes of an SAE that this suite
wrote.

Run `python -m tests.saes.examples` with the suite first, then this file where
`pip install sae-lens` was done.
"""

import pathlib

import numpy as np
import sae_lens
import torch
from sae_lens import SAE

HERE = pathlib.Path(__file__).parent / "saved"

if __name__ == "__main__":
    print(sae_lens.__version__, torch.__version__)
    for folder in sorted(HERE.iterdir()):
        sae = SAE.load_from_disk(folder)
        generator = torch.Generator().manual_seed(7)
        x = 1.5 * torch.randn(24, sae.cfg.d_in, generator=generator) + 1
        with torch.no_grad():
            codes = sae.encode(x)
            arrays = {"activations": x, "codes": codes, "reconstruction": sae.decode(codes)}
        np.savez(folder / "expected.npz", **{name: value.numpy() for name, value in arrays.items()})
