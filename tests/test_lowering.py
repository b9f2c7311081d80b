"""Programs for a GPU and a TPU, made where there is neither: nothing calls back to the host, and
every operation has its rule.
"""

import inspect
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pytest import fixture, mark

from sae_gap import Setting, catalogue
from sae_gap import draw as draw_task
from sae_gap.core import Model
from sae_gap.encoders import BatchTopK, TopK
from sae_gap.learners import HostLearner, Learner
from sae_gap.solvers import coding, sparse_code
from sae_gap.study import loop

from .solvers.problems import draw
from .test_versions import crossed, seen

PLATFORMS = "cuda", "tpu"
SHAPE = 40, 8, 16


@fixture(autouse=True, scope="module")
def accelerated():
    """What the suite asks of the device, as it is on an accelerator, with nothing traced before."""
    jax.clear_caches()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jax, "default_backend", lambda: "gpu")
        patched.setattr(coding, "runs_on_host", lambda arrays: False)
        yield
    jax.clear_caches()


def lowered(function, *args, without=r"custom_call @\w*callback"):
    """Checks the programs of a function for all platforms, which must not have what a pattern
    finds; gives the shapes that it returns.
    """
    given, rest = eqx.partition(args, eqx.is_array_like)

    def run(given):
        return eqx.filter(function(*eqx.combine(given, rest)), eqx.is_array)

    traced = jax.jit(run).trace(given)
    text = traced.lower(lowering_platforms=PLATFORMS).as_text()
    assert not set(re.findall(without, text))
    return traced.out_info


@mark.parametrize("kind", [TopK, BatchTopK])
def test_the_largest_codes_are_found_without_a_sort(kind):
    weight = jnp.ones((8, 16))
    encode = kind(3)
    model = Model(weight, jnp.zeros(8), encode.parameters(weight, None), encode)
    given = model, jnp.ones((40, 8)), 0.0
    lowered(encode.loss, *given, without="sort|top_?k|TopK")


@mark.parametrize("on", [False, True])
def test_the_certified_coder(on):
    """Its products keep the bits of their factors, without which certificates would be false."""
    signals, dictionary = map(jnp.asarray, draw(0, SHAPE))
    support = jnp.ones((len(signals), dictionary.shape[1])) if on else None

    def solve(*given):
        return sparse_code(*given, 0.1, nonneg=not on, support=support)

    rounded = r"dot_general(?!.*precision = \[HIGHEST, HIGHEST\])"
    given = (signals, dictionary)
    gradient = jax.grad(lambda *y: solve(*y).codes.sum(), (0, 1))
    for function in (solve, gradient):
        lowered(function, *given)
        lowered(function, *given, without=rounded)


def compiled_learners():
    """The learners of the catalogue that need no other and leave the work to XLA, and SAEs."""
    alone = [
        name
        for name, kind in catalogue.learners().items()
        if not issubclass(kind, HostLearner)
        and kind.init is not Learner.init
        and "base" not in inspect.signature(kind.init).parameters
    ]
    return [name for name in alone if name != "SparseAutoencoder"] + list(
        catalogue.saes()
    )


@mark.parametrize("name", compiled_learners())
def test_a_fit(name):
    learner = catalogue.make_learner(name, sparsity=3, input_dim=8, num_steps=4)
    task = draw_task(Setting(16, 3, 40))
    data = learner.select(task)
    key = jax.random.key(0)
    start, advance, end = (
        inspect.unwrap(each) for each in (loop._start, loop._advance, loop._end)
    )

    def begin(learner, data, key):
        return start(learner, loop.Inputs(data, key, base={}, num_latents=16))

    stepped = lowered(begin, learner, data, key)
    stepped = jax.tree.map(loop._blank, stepped)
    if learner.num_steps:
        lowered(advance, (learner, data, np.int32(4)), stepped)
    lowered(end, learner, stepped[1])


@mark.parametrize("name", catalogue.encoders())
def test_an_encoder(name):
    lowered(seen, *crossed(name))
