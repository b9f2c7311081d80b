"""Models of this suite with random parameters, one for each encoder that SAELens has as well, and
what tests of their files share.

`python -m tests.saes.examples` writes them to files/saved/ by `save_sae`; the script that
files/PROVENANCE.md names adds what SAELens makes of them.
"""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sae_gap
from sae_gap.core import Transcoder
from sae_gap.encoders import (
    Affine,
    BatchTopK,
    BatchTopKParameters,
    Gated,
    GatedParameters,
    JumpReLU,
    JumpReLUParameters,
    MatryoshkaBatchTopK,
    ReLU,
    TopK,
)

FILES = Path(__file__).parent / "files"
SAVED, HOOK = FILES / "saved", {"hook_name": "blocks.2.hook_resid_post"}
ENCODERS = {
    "relu": ReLU(),
    "topk": TopK(3),
    "jumprelu": JumpReLU(),
    "gated": Gated(),
    "batchtopk": BatchTopK(3),
    "matryoshka": MatryoshkaBatchTopK(3),
}
# Transcoders, by the encoder and whether they have a skip.
TRANSCODERS = {"transcoder": (ReLU(), False), "skip_transcoder": (BatchTopK(3), True)}


def saved(name):
    """The model of a folder of files/saved/."""
    if name in ENCODERS:
        return example(name)
    encoder, skip = TRANSCODERS[name]
    return transcoder(encoder, skip=skip)[0]


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


def transcoder(encoder, *, skip=True, num_inputs=5, input_dim=6, num_latents=10):
    """A transcoder of random parameters as training moves them, and inputs for it."""
    rng = np.random.default_rng(2)
    start = encoder.parameters(
        jnp.asarray(rng.normal(size=(num_inputs, num_latents))), jax.random.key(0)
    )
    parameters = jax.tree.map(lambda leaf: leaf + rng.uniform(0.1, 0.4, leaf.shape), start)
    parts = [
        2 * rng.normal(size=(input_dim, num_latents)),
        1 + rng.normal(size=input_dim),
        parameters,
        rng.normal(size=num_inputs),
        rng.normal(size=(num_inputs, input_dim)),
        rng.normal(1, 1.5, size=(24, num_inputs)),
    ]
    *parts, centre, matrix, x = jax.tree.map(lambda part: jnp.asarray(part, jnp.float32), parts)
    return Transcoder(*parts, encoder, centre=centre, skip=matrix if skip else None), np.asarray(x)


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * max(1, np.abs(wanted).max()))


def refused(call, *words):
    """Sees that a call is refused on one line with these words."""
    with pytest.raises(ValueError) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.endswith(".") and "\n" not in message and len(message) < 700, message


if __name__ == "__main__":
    for name in (*ENCODERS, *TRANSCODERS):
        shutil.rmtree(SAVED / name, ignore_errors=True)
        sae_gap.save_sae(saved(name), SAVED / name, metadata=HOOK)
