"""SAEs with random parameters, published files with changes, and what tests of them share."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.random import default_rng
from numpy.testing import assert_allclose
from pytest import raises
from safetensors.numpy import load_file, save_file

from sae_gap import Model, catalogue
from sae_gap.core import Transcoder

FILES = Path(__file__).parent / "files"


def transcoder(encoder, *, skip=True, num_inputs=5):
    """A transcoder of random parameters as training moves them, and inputs for it."""
    rng = default_rng(2)
    sizes = ((6, 10), 6, num_inputs, (num_inputs, 6))
    start = encoder.parameters(
        jnp.asarray(rng.normal(size=(num_inputs, 10))), jax.random.key(0)
    )
    parameters = jax.tree.map(
        lambda leaf: jnp.clip(leaf, -1) + rng.uniform(0.1, 1, leaf.shape), start
    )
    drawn = [rng.normal(0, 1.5, size) for size in sizes], parameters
    (*parts, centre, matrix), parameters = jax.tree.map(
        lambda x: jnp.asarray(x, "f"), drawn
    )
    model = Transcoder(
        *parts, parameters, encoder, centre=centre, skip=matrix if skip else None
    )
    return model, rng.normal(1, 1.5, (24, num_inputs)).astype("f")


def example(encoder):
    """An SAE with these parameters, of an encoder or of the name of one."""
    if isinstance(encoder, str):
        encoder = catalogue.make_encoder(encoder, sparsity=3)
    model, _ = transcoder(encoder, num_inputs=6)
    return Model(model.dictionary, model.bias, model.encoder, encoder)


def changed(folder, case, **values):
    """A copy of a published SAE with other tensors where an array is given, none where None is, and
    else with other entries of its configuration.
    """
    folder = folder / "sae"
    shutil.copytree(FILES / case, folder)
    tensors = {
        name: x for name, x in values.items() if x is None or isinstance(x, np.ndarray)
    }
    for path in folder.glob("*.safetensors"):
        held = load_file(path) | tensors
        kept = {
            name: np.ascontiguousarray(x) for name, x in held.items() if x is not None
        }
        save_file(kept, path)
    for path in folder.glob("c*.json"):
        rest = {name: values[name] for name in values.keys() - tensors.keys()}
        path.write_text(json.dumps(json.loads(path.read_text()) | rest))
    return folder


def close(found, wanted, tolerance=1e-5):
    atol = tolerance * max(1, np.abs(np.asarray(wanted)).max())
    assert_allclose(found, wanted, rtol=tolerance, atol=atol)


def refused(call, *words, kind=ValueError):
    """Sees that a call is refused on one line with these words."""
    with raises(kind) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert message.endswith(".") and "\n" not in message and len(message) < 700, message
