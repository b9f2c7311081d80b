"""What several devices learn together, checked in a process of its own, which has eight virtual ones: see test_online.py."""

import re

import equinox as eqx
import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sae_gap import Setting, Split, devices, draw, fit_stream
from sae_gap.learners.online import OnlineDictionary, lay

KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
COLLECTIVE = re.compile(rf' = (.*?) ({KINDS})\(.*op_name="([^"]*)"')


def mesh_of(count):
    return jax.make_mesh((count,), ("samples",), devices=jax.devices()[:count], axis_types=(AxisType.Auto,))


def compare(one, many, atol):
    for name in ("dictionary", "energy", "noise", "amplitude", "change", "mean"):
        np.testing.assert_allclose(getattr(one, name), getattr(many, name), atol=atol, rtol=1e-5, err_msg=name)


@eqx.filter_jit
def learn(learner, signals, state):
    return jax.lax.fori_loop(0, 2, lambda _, state: learner.step(Split(signals), state), state)


def check_pool(signals, truth, count):
    # Minibatches of 50 samples, which do not divide; atoms start anew in the first round of the two.
    learner = OnlineDictionary(num_steps=10, visits=4, batch_size=50)
    state = learner.init(Split(signals), num_latents=60, key=jax.random.key(0))
    # The only copies are among the last atoms, which the last device looks through.
    copied = truth.at[:, -3:].set(truth[:, -6:-3])
    state = eqx.tree_at(lambda s: (s.dictionary, s.round), state, (copied, state.round + 6))
    one = learn(learner, signals, state)
    mesh = mesh_of(count)
    with jax.set_mesh(mesh):
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
        program = learn.lower(learner, devices.place(signals, mesh), state).compile()
        many = program(learner, devices.place(signals, mesh), state)
    compare(one, many, 1e-5)
    found = [(kind, shape, name) for shape, kind, name in COLLECTIVE.findall(program.compiled.as_text())]
    a_minibatch = [kind for kind, _, name in found if "shard_map/while" in name]
    assert a_minibatch == ["all-reduce"], found
    # What is gathered are numbers that tell whose residuals are largest, and no samples.
    gathered = [shape for kind, shape, _ in found if kind != "all-reduce"]
    assert len(gathered) <= 1 and all("," not in shape for shape in gathered), found


def check_latents(signals, shape):
    """Atoms that make whole blocks on every device, so that the leaders are those of one device."""
    learner = OnlineDictionary(num_steps=10, visits=4, batch_size=50)
    state = learner.init(Split(signals), num_latents=2_048, key=jax.random.key(0))
    state = eqx.tree_at(lambda s: s.round, state, state.round + 6)
    blocks = signals[:200].reshape(4, 50, -1)
    step = eqx.filter_jit(lambda learner, blocks, state: lay(learner.round(blocks, state)))
    one = step(learner, blocks, state)
    with jax.set_mesh(jax.make_mesh(shape, ("samples", "latents"), axis_types=(AxisType.Auto,) * 2)):
        state = jax.jit(lay)(state)
        program = step.lower(learner, blocks, state).compile()
        many = program(learner, blocks, state)
    assert many.dictionary.addressable_shards[0].data.shape == (signals.shape[1], 2_048 // shape[1])
    compare(one, many, 1e-5)
    found = [(kind, shape, name) for shape, kind, name in COLLECTIVE.findall(program.compiled.as_text())]
    wide = [each for each in found if "2048" in each[1]]
    # What each of all latents is worth is compared once a round, where atoms start anew.
    assert all("cond" in name and "," not in shape for _, shape, name in wide), wide
    with pytest.raises(ValueError, match="which 8 devices cannot share evenly"):
        fit_stream(
            learner,
            np.asarray(signals),
            num_latents=60,
            key=jax.random.key(0),
            mesh=jax.make_mesh((1, 8), ("samples", "latents"), axis_types=(AxisType.Auto,) * 2),
        )


def check_stream(signals, count):
    learner = OnlineDictionary(num_steps=4, batch_size=50, centred=True)
    options = {"num_latents": 60, "key": jax.random.key(0), "num_samples": 200}
    asked = []

    def source(start, count):
        asked.append((start, count))
        return signals[start : start + count]

    one, many = (fit_stream(learner, source, mesh=mesh_of(size), **options) for size in (1, count))
    np.testing.assert_allclose(one.dictionary, many.dictionary, atol=1e-5)
    np.testing.assert_allclose(one.bias, many.bias, atol=1e-6)
    assert asked == [(50 * turn, 50) for turn in range(4)] * 2
    assert len(many.dictionary.devices()) == 1


if __name__ == "__main__":
    task = draw(Setting(60, 3, 800))
    check_pool(task.train.signals[:200], task.dictionary, 4)
    check_stream(np.asarray(task.train.signals), 8)
    check_latents(task.train.signals[:200], (2, 4))
