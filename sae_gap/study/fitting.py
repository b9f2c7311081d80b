"""Fits a learner to tasks, one for each seed: one compiled loop for all, on every core."""

import concurrent.futures
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

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
from sae_gap.runtime import LOOPS, devices, distributed, one_blas_thread, progress
from sae_gap.runtime.cores import cores
from sae_gap.storage import Checkpoint
from sae_gap.study import REPORT_EVERY, Fitted, Program, given_base


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
      show_progress: whether to show a line of progress on a terminal or in a notebook.
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
    before: list[Any] = [None] * len(tasks)
    given: Any = bases or before
    if learner.base is not None and bases is None:
        before = fit(learner.base, tasks, keys, show_progress=show_progress, mesh=mesh)
        given = [base.end.model for base in before]
    num_latents = int(tasks[0].width)
    inputs: list[Any] = [
        (learner.select(task), key, given_base(base))
        for task, key, base in zip(tasks, keys, given, strict=True)
    ]
    if isinstance(learner, HostLearner):
        made = (_fit_on_host(learner, *each, num_latents) for each in inputs)
        return [fitted.on(base) for fitted, base in zip(made, before, strict=True)]
    mesh = devices.own_mesh() if mesh is None else mesh
    inputs = [(devices.place(data, mesh), *devices.replicate(rest, mesh)) for data, *rest in inputs]
    with LOOPS:
        program = Program(learner, *inputs[0], num_latents, mesh)
    device = devices.describe()
    # Threads do not inherit thread-local JAX configuration.
    precise = bool(jax.config.values["jax_enable_x64"])
    line = progress.bar(
        len(tasks) * learner.num_steps, learner.name, unit="step", shown=show_progress
    )
    taken, shows = [0] * len(tasks), not line.disable
    if devices.spans_processes(mesh):
        # A watched loop pauses, and all processes must pause together.
        shows = distributed.from_first(shows)

    def whole(fitted):
        model = dataclasses.replace(distributed.whole(fitted.model), encode=learner.encode)
        return fitted._replace(model=model)

    def run(place):
        along: dict[int, Fitted] = {}

        def kept(fitted):
            along[fitted.step] = whole(fitted)
            if keep is not None:
                keep(place, along[fitted.step])

        def watched(steps, state):
            taken[place] = steps
            line.n = sum(taken)
            line.refresh()

        options: Any = {"at": at, "keep": kept, "report_every": REPORT_EVERY}
        options |= {"watch": watched} if shows else {}
        save = checkpoints and checkpoints[place]
        # LAPACK's matrices are small, and its further threads would take cores from the other
        # loops.
        with jax.enable_x64(precise), LOOPS, one_blas_thread():
            end = whole(program.run(*inputs[place], save, **options))
        # A fit that stops by itself at a requested step keeps that model twice; drop one.
        along.pop(end.step, None)
        return Fit(end, along, program.compile_seconds, device).on(before[place])

    with line, concurrent.futures.ThreadPoolExecutor(at_once(mesh)) as pool:
        return list(pool.map(run, range(len(tasks))))


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


def _fit_on_host(learner, data, key, base, num_latents):
    """Fits one seed after the other: learners in Python hold the interpreter and would slow each
    other down.
    """
    began = time.perf_counter()
    model = learner.learn(data, num_latents=num_latents, key=key, **base)
    end = Fitted(learner.num_steps, model, time.perf_counter() - began)
    return Fit(end, {}, 0.0, devices.describe())


def _checked(learner, tasks, keys, at):
    """The key of each task, after a check of all arguments; see `fit` for these."""
    check_type("learner", learner, Learner, "give one of those in sae_gap.learners")
    check_sequence("tasks", tasks, Task, "give what sae_gap.draw or sae_gap.load returns")
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
    mapped = isinstance(signals, np.memmap) or not getattr(signals, "is_fully_addressable", True)
    if not mapped and not np.isfinite(signals).all():
        raise ValueError(
            "the training signals of a task have a NaN or an infinity; drop or mend those samples."
        )
