"""Models of this suite with random parameters, one for each encoder that SAELens has as well.

`python -m tests.saes.examples` writes them to files/saved/ by `save_sae`; the script that
files/PROVENANCE.md names adds what SAELens makes of them.
"""

import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import sae_gap
from sae_gap.encoders.batchtopk import BatchTopK, BatchTopKParameters
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.gated import Gated, GatedParameters
from sae_gap.encoders.jumprelu import JumpReLU, JumpReLUParameters
from sae_gap.encoders.matryoshka import MatryoshkaBatchTopK
from sae_gap.encoders.relu import ReLU
from sae_gap.encoders.topk import TopK

SAVED = Path(__file__).parent / "files" / "saved"
ENCODERS = {
    "relu": ReLU(),
    "topk": TopK(3),
    "jumprelu": JumpReLU(),
    "gated": Gated(),
    "batchtopk": BatchTopK(3),
    "matryoshka": MatryoshkaBatchTopK(3),
}


def example(name, input_dim=6, num_latents=10):
    rng = np.random.default_rng(sorted(ENCODERS).index(name))

    def drawn(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    affine = Affine(drawn(input_dim, num_latents), drawn(num_latents))
    parameters = {
        "jumprelu": lambda: JumpReLUParameters(affine, drawn(num_latents)),
        "gated": lambda: GatedParameters(affine, drawn(num_latents), drawn(num_latents)),
        "batchtopk": lambda: BatchTopKParameters(affine, jnp.float32(0.7)),
        "matryoshka": lambda: BatchTopKParameters(affine, jnp.float32(0.4)),
    }.get(name, lambda: affine)()
    return sae_gap.Model(
        2 * drawn(input_dim, num_latents), 1 + drawn(input_dim), parameters, ENCODERS[name]
    )


if __name__ == "__main__":
    for name in ENCODERS:
        shutil.rmtree(SAVED / name, ignore_errors=True)
        sae_gap.save_sae(
            example(name), SAVED / name, metadata={"hook_name": "blocks.2.hook_resid_post"}
        )
