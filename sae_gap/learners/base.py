"""What every learner is, and the one loop that runs them all."""

import concurrent.futures
import dataclasses
import os
import time
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from sae_gap.checkpoints import Checkpoint
from sae_gap.encoders.base import Encoder
from sae_gap.types import Model, Split, Task


class Learner(eqx.Module):
    """Frozen hyper-parameters and pure methods; what changes is the state that they pass on.

    `num_steps` is how many steps a fit takes: epochs, or rounds.

    Float hyper-parameters enter the compiled loop as arrays, so a sweep over them compiles once. Whatever sets a shape or a
    loop length is a static field. A subclass defines `init`, `step` and `model`, and may define `select` and `done`; one on the
    host defines `learn` alone.
    """

    num_steps: int = eqx.field(static=True, default=0, kw_only=True)
    # Whether seeds gain from a vmapped axis. A learner whose steps fill the device, or whose seeds stop at different times,
    # says no.
    side_by_side: ClassVar[bool] = True
    # Whether `learn` does it all in Python, on the host, in the place of `init`, `step` and `model`.
    on_host: ClassVar[bool] = False

    @property
    def encode(self) -> Encoder | None:
        """The encoder that is trained along with the dictionary, if one is."""
        return None

    def needs(self, task: Task) -> str | None:
        """What the task lacks that the learner cannot do without, or None."""
        return None

    def select(self, task: Task) -> PyTree:
        """All that the learner may see of a task: the training signals, unless it says otherwise here."""
        return Split(task.train.signals)

    def init(self, data: PyTree, *, num_latents: int, key: PRNGKeyArray) -> PyTree:
        """The state before the first step."""
        raise NotImplementedError

    def step(self, data: PyTree, state: PyTree) -> PyTree:
        """The state one step on: an epoch, or a round."""
        raise NotImplementedError

    def model(self, state: PyTree) -> Model:
        """What has been learned so far."""
        raise NotImplementedError

    def done(self, state: PyTree) -> Bool[Array, ""] | bool:
        """Whether to stop before `num_steps`; False never asks."""
        return False

    def learn(self, data: PyTree, *, num_latents: int, key: PRNGKeyArray) -> Model:
        """All that a learner on the host does: what it selects of a task in, a model out."""
        raise NotImplementedError


class Fit(eqx.Module):
    """The models of a batch of seeds.

    Attributes:
      models: one for each seed.
      num_steps: the steps that each took.
      fit_seconds: wall seconds of each seed's own loop, beside as many others as there are cores; side by side, its share.
      wall_seconds: of all loops together.
      compile_seconds: of the one program that they share.
    """

    models: list[Model]
    num_steps: list[int]
    fit_seconds: list[float]
    wall_seconds: float
    compile_seconds: float


def fit(
    learner: Learner,
    tasks: Sequence[Task],
    keys: Sequence[PRNGKeyArray],
    *,
    side_by_side: bool | None = None,
    checkpoints: Sequence[Checkpoint] | None = None,
) -> Fit:
    """Fits a learner to each task, with its own key; the tasks share their shapes.

    The whole training of a seed is one compiled loop. Side by side, all seeds are one loop with the seeds as a vmapped axis: an
    accelerator then does them in little more than the time of one. On a CPU that gains nothing per seed, so there the loop
    of one seed runs on a thread for each core instead, and a seed's bits do not depend on which others it is fitted with.

    With checkpoints the loop stops now and then to save its state, and a fit that was killed goes on from there, to the bits
    that it would have ended with. What it had spent counts in its seconds.

    Args:
      learner: what to fit.
      tasks: one for each seed, of equal shapes.
      keys: one for each task.
      side_by_side: whether seeds are vmapped; None does so off the CPU, where the learner allows it.
      checkpoints: one for each task; side by side, the first is that of all. A learner on the host has no use for them.

    Returns:
      The fitted models, in the order of the tasks.
    """
    if learner.on_host:
        return _fit_on_host(learner, tasks, keys)
    num_latents = tasks[0].num_latents
    inputs = [(learner.select(task), key) for task, key in zip(tasks, keys, strict=True)]
    saves: Sequence[Checkpoint | None] = [None] * len(inputs) if checkpoints is None else checkpoints
    if side_by_side is None:
        side_by_side = learner.side_by_side and jax.default_backend() != "cpu"
    if side_by_side:
        inputs, saves = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *inputs)], saves[:1]
    program = Program(learner, *inputs[0], num_latents, side_by_side=side_by_side)
    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() if jax.default_backend() == "cpu" else 1) as pool:
        ended = list(pool.map(lambda one, save: program.run(one[0], one[1], save), inputs, saves))
    wall_seconds = time.perf_counter() - started
    outcomes, seconds = [(model, count) for model, count, _ in ended], [spent for _, _, spent in ended]
    if side_by_side:
        seconds = [seconds[0] / len(tasks)] * len(tasks)
        outcomes = [jax.tree.map(lambda leaf, seed=seed: leaf[seed], outcomes[0]) for seed in range(len(tasks))]
    return Fit(
        models=[dataclasses.replace(model, encode=learner.encode) for model, _ in outcomes],
        num_steps=[int(count) for _, count in outcomes],
        fit_seconds=seconds,
        wall_seconds=wall_seconds,
        compile_seconds=program.compile_seconds,
    )


def _fit_on_host(learner: Learner, tasks: Sequence[Task], keys: Sequence[PRNGKeyArray]) -> Fit:
    """One seed after the other, since what a learner in Python holds of the interpreter would slow those beside it."""
    models, seconds = [], []
    for task, key in zip(tasks, keys, strict=True):
        began = time.perf_counter()
        models.append(learner.learn(learner.select(task), num_latents=task.num_latents, key=key))
        seconds.append(time.perf_counter() - began)
    return Fit(models, [learner.num_steps] * len(models), seconds, sum(seconds), 0.0)


class Program:
    """What a fit runs, compiled: its start, its loop and its end, for all inputs that share the shapes of the given ones."""

    def __init__(self, learner: Learner, data: PyTree, key: PyTree, num_latents: int, *, side_by_side: bool = False):
        began = time.perf_counter()
        self._learner, self._num_steps = _floats_to_arrays(learner), learner.num_steps
        self._static = (num_latents, side_by_side)
        self._start = _compile(_start, self._learner, data, key, *self._static)
        shapes = eqx.filter_eval_shape(_start, self._learner, data, key, *self._static)
        begun = jax.tree.map(_blank, shapes, is_leaf=lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
        self._like = begun
        if self._num_steps:
            self._advance = _compile(_advance, (self._learner, data, jnp.asarray(0)), begun, side_by_side)
        self._end = _compile(_end, self._learner, begun[1], side_by_side)
        self.compile_seconds = time.perf_counter() - began

    def start(self, data: PyTree, key: PyTree) -> PyTree:
        """The steps done, none, and the state before the first."""
        return self._start(self._learner, data, key, *self._static)

    def advance(self, data: PyTree, begun: PyTree, stop: int) -> PyTree:
        """The steps done and the state after at most `stop` steps; what is given is used up."""
        return self._advance((self._learner, data, jnp.asarray(stop)), begun, self._static[1])

    def end(self, begun: PyTree) -> Model:
        return self._end(self._learner, begun[1], self._static[1])

    def run(self, data: PyTree, key: PyTree, save: Checkpoint | None = None) -> tuple[Model, Array, float]:
        """The model, the steps that it took, and the seconds, those before a checkpoint included."""
        clock = time.perf_counter()
        found = None if save is None else save.load(self._like)
        begun, spent = (self.start(data, key), 0.0) if found is None else found
        saved = time.perf_counter()
        clock -= spent
        done = int(jnp.max(begun[0]))
        stop = self._num_steps if save is None else done + 1
        while done < self._num_steps:
            before = time.perf_counter()
            begun = self.advance(data, begun, stop)
            reached = int(jnp.max(begun[0]))
            if reached < stop or save is None:
                break
            done, pace = reached, (time.perf_counter() - before) / max(1, reached - done)
            stop = min(self._num_steps, done + save.steps(pace))
            if done < self._num_steps and time.perf_counter() - saved >= save.every:
                save.store(begun, time.perf_counter() - clock)
                saved = time.perf_counter()
        model = jax.block_until_ready(self.end(begun))
        return model, begun[0], time.perf_counter() - clock


def _compile(function, *args):
    return function.lower(*args).compile()


def _blank(leaf):
    """An array of a shape and type, since what is compiled for must have values."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jnp.broadcast_to(jax.random.key(0), leaf.shape) if is_key else jnp.zeros(leaf.shape, leaf.dtype)


@eqx.filter_jit
def _start(learner: Learner, data: PyTree, key: PyTree, num_latents: int, side_by_side: bool) -> tuple[Array, PyTree]:
    def start(data, key):
        return jnp.zeros((), jnp.int32), learner.init(data, num_latents=num_latents, key=key)

    return (jax.vmap(start) if side_by_side else start)(data, key)


@eqx.filter_jit(donate="all-except-first")
def _advance(fixed: PyTree, begun: tuple[Array, PyTree], side_by_side: bool) -> tuple[Array, PyTree]:
    learner, data, stop = fixed

    def advance(data, begun):
        return _loop(learner, data, begun, stop)

    return (jax.vmap(advance) if side_by_side else advance)(data, begun)


@eqx.filter_jit
def _end(learner: Learner, state: PyTree, side_by_side: bool) -> Model:
    return (jax.vmap(learner.model) if side_by_side else learner.model)(state)


def train(learner: Learner, data: PyTree, *, num_latents: int, key: PRNGKeyArray) -> tuple[Model, Int[Array, ""]]:
    """The whole training of one seed, and the steps it took: for a learner on top of another, which is compiled with it."""
    begun = jnp.zeros((), jnp.int32), learner.init(data, num_latents=num_latents, key=key)
    count, state = _loop(learner, data, begun, learner.num_steps)
    return learner.model(state), count


def _loop(learner: Learner, data: PyTree, begun: tuple[Array, PyTree], stop: Array | int) -> tuple[Array, PyTree]:
    if learner.num_steps == 0:
        return begun

    def unfinished(begun):
        return (begun[0] < stop) & jnp.logical_not(learner.done(begun[1]))

    return jax.lax.while_loop(unfinished, lambda begun: (begun[0] + 1, learner.step(data, begun[1])), begun)


def batches(
    key: PRNGKeyArray, num_samples: int, batch_size: int
) -> tuple[Int[Array, "num_batches batch_size"], Float[Array, "num_batches batch_size"]]:
    """An epoch in a fresh order: indices of each batch, and weights that average over the samples it really has.

    The last, smaller batch is padded with samples of weight zero.
    """
    num_batches = -(-num_samples // batch_size)
    padded = num_batches * batch_size
    order = jnp.resize(jax.random.permutation(key, num_samples), (padded,)).reshape(num_batches, batch_size)
    real = (jnp.arange(padded) < num_samples).reshape(num_batches, batch_size).astype(jnp.zeros(()).dtype)
    return order, real / jnp.sum(real, axis=1, keepdims=True)


def _floats_to_arrays(learner: Learner) -> Learner:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, learner)
