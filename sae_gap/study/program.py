"""The compiled loop of a fit: its start, steps and end, with pauses for models along the way,
reports and saves.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray, PyTree

from sae_gap.core import Model, Task
from sae_gap.learners import HostLearner, Learner
from sae_gap.runtime import devices, distributed, sharding
from sae_gap.storage import Checkpoint

# Seconds between two progress reports of a fit.
REPORT_EVERY = 1.0
# The number of steps taken, and a learner's state after them.
Stepped = tuple[Array, PyTree]


class Fitted(NamedTuple):
    """A model along a fit.

    Attributes:
      step: number of steps taken.
      model: the model at that step.
      seconds: run time of its loop, without compilation. Other seeds and learners may have run on
        the other cores meanwhile.
    """

    step: int
    model: Model
    seconds: float


class Program:
    """The start, the loop and the end of a fit, compiled for all inputs of the given shapes."""

    def __init__(
        self,
        learner: Learner,
        data: PyTree,
        key: PyTree,
        base: dict[str, Model],
        num_latents: int,
        mesh: Mesh,
    ):
        began = time.perf_counter()
        self._together = devices.spans_processes(mesh)
        self._learner = devices.replicate(_prepared(learner), mesh)
        self._num_steps, self._num_latents = learner.num_steps, num_latents
        with sharding.within(data):
            given = self._learner, data, key, base, num_latents
            self._start, shapes = _compile(_start, *given), eqx.filter_eval_shape(_start, *given)
            blank = devices.replicate(jax.tree.map(_blank, shapes), mesh)
            self._like = blank = sharding.constrain(blank, data)
            if self._num_steps:
                self._advance = _compile(_advance, (self._learner, data, np.int32(0)), blank)
            self._end = _compile(_end, self._learner, blank[1])
        self.compile_seconds = time.perf_counter() - began

    def run(
        self,
        data: PyTree,
        key: PyTree,
        base: dict[str, Model],
        save: Checkpoint | None,
        **options: Any,
    ) -> Fitted:
        """Runs a fit to its end; the options are those of `run_loop`."""
        began, learner = time.perf_counter(), self._learner
        stepped, spent = (save and save.load(self._like)) or (None, 0.0)
        stepped = stepped or self._start(learner, data, key, base, self._num_latents)
        return run_loop(
            stepped,
            spent + time.perf_counter() - began,
            lambda stepped, stop: self._advance((learner, data, np.int32(stop)), stepped),
            lambda stepped: self._end(learner, stepped[1]),
            self._num_steps,
            together=self._together,
            save=save,
            **options,
        )


def run_loop(
    stepped: Stepped,
    spent: float,
    advance: Callable[[Stepped, int], Stepped],
    end: Callable[[Stepped], Model],
    num_steps: int,
    *,
    together: bool,
    at: Sequence[int] = (),
    save: Checkpoint | None = None,
    keep: Callable[[Fitted], None] | None = None,
    watch: Callable[[int, Any], None] | None = None,
    report_every: float = 0.0,
) -> Fitted:
    """Takes the steps of a fit, with pauses for models along the way, for reports and for saves.

    Args:
      stepped: the steps taken so far, and the state after them.
      spent: seconds so far.
      advance: takes steps up to a total number, or fewer if the fit ends by itself; consumes its
        argument.
      end: returns the model that a fit has reached.
      num_steps: steps of the fit.
      together: whether several processes run it together.
      at: steps whose models are kept.
      save: where to save the state periodically.
      keep: called with each kept model.
      watch: called periodically with the steps taken and the state.
      report_every: approximate seconds between two of these calls; 0 calls after every step.

    Returns:
      The end of the fit; its seconds include `spent`.
    """
    saved = time.perf_counter()
    clock = saved - spent
    done = int(stepped[0])
    pauses = sorted({step for step in at if done <= step < num_steps})
    waits = [] if save is None else [save.every]
    if watch is not None:
        waits.append(report_every)
    # With reports or saves, the first step shows how many to take at once.
    stop, ended = done + 1 if waits else num_steps, False
    while not ended:
        if keep is not None and done in pauses:
            model = jax.block_until_ready(end(stepped))
            paused = time.perf_counter()
            keep(Fitted(done, model, paused - clock))
            clock += time.perf_counter() - paused
        pauses = [step for step in pauses if step > done]
        if done >= num_steps:
            break
        before, target = time.perf_counter(), min([stop, *pauses[:1]])
        stepped = advance(stepped, target)
        reached = int(stepped[0])
        now = time.perf_counter()
        pace = (now - before) / max(1, reached - done)
        done, ended = reached, reached < target
        stop = min([num_steps, *(done + max(1, int(wait / max(pace, 1e-6))) for wait in waits)])
        due = save is not None and not ended and done < num_steps and now - saved >= save.every
        if waits and together:
            # Clocks differ, and all processes must stop at the same step.
            stop, due = distributed.from_first((stop, due))
        if save is not None and due:
            save.store(stepped, now - clock, step=done)
            saved = time.perf_counter()
        if watch is not None:
            watch(done, stepped[1])
        # Do not count the time of reports and saves.
        clock += time.perf_counter() - now
    model = jax.block_until_ready(end(stepped))
    return Fitted(done, model, time.perf_counter() - clock)


def blank_model(
    learner: Learner, task: Task, key: PRNGKeyArray, base: Model | None = None
) -> Model:
    """The shapes of the model that a learner would end with, for reading one from a file.

    For a learner on the host, that is a dictionary with as many atoms as the task has latents, and
    nothing else.
    """
    inner, given = _prepared(learner), given_base(base)
    if isinstance(learner, HostLearner):
        dtype = task.train.signals.dtype
        dictionary = jax.ShapeDtypeStruct((task.input_dim, task.width), dtype)
        return Model(dictionary, jax.ShapeDtypeStruct((task.input_dim,), dtype))  # type: ignore[arg-type]

    def end(data, key, given):
        return inner.model(inner.init(data, num_latents=task.width, key=key, **given))

    return eqx.filter_eval_shape(end, learner.select(task), key, given)


def given_base(base: Model | None) -> dict[str, Model]:
    """The argument `base` of `init`, without its encoder: a learner that continues from the numbers
    of a base does not use it, and would compile again for each kind.
    """
    return {} if base is None else {"base": dataclasses.replace(base, encode=None)}


def _prepared(learner):
    """The learner without its base, of which it needs only the model, and with its floats as
    arrays, so that a sweep compiles once.
    """
    alone = jax.tree.map(
        lambda part: None if part is learner.base else part,
        learner,
        is_leaf=lambda x: x is learner.base,
    )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, alone)


def _compile(function, *args):
    return function.lower(*args).compile()


def _blank(leaf):
    """An array of a shape and type, since compilation needs values."""
    if not isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return jax.device_put(np.zeros(leaf.shape, leaf.dtype))


@eqx.filter_jit
def _start(learner, data, key, base, num_latents):
    state = learner.init(data, num_latents=num_latents, key=key, **base)
    return sharding.constrain((jnp.zeros((), jnp.int32), state), data)


@eqx.filter_jit(donate="all-except-first")
def _advance(fixed, stepped):
    learner, data, stop = fixed

    def unfinished(stepped):
        return (stepped[0] < stop) & jnp.logical_not(learner.done(stepped[1]))

    def step(stepped):
        return stepped[0] + 1, learner.step(data, stepped[1])

    return sharding.constrain(jax.lax.while_loop(unfinished, step, stepped), data)


@eqx.filter_jit
def _end(learner, state):
    return learner.model(state)
