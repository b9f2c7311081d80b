"""The compiled loop of a fit, with pauses for models along the way, for reports and for saves."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from equinox import filter_eval_shape, filter_jit
from jax import ShapeDtypeStruct, block_until_ready, device_put
from jax.sharding import Mesh
from jax.tree_util import tree_map
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from sae_gap.core import Model
from sae_gap.learners import Learner
from sae_gap.runtime import devices, distributed
from sae_gap.runtime.sharding import constrain, within
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


class Inputs(NamedTuple):
    """What decides a fit of a learner.

    Attributes:
      data: what the learner selects of a task.
      key: a random key.
      base: the model that it starts from, as `given_base` gives it.
      num_latents: the atoms to learn.
    """

    data: PyTree
    key: PRNGKeyArray
    base: dict[str, Model]
    num_latents: int

    def init(self, learner: Learner) -> PyTree:
        """The state that a learner starts from."""
        return learner.init(
            self.data, num_latents=self.num_latents, key=self.key, **self.base
        )


class Pauses(NamedTuple):
    """Where a loop pauses.

    Attributes:
      at: steps whose models are kept.
      keep: called with each kept model.
      save: where to save the state periodically.
      watch: called periodically with the steps taken and the state.
    """

    at: Sequence[int] = ()
    keep: Callable[[Fitted], None] | None = None
    save: Checkpoint | None = None
    watch: Callable[[int, Any], None] | None = None


class Program:
    """The start, the loop and the end of a fit, compiled for all inputs of the given shapes."""

    def __init__(self, learner: Learner, mesh: Mesh, inputs: Inputs):
        began = perf_counter()
        self._together = devices.spans_processes(mesh)
        self._learner = devices.replicate(prepared(learner), mesh)
        self._num_steps = learner.num_steps
        with within(inputs.data):
            self._start = _compile(_start, self._learner, inputs)
            shapes = filter_eval_shape(_start, self._learner, inputs)
            blank = devices.replicate(tree_map(_blank, shapes), mesh)
            self._like = blank = constrain(blank, inputs.data)
            if self._num_steps:
                fixed = self._learner, inputs.data, np.int32(0)
                self._advance = _compile(_advance, fixed, blank)
            self._end = _compile(_end, self._learner, blank[1])
        self.compile_seconds = perf_counter() - began

    def run(self, inputs: Inputs, pauses: Pauses) -> Fitted:
        """Runs a fit to its end. `watch` is also told where it begins."""
        began = perf_counter()
        saved = pauses.save and pauses.save.load(self._like)
        stepped, spent = saved or (self._start(self._learner, inputs), 0.0)
        if pauses.watch:
            pauses.watch(int(stepped[0]), stepped[1])

        def advance(stepped: Stepped, stop: int) -> Stepped:
            return self._advance((self._learner, inputs.data, np.int32(stop)), stepped)

        def end(stepped: Stepped) -> Model:
            return self._end(self._learner, stepped[1])

        loop = Loop(advance, end, self._num_steps, pauses, self._together, REPORT_EVERY)
        return loop.run(stepped, spent + perf_counter() - began)


@dataclass
class Loop:
    """Takes the steps of a fit.

    Attributes:
      advance: takes steps up to a total number, or fewer if the fit ends by itself; consumes its
        argument.
      end: returns the model that a fit has reached.
      num_steps: steps of the fit.
      pauses: where it pauses.
      together: whether several processes run it together.
      report_every: approximate seconds between two calls of `watch`; 0 calls after every step.
    """

    advance: Callable[[Stepped, int], Stepped]
    end: Callable[[Stepped], Model]
    num_steps: int
    pauses: Pauses
    together: bool
    report_every: float = 0.0

    def run(self, stepped: Stepped, spent: float) -> Fitted:
        """Goes on to the end.

        Args:
          stepped: the steps taken so far, and the state after them.
          spent: seconds so far.

        Returns:
          The end of the fit. Its seconds include `spent`, but not those of reports and saves.
        """
        _, keep, save, watch = self.pauses
        saved = perf_counter()
        clock = saved - spent
        done = int(stepped[0])
        kept = sorted(
            {step for step in self.pauses.at if done <= step < self.num_steps}
        )
        # With reports or saves, the first step shows how many to take at once.
        stop = self._next_stop(done, np.inf)
        ended = False
        while not ended:
            if keep and done in kept:
                model = block_until_ready(self.end(stepped))
                paused = perf_counter()
                keep(Fitted(done, model, paused - clock))
                clock += perf_counter() - paused
            kept = [step for step in kept if step > done]
            if done >= self.num_steps:
                break
            before = perf_counter()
            target = min([stop, *kept[:1]])
            stepped = self.advance(stepped, target)
            reached = int(stepped[0])
            now = perf_counter()
            stop = self._next_stop(reached, (now - before) / max(1, reached - done))
            done = reached
            ended = reached < target
            due = False
            if save and not ended and done < self.num_steps:
                due = now - saved >= save.every
            if self.together and self._waits:
                # Clocks differ, and all processes must stop at the same step.
                stop, due = distributed.from_first((stop, due))
            if save and due:
                save.store(stepped, now - clock)
                saved = perf_counter()
            if watch:
                watch(done, stepped[1])
            clock += perf_counter() - now
        model = block_until_ready(self.end(stepped))
        return Fitted(done, model, perf_counter() - clock)

    @property
    def _waits(self) -> list[float]:
        """The seconds from one report to the next, and from one save to the next."""
        waits = [self.pauses.save.every] if self.pauses.save else []
        return [*waits, self.report_every] if self.pauses.watch else waits

    def _next_stop(self, done: int, pace: float) -> int:
        """The steps to take before the next report or save, at so many seconds a step."""
        stops = [done + max(1, int(wait / max(pace, 1e-6))) for wait in self._waits]
        return min([self.num_steps, *stops])


def given_base(base: Model | None) -> dict[str, Model]:
    """The argument `base` of `init`, without its encoder: a learner that continues from the numbers
    of a base does not use it, and would compile again for each kind.
    """
    return {"base": replace(base, encode=None)} if base else {}


def prepared(learner: Learner) -> Learner:
    """The learner without its base, of which it needs only the model, and with its floats as
    arrays, so that a sweep compiles once.
    """
    alone = tree_map(
        lambda part: None if part is learner.base else part,
        learner,
        is_leaf=lambda x: x is learner.base,
    )
    return tree_map(
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, alone
    )


def _compile(function: Any, *args: Any) -> Any:
    return function.lower(*args).compile()


def _blank(leaf: Any) -> Any:
    """An array of a shape and type, since compilation needs values."""
    if not isinstance(leaf, ShapeDtypeStruct):
        return leaf
    if distributed.is_key(leaf):
        return jnp.broadcast_to(jax.random.key(0), leaf.shape)
    return device_put(np.zeros(leaf.shape, leaf.dtype))


@filter_jit
def _start(learner: Learner, inputs: Inputs) -> Stepped:
    stepped = jnp.zeros((), jnp.int32), inputs.init(learner)
    return constrain(stepped, inputs.data)


@filter_jit(donate="all-except-first")
def _advance(fixed: tuple[Learner, PyTree, Array], stepped: Stepped) -> Stepped:
    learner, data, stop = fixed

    def unfinished(stepped: Stepped) -> Bool[Array, ""]:
        return (stepped[0] < stop) & jnp.logical_not(learner.done(stepped[1]))

    def step(stepped: Stepped) -> Stepped:
        return stepped[0] + 1, learner.step(data, stepped[1])

    return constrain(jax.lax.while_loop(unfinished, step, stepped), data)


@filter_jit
def _end(learner: Learner, state: PyTree) -> Model:
    return learner.model(state)
