"""What several devices learn together, checked in the process of eight virtual ones that
`test_sharding.py` starts.
"""

import equinox as eqx
import jax
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from numpy.testing import assert_allclose
from pytest import fixture

from sae_gap import Setting, Split, draw, fit_stream
from sae_gap.core import Model
from sae_gap.learners import Families, OnlineDictionary
from sae_gap.runtime import devices
from tests.learners.steps import KEY, begin


@fixture(scope="module")
def task():
    return draw(Setting(60, 3, 800))


def mesh_of(count):
    return jax.make_mesh(
        (count,),
        ("samples",),
        devices=jax.devices()[:count],
        axis_types=(AxisType.Auto,),
    )


def compare(one, many, *names):
    for name in ("dictionary", "noise", "amplitude", *names):
        assert_allclose(
            getattr(one, name), getattr(many, name), atol=1e-5, rtol=1e-4, err_msg=name
        )


@eqx.filter_jit
def learn(learner, signals, state):
    return lax.fori_loop(
        0, 2, lambda _, state: learner.step(Split(signals), state), state
    )


def shared(learner, signals, state, mesh):
    with jax.set_mesh(mesh):
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
        signals = devices.place(signals, mesh)
        return learn(learner, signals, state)


def test_families_are_counted_alike(task):
    # Samples that do not divide, in a round that rearranges and one that solves.
    signals = task.train.signals[:198]
    learner = Families(base=OnlineDictionary(), num_steps=9)
    base = Model(task.dictionary, jax.numpy.full(task.input_dim, 0.01))
    state = begin(learner, Split(signals), 60, base=base)
    compare(learn(learner, signals, state), shared(learner, signals, state, mesh_of(4)))


def test_a_pool_is_learned_from_alike(task):
    signals = task.train.signals[:200]
    truth = task.dictionary
    # Minibatches of 50 samples, which do not divide; wasted atoms restart in the first round of the
    # two.
    learner = OnlineDictionary(num_steps=10, visits=4, batch_size=50, num_rounds=1)
    state = begin(learner, Split(signals), 60)
    # The only copies are among the last atoms, which the last device looks through.
    copied = truth.at[:, -3:].set(truth[:, -6:-3])
    state = eqx.tree_at(
        lambda s: (s.dictionary, s.round), state, (copied, state.round + 6)
    )
    one = learn(learner, signals, state)
    many = shared(learner, signals, state, mesh_of(4))
    compare(one, many, "energy", "change", "mean")


def test_a_stream_is_shared(task):
    signals = np.asarray(task.train.signals)
    # In so few rounds no atom restarts.
    learner = OnlineDictionary(
        num_steps=4, batch_size=50, centred=True, num_rounds=1, replace=False
    )
    one, many = (
        fit_stream(
            learner,
            lambda start, count: signals[start : start + count],
            mesh=mesh_of(count),
            num_latents=60,
            key=KEY,
            num_samples=200,
        )
        for count in (1, 8)
    )
    assert_allclose(one.dictionary, many.dictionary, atol=1e-5)
    assert_allclose(one.bias, many.bias, atol=1e-6)
    assert len(many.dictionary.devices()) == 1
