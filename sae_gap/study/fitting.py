"""Fits a learner to tasks, one for each seed: one compiled loop for all, on every core, with pauses
for models along the way, reports and saves.
"""

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PRNGKeyArray, PyTree

from sae_gap.core import (
    Model,
    Task,
    check_integer,
    check_seed,
    check_sequence,
    check_size,
    check_type,
    is_integer,
    shown,
)
from sae_gap.learners import HostLearner, Learner
from sae_gap.runtime import (
    LOOPS,
    devices,
    distributed,
    one_blas_thread,
    progress,
    sharding,
)
from sae_gap.runtime.cores import cores
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


@dataclasses.dataclass(frozen=True)
class Fit:
    """A finished fit of one seed.

    Attributes:
      end: the last model.
      along: the models at the requested steps before the end.
      compile_seconds: compile time of the program, which all seeds of a call share.
      device: the device of the fit, in words; its seconds are that device's.
      base_seconds: seconds of the fits of its bases, not included in those of its models.
    """

    end: Fitted
    along: Mapping[int, Fitted]
    compile_seconds: float
    device: str
    base_seconds: float = 0.0

    def on(self, base: "Fit | None") -> "Fit":
        """The fit with the seconds of its base's fit added; None means no base."""
        seconds = base.end.seconds + base.base_seconds if base else 0.0
        return dataclasses.replace(self, base_seconds=seconds)

    def at(self, step: int | None) -> Fitted:
        """The model at a step; the last model for None and every later step."""
        return self.end if step is None or step >= self.end.step else self.along[step]


def fit(
    learner: Learner,
    tasks: Sequence[Task],
    keys: Sequence[int | PRNGKeyArray],
    *,
    at: Sequence[int] = (),
    bases: Sequence[Model] | None = None,
    checkpoints: Sequence[Checkpoint] | None = None,
    keep: Callable[[int, Fitted], None] | None = None,
    watch: Callable[[int, float], None] | None = None,
    show_progress: bool = True,
    mesh: Mesh | None = None,
) -> list[Fit]:
    """Fits a learner to each task, with its own key; the tasks share their shapes.

    A compiled loop trains each seed. On a CPU each core runs the loop of one seed in a thread;
    elsewhere seeds follow each other. A seed's bits do not depend on the other seeds. Calls from
    several threads share the cores.

    The loop pauses at the requested steps and, with checkpoints, periodically to save its state. A
    killed fit resumes from there and ends with the same bits; the seconds before the kill count.

    Args:
      learner: the learner to fit.
      tasks: one for each seed, of equal shapes.
      keys: one for each task; an integer i stands for `jax.random.key(i)`.
      at: steps whose models are kept, beside the last.
      bases: the models of the learner's base, one for each task; None fits them here.
      checkpoints: one for each task. Learners on the host do not use them.
      keep: called with the number of a task and each kept model, as soon as it exists.
      watch: called with the number of a task and the share of its steps that is taken: where its
        fit begins, about once a second, and with 1 at its end.
      show_progress: whether to show the progress unless there is `watch`: a bar on a terminal or in
        a notebook, elsewhere a line a minute in the log.
      mesh: the devices to fit on, see `devices.mesh`; None takes those of this process. If it spans
        processes, all of them must make the same call.

    Returns:
      A fit for each task.

    Raises:
      TypeError: an argument is of a wrong class.
      ValueError: there is no task, tasks differ in their shapes or are not finite, or the numbers
        of keys and tasks differ.
    """
    keys = _checked(learner, tasks, keys, at)
    before: Any = [None] * len(tasks)
    given = bases or before
    if learner.base is not None and bases is None:
        before = fit(learner.base, tasks, keys, show_progress=show_progress, mesh=mesh)
        given = [base.end.model for base in before]
    num_latents = int(tasks[0].width)
    inputs = [
        (learner.select(task), key, given_base(base))
        for task, key, base in zip(tasks, keys, given, strict=True)
    ]
    shown = show_progress and watch is None
    with progress.line(what=learner.name, unit="fits", shown=shown) as line:
        line.begin(range(len(tasks)))
        watch = watch or line.report
        if isinstance(learner, HostLearner):
            made = _fit_on_host(learner, num_latents, inputs, watch)
        else:
            mesh = devices.own_mesh() if mesh is None else mesh
            made = _fit_in_loops(
                learner, num_latents, inputs, mesh, at, checkpoints, keep, watch
            )
    return [fitted.on(base) for fitted, base in zip(made, before, strict=True)]


def _fit_in_loops(learner, num_latents, inputs, mesh, at, checkpoints, keep, watch):
    """Fits all seeds by one compiled program."""
    inputs = [
        (devices.place(data, mesh), *devices.replicate(rest, mesh))
        for data, *rest in inputs
    ]
    with LOOPS:
        program = Program(learner, num_latents, mesh, *inputs[0])
    device = devices.describe()
    # Threads do not inherit thread-local JAX configuration.
    precise = bool(jax.config.values["jax_enable_x64"])

    def whole(fitted):
        model = dataclasses.replace(
            distributed.whole(fitted.model), encode=learner.encode
        )
        return fitted._replace(model=model)

    def run(place):
        along = {}

        def kept(fitted):
            along[fitted.step] = whole(fitted)
            if keep is not None:
                keep(place, along[fitted.step])

        def watched(steps, state):
            watch(place, steps / max(1, learner.num_steps))

        save = checkpoints and checkpoints[place]
        # LAPACK's matrices are small, and its further threads would take cores from the other
        # loops.
        with jax.enable_x64(precise), LOOPS, one_blas_thread():
            end = whole(
                program.run(*inputs[place], save=save, at=at, keep=kept, watch=watched)
            )
        # It may have stopped by itself.
        watch(place, 1.0)
        # A fit that stops by itself at a requested step keeps that model twice; drop one.
        along.pop(end.step, None)
        return Fit(end, along, program.compile_seconds, device)

    with concurrent.futures.ThreadPoolExecutor(at_once(mesh)) as pool:
        return list(pool.map(run, range(len(inputs))))


def at_once(mesh: Mesh | None = None) -> int:
    """How many loops may run at once: one for each core of a CPU; one on an accelerator or on
    several devices.
    """
    # Programs on several devices together must start in the same order on all of them.
    mesh = devices.own_mesh() if mesh is None else mesh
    return cores() if jax.default_backend() == "cpu" and mesh.size == 1 else 1


def as_key(name: str, key: Any) -> PRNGKeyArray:
    """A random key: `jax.random.key(i)` for an integer i; a key, also in JAX's older form, is
    returned unchanged.

    Raises:
      TypeError: it is neither.
      ValueError: the integer is below zero, or has more than 32 bits.
    """
    if is_integer(key):
        check_seed(key)
        return jax.random.key(int(key))
    if not isinstance(key, jax.Array):
        raise TypeError(
            f"{name} must be an integer or one random key, but it is {shown(key)}; give 0 or "
            "jax.random.key(0)."
        )
    return key


def _fit_on_host(learner, num_latents, inputs, watch):
    """Fits one seed after the other: learners in Python hold the interpreter and would slow each
    other down.
    """
    fits = []
    for place, (data, key, base) in enumerate(inputs):
        watch(place, 0.0)
        began = time.perf_counter()
        model = learner.learn(data, num_latents=num_latents, key=key, **base)
        end = Fitted(learner.num_steps, model, time.perf_counter() - began)
        fits.append(Fit(end, {}, 0.0, devices.describe()))
        watch(place, 1.0)
    return fits


def _checked(learner, tasks, keys, at):
    """The key of each task, after a check of all arguments; see `fit` for these."""
    check_type("learner", learner, Learner, "give one of those in sae_gap.learners")
    check_sequence(
        "tasks", tasks, Task, "give what sae_gap.draw or sae_gap.load returns"
    )
    for task in tasks:
        _check_signals(task.train.signals)
    shapes = {(*task.train.signals.shape, task.width) for task in tasks}
    if len(shapes) > 1:
        raise ValueError(
            f"tasks must have one shape and one width, but have {sorted(shapes)}; fit them apart."
        )
    check_size("width", tasks[0].width)
    if len(keys) != len(tasks):
        raise ValueError(
            f"keys must be {len(tasks)}, one for each task, but they are {shown(keys)}; give "
            "integers."
        )
    for step in at:
        check_integer("at", step, least=0)
    return [as_key("a key", key) for key in keys]


def _check_signals(signals):
    real = jnp.issubdtype(getattr(signals, "dtype", object), jnp.floating)
    if not real or np.ndim(signals) != 2 or not np.size(signals):
        raise ValueError(
            "the training signals of a task must be a matrix (samples, input_dim) of float32, but "
            f"they are {shown(signals)}."
        )
    # A mapped file was checked when it was opened, and other hosts check their own values.
    mapped = isinstance(signals, np.memmap) or not getattr(
        signals, "is_fully_addressable", True
    )
    if not mapped and not np.isfinite(signals).all():
        raise ValueError(
            "the training signals of a task have a NaN or an infinity; drop or mend those samples."
        )


class Program:
    """The start, the loop and the end of a fit, compiled for all inputs of the given shapes."""

    def __init__(self, learner, num_latents, mesh, data, key, base):
        began = time.perf_counter()
        self._together = devices.spans_processes(mesh)
        self._learner = devices.replicate(_prepared(learner), mesh)
        self._num_steps = learner.num_steps
        self._num_latents = num_latents
        with sharding.within(data):
            given = self._learner, data, key, base, num_latents
            self._start = _compile(_start, *given)
            shapes = eqx.filter_eval_shape(_start, *given)
            blank = devices.replicate(jax.tree.map(_blank, shapes), mesh)
            self._like = blank = sharding.constrain(blank, data)
            if self._num_steps:
                self._advance = _compile(
                    _advance, (self._learner, data, np.int32(0)), blank
                )
            self._end = _compile(_end, self._learner, blank[1])
        self.compile_seconds = time.perf_counter() - began

    def run(self, data, key, base, **options):
        """Runs a fit to its end; the options are those of `run_loop`. `watch` is also told where it
        begins.
        """
        began = time.perf_counter()
        learner = self._learner
        save = options.get("save")
        stepped, spent = (save and save.load(self._like)) or (None, 0.0)
        stepped = stepped or self._start(learner, data, key, base, self._num_latents)
        options["watch"](int(stepped[0]), stepped[1])
        return run_loop(
            stepped,
            spent + time.perf_counter() - began,
            lambda stepped, stop: self._advance(
                (learner, data, np.int32(stop)), stepped
            ),
            lambda stepped: self._end(learner, stepped[1]),
            self._num_steps,
            together=self._together,
            report_every=REPORT_EVERY,
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
    stop = done + 1 if waits else num_steps
    ended = False
    while not ended:
        if keep is not None and done in pauses:
            model = jax.block_until_ready(end(stepped))
            paused = time.perf_counter()
            keep(Fitted(done, model, paused - clock))
            clock += time.perf_counter() - paused
        pauses = [step for step in pauses if step > done]
        if done >= num_steps:
            break
        before = time.perf_counter()
        target = min([stop, *pauses[:1]])
        stepped = advance(stepped, target)
        reached = int(stepped[0])
        now = time.perf_counter()
        pace = (now - before) / max(1, reached - done)
        done = reached
        ended = reached < target
        stop = min(
            [num_steps, *(done + max(1, int(wait / max(pace, 1e-6))) for wait in waits)]
        )
        due = (
            save is not None
            and not ended
            and done < num_steps
            and now - saved >= save.every
        )
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
    inner = _prepared(learner)
    given = given_base(base)
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
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, alone
    )


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
