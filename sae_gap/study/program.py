"""The compiled loop of a fit: its start, its steps and its end, with pauses for models along the way, reports and saves."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray, PyTree

from sae_gap.core.types import Model, Task
from sae_gap.learners.learner import Learner
from sae_gap.runtime import devices, distributed, sharding
from sae_gap.storage.trees import Checkpoint

# Seconds between two reports of how far a fit is.
_REPORT_EVERY = 1.0


class Fitted(NamedTuple):
    """A model along a fit.

    Attributes:
      step: the steps that it took.
      model: what was learned by then.
      seconds: the seed's loop took, without compilation. Other seeds and learners may have run on the other cores meanwhile;
        side by side, it is the seed's share of the one loop of all seeds.
    """

    step: int
    model: Model
    seconds: float


class Program:
    """What a fit runs, compiled: its start, its loop and its end, for all inputs that share the shapes of the given ones."""

    def __init__(
        self,
        learner: Learner,
        data: PyTree,
        key: PyTree,
        base: dict[str, Model],
        num_latents: int,
        mesh: Mesh,
        *,
        side_by_side: bool = False,
    ):
        began = time.perf_counter()
        self._spans = devices.spans_processes(mesh)
        self._learner, self._num_steps = devices.replicate(_prepared(learner), mesh), learner.num_steps
        self._static = (num_latents, side_by_side)
        with sharding.within(data):
            self._start = _compile(_start, self._learner, data, key, base, *self._static)
            shapes = eqx.filter_eval_shape(_start, self._learner, data, key, base, *self._static)
            begun = jax.tree.map(_blank, shapes, is_leaf=lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
            self._like = begun = sharding.constrain(devices.replicate(begun, mesh), data, seeds=side_by_side)
            if self._num_steps:
                self._advance = _compile(_advance, (self._learner, data, np.int32(0)), begun, side_by_side)
            self._end = _compile(_end, self._learner, begun[1], side_by_side)
        self.compile_seconds = time.perf_counter() - began

    def start(self, data: PyTree, key: PyTree, base: dict[str, Model]) -> PyTree:
        """The steps done, none, and the state before the first."""
        return self._start(self._learner, data, key, base, *self._static)

    def advance(self, data: PyTree, begun: PyTree, stop: int) -> PyTree:
        """The steps done and the state after at most `stop` steps; what is given is used up."""
        return self._advance((self._learner, data, np.int32(stop)), begun, self._static[1])

    def end(self, begun: PyTree) -> Model:
        """The model that a fit has reached."""
        return self._end(self._learner, begun[1], self._static[1])

    def run(
        self,
        data: PyTree,
        key: PyTree,
        base: dict[str, Model],
        at: Sequence[int] = (),
        save: Checkpoint | None = None,
        keep: Callable[[Fitted], None] | None = None,
        watch: Callable[[int], None] | None = None,
    ) -> tuple[Model, Array, float]:
        """The model, the steps that it took, and the seconds, those before a checkpoint included."""
        clock = time.perf_counter()
        found = None if save is None else save.load(self._like)
        begun, spent = (self.start(data, key, base), 0.0) if found is None else found
        saved = time.perf_counter()
        clock -= spent
        done = first = int(jnp.max(begun[0]))
        pauses = sorted({step for step in at if first <= step < self._num_steps})
        # Where someone waits, the first step tells how many to take at once.
        stop = self._num_steps if save is None and watch is None else done + 1
        while True:
            if pauses and done == pauses[0] and keep is not None:
                model = jax.block_until_ready(self.end(begun))
                paused = time.perf_counter()
                keep(Fitted(done, model, paused - clock))
                clock += time.perf_counter() - paused
            pauses = [step for step in pauses if step > done]
            if done >= self._num_steps:
                break
            before, target = time.perf_counter(), min([stop, *pauses[:1]])
            begun = self.advance(data, begun, target)
            reached = int(jnp.max(begun[0]))
            now = time.perf_counter()
            pace = (now - before) / max(1, reached - done)
            done, ended = reached, reached < target
            if watch is not None:
                watch(done)
            if ended:
                break
            waits = [_REPORT_EVERY] * (watch is not None) + ([] if save is None else [save.every])
            stop = min([self._num_steps, *(done + max(1, int(wait / max(pace, 1e-6))) for wait in waits)])
            due = save is not None and done < self._num_steps and now - saved >= save.every
            if waits and self._spans:
                # Clocks differ, and all must stop at the same step.
                stop, due = distributed.from_first((stop, due))
            if save is not None and due:
                save.store(begun, now - clock, step=done)
                saved = time.perf_counter()
            # Time spent on reports and saves is not the learner's.
            clock += time.perf_counter() - now
        model = jax.block_until_ready(self.end(begun))
        return model, begun[0], time.perf_counter() - clock


def blank_model(learner: Learner, task: Task, key: PRNGKeyArray, base: Model | None = None) -> Model:
    """The shapes of the model that a learner would end with, for reading one from a file.

    One on the host has a dictionary of as many atoms as the task has latents, and nothing else.
    """
    given = {} if base is None else {"base": dataclasses.replace(base, encode=None)}
    inner = _prepared(learner)
    if learner.on_host:
        dtype = task.train.signals.dtype
        dictionary = jax.ShapeDtypeStruct((task.input_dim, task.width), dtype)
        return Model(dictionary, jax.ShapeDtypeStruct((task.input_dim,), dtype))  # type: ignore[arg-type]

    def end(data, key, given):
        return inner.model(inner.init(data, num_latents=task.width, key=key, **given))

    return eqx.filter_eval_shape(end, learner.select(task), key, given)


def _prepared(learner: Learner) -> Learner:
    """Without its base, whose model is all that it needs, and with its floats as arrays, so that a sweep compiles once."""
    alone = learner
    if learner.base is not None:
        alone = jax.tree.map(lambda part: None if part is learner.base else part, learner, is_leaf=lambda x: x is learner.base)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, alone)


def _compile(function, *args):
    return function.lower(*args).compile()


def _blank(leaf):
    """An array of a shape and type, since what is compiled for must have values."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jnp.broadcast_to(jax.random.key(0), leaf.shape) if is_key else jnp.zeros(leaf.shape, leaf.dtype)


@eqx.filter_jit
def _start(
    learner: Learner, data: PyTree, key: PyTree, base: dict[str, Model], num_latents: int, side_by_side: bool
) -> tuple[Array, PyTree]:
    def start(data, key, base):
        begun = jnp.zeros((), jnp.int32), learner.init(data, num_latents=num_latents, key=key, **base)
        return sharding.constrain(begun, data)

    return (jax.vmap(start) if side_by_side else start)(data, key, base)


@eqx.filter_jit(donate="all-except-first")
def _advance(fixed: PyTree, begun: tuple[Array, PyTree], side_by_side: bool) -> tuple[Array, PyTree]:
    learner, data, stop = fixed

    def advance(data, begun):
        return sharding.constrain(_loop(learner, data, begun, stop), data)

    return (jax.vmap(advance) if side_by_side else advance)(data, begun)


@eqx.filter_jit
def _end(learner: Learner, state: PyTree, side_by_side: bool) -> Model:
    return (jax.vmap(learner.model) if side_by_side else learner.model)(state)


def _loop(learner: Learner, data: PyTree, begun: tuple[Array, PyTree], stop: Array | int) -> tuple[Array, PyTree]:
    if learner.num_steps == 0:
        return begun

    def unfinished(begun):
        return (begun[0] < stop) & jnp.logical_not(learner.done(begun[1]))

    return jax.lax.while_loop(unfinished, lambda begun: (begun[0] + 1, learner.step(data, begun[1])), begun)
