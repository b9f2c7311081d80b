"""What `test_sharding.py` runs in a process of eight virtual devices: one device's results, and no
needless word between them.

Not collected by itself, since the number of devices is settled before JAX starts.
"""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from numpy.random import default_rng
from numpy.testing import assert_allclose, assert_array_equal
from pytest import fixture

from benchmarks.speed.scores import score
from sae_gap.core import Split
from sae_gap.encoders import TopK
from sae_gap.learners import DLFista, SparseAutoencoder
from sae_gap.runtime import devices, sharding
from sae_gap.solvers import coding, implicit, sparse_code
from sae_gap.study import Inputs, Pauses, Program
from tests.solvers.problems import draw

LAM = 0.05
SHAPE = NUM_SAMPLES, INPUT_DIM, NUM_LATENTS = 32, 16, 256


def place(tree):
    """A tree on all devices."""
    return devices.place(tree, devices.mesh())


def collectives(text):
    """The name and the shapes of each operation of a compiled program by which devices exchange
    something.
    """
    pattern = r" = (\(?\w+\[.*?) (all-\w+|collective-\w+|reduce-scatter|ragged-\S+)\("
    return [
        (
            name,
            [
                (*map(int, re.findall(r"\d+", sizes)),)
                for sizes in re.findall(r"\[([\d,]*)\]", shapes)
            ],
        )
        for shapes, name in re.findall(pattern, text.replace("-start(", "("))
    ]


@fixture(scope="module")
def problem():
    return draw(0, SHAPE, sparsity=3)


@fixture(scope="module")
def alone(problem):
    return sparse_code(*problem, LAM)


def assert_solved(solution, alone, problem):
    # Two certified codes of a sample explain it alike to the root of their gaps, and are as near as
    # its atoms are independent.
    assert_allclose(solution.codes, alone.codes, atol=1e-4)
    assert_allclose(solution.objective, alone.objective, rtol=2e-6)
    value, gap = score(*problem, solution.codes, LAM)
    assert np.all(solution.converged) and np.all(gap <= 2e-6 * value)


def test_samples_and_what_does_not_divide_are_placed(problem):
    given = {
        "whole": problem[0],
        "odd": problem[0][:30],
        "name": "x",
        "none": None,
        "count": 3,
    }
    placed = place(given)
    assert placed["whole"].sharding.spec == PartitionSpec("samples")
    assert placed["whole"].addressable_shards[0].data.shape == (4, INPUT_DIM)
    assert placed["odd"].sharding.is_fully_replicated
    assert (placed["name"], placed["none"], placed["count"]) == ("x", None, 3)
    assert place(jnp.float32(2)).sharding.is_fully_replicated
    for name in ("whole", "odd"):
        many = jax.jit(lambda rows: rows.T @ rows)(placed[name])
        assert len(many.devices()) == 8
        assert_allclose(many, given[name].T @ given[name], rtol=1e-5, atol=1e-5)
    assert devices.describe().startswith("8 x cpu (")


def test_on_a_cpu_the_bits_are_those_of_one_device(problem, alone):
    signals = place(problem[0])
    dictionary = problem[1]
    solution = sparse_code(signals, dictionary, LAM)
    jax.tree.map(assert_array_equal, solution, alone)
    rows = NamedSharding(devices.mesh(), PartitionSpec("samples"))
    assert solution.codes.sharding == solution.gap.sharding == rows
    thin = sparse_code(signals, dictionary, LAM, sparse=True).codes
    assert_array_equal(thin.toarray(), alone.codes)


def test_samples_are_coded_and_differentiated_by_each_device_alone(
    problem, alone, monkeypatch
):
    signals = place(problem[0])
    dictionary = problem[1]
    weights = default_rng(1).normal(size=alone.codes.shape).astype(np.float32)
    # In chunks of three, which no device's four samples divide into.
    monkeypatch.setattr(coding, "ROOM", 3 * coding.ARRAYS * NUM_LATENTS)

    def loss(signals, dictionary):
        solution = sparse_code(signals, dictionary, LAM)
        return jnp.sum(weights * solution.codes) + jnp.sum(solution.objective), solution

    with jax.set_mesh(devices.mesh()):
        slopes = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
        program = slopes.lower(signals, dictionary).compile()
    (signals_bar, dictionary_bar), solution = program(signals, dictionary)
    assert_solved(solution, alone, problem)
    assert (
        solution.codes.sharding.spec
        == signals_bar.sharding.spec
        == PartitionSpec("samples")
    )
    # The cotangent of the dictionary is a sum over all samples.
    exchanged = collectives(program.as_text())
    shapes = [shape for _, shapes in exchanged for shape in shapes]
    assert {name for name, _ in exchanged} == {"all-reduce"} and len(shapes) <= 6
    assert {*shapes} <= {(), (INPUT_DIM, NUM_LATENTS), (NUM_LATENTS, INPUT_DIM)}
    want = implicit.pull_back(
        *problem, alone.codes, weights, jnp.ones(NUM_SAMPLES), None
    )
    for found, wanted in zip((signals_bar, dictionary_bar), want, strict=False):
        assert_allclose(found, wanted, atol=1e-4 * float(jnp.max(jnp.abs(wanted))))


def test_samples_that_do_not_divide_are_filled_up_with_zeros():
    """Thirty samples, copied to all eight devices, of which each works on four."""
    problem = draw(1, (30, 8, 24), sparsity=2)
    signals = place(problem[0])
    given = problem[1], np.full(30, LAM, np.float32)
    found = sparse_code(signals, *given, solver="fista", sparse=True)
    assert found.codes.shape == (30, 24)
    found = replace(found, codes=found.codes.toarray())
    assert_solved(found, sparse_code(problem[0], *given), problem)


def run(learner, data, num_latents=20):
    inputs = Inputs(data, jax.random.key(0), {}, num_latents)
    program = Program(learner, devices.mesh(), inputs)
    end = program.run(inputs, Pauses())
    return end.model, end.step, program


def test_training_splits_its_batches_and_gradients_meet_once():
    signals = default_rng(0).normal(size=(104, 12)).astype(np.float32)
    data = place(Split(signals))
    learner = SparseAutoencoder(TopK(3), num_steps=3, batch_size=16, learning_rate=1e-2)
    many, steps, program = run(learner, data)
    one, _, _ = run(learner, Split(jnp.asarray(signals)))
    assert steps == 3
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-5), many, one)
    exchanged = collectives(program._advance.compiled.as_text())
    sums = [
        sorted(shapes)
        for name, shapes in exchanged
        if name == "all-reduce" and shapes != [()]
    ]
    # The rows of a batch from whoever has them, and the gradient of each parameter.
    assert sums[0] == [(16, 12)] and len(sums) == 2
    assert {(12,), (12, 20), (20,)} <= {(*sorted(shape),) for shape in sums[1]}


def test_batches_of_samples_that_do_not_divide_are_split():
    def as_it_is(batch):
        assert sharding.split_batch(batch) is batch
        return batch

    data = place(np.arange(100.0, dtype=np.float32))
    with jax.set_mesh(devices.mesh()):
        batch = jax.jit(lambda data: sharding.split_batch(data[3:19]))(data)
        odd = jax.jit(as_it_is)(data[3:10])
    assert data.sharding.is_fully_replicated and odd.sharding.is_fully_replicated
    assert batch.sharding.spec == PartitionSpec("samples") and batch[0] == odd[0] == 3


def test_a_state_with_codes_lies_as_its_samples():
    signals = default_rng(0).normal(size=(96, 12)).astype(np.float32)
    data = place(Split(signals))
    learner = DLFista(num_steps=3)
    many, _, program = run(learner, data)
    one, _, _ = run(learner, Split(jnp.asarray(signals)))
    assert_allclose(many.dictionary, one.dictionary, atol=1e-4)
    _, state = program._start(program._learner, Inputs(data, jax.random.key(0), {}, 20))
    assert state.codes.sharding.spec == PartitionSpec("samples")
    assert state.dictionary.sharding.is_fully_replicated
