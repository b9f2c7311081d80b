"""Fits a learner to tasks, one for each seed: one compiled loop for all, on every core."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from equinox import filter_eval_shape
from jax import ShapeDtypeStruct, enable_x64
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree

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
from sae_gap.study import Fitted, Inputs, Pauses, Program, given_base, prepared


@dataclass(frozen=True)
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
        return replace(self, base_seconds=seconds)

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
    before: list[Any] = [None] * len(tasks)
    starts: Sequence[Model | None] = bases or [None] * len(tasks)
    if learner.base and bases is None:
        before = fit(learner.base, tasks, keys, show_progress=show_progress, mesh=mesh)
        starts = [base.end.model for base in before]
    inputs = [
        Inputs(learner.select(task), key, given_base(start), int(task.width))
        for task, key, start in zip(tasks, keys, starts, strict=True)
    ]
    shown = show_progress and not watch
    with progress.line(what=learner.name, unit="fits", shown=shown) as line:
        line.begin(range(len(tasks)))
        seeds = _Seeds(learner, inputs, at, checkpoints, keep, watch or line.report)
        if isinstance(learner, HostLearner):
            fits = seeds.fit_on_host(learner)
        else:
            fits = seeds.fit_in_loops(mesh or devices.own_mesh())
    return [fitted.on(base) for fitted, base in zip(fits, before, strict=True)]


@dataclass
class _Seeds:
    """The fits of a learner, of a seed each; the fields are the arguments of `fit`."""

    learner: Learner
    inputs: list[Inputs]
    at: Sequence[int]
    checkpoints: Sequence[Checkpoint] | None
    keep: Callable[[int, Fitted], None] | None
    watch: Callable[[int, float], None]

    def fit_on_host(self, learner: HostLearner) -> list[Fit]:
        """Fits one seed after the other: learners in Python hold the interpreter and would slow
        each other down.
        """
        fits = []
        for place, inputs in enumerate(self.inputs):
            self.watch(place, 0.0)
            began = perf_counter()
            data, key, base, num_latents = inputs
            model = learner.learn(data, num_latents=num_latents, key=key, **base)
            end = Fitted(learner.num_steps, model, perf_counter() - began)
            fits.append(Fit(end, {}, 0.0, devices.describe()))
            self.watch(place, 1.0)
        return fits

    def fit_in_loops(self, mesh: Mesh) -> list[Fit]:
        """Fits all seeds by one compiled program."""
        placed = []
        for inputs in self.inputs:
            data = devices.place(inputs.data, mesh)
            key, base = devices.replicate((inputs.key, inputs.base), mesh)
            placed.append(inputs._replace(data=data, key=key, base=base))
        with LOOPS:
            program = Program(self.learner, mesh, placed[0])
        # Threads do not inherit thread-local JAX configuration.
        precise = bool(jax.config.values["jax_enable_x64"])

        def run(place: int) -> Fit:
            # LAPACK's matrices are small, and its further threads would take cores from the other
            # loops.
            with enable_x64(precise), LOOPS, one_blas_thread():
                return self._run(program, place, placed[place])

        with ThreadPoolExecutor(at_once(mesh)) as pool:
            return list(pool.map(run, range(len(placed))))

    def _run(self, program: Program, place: int, inputs: Inputs) -> Fit:
        along = {}

        def keep(fitted: Fitted) -> None:
            along[fitted.step] = self._whole(fitted)
            if self.keep:
                self.keep(place, along[fitted.step])

        def watch(steps: int, state: PyTree) -> None:
            self.watch(place, steps / max(1, self.learner.num_steps))

        save = self.checkpoints[place] if self.checkpoints else None
        end = self._whole(program.run(inputs, Pauses(self.at, keep, save, watch)))
        # It may have stopped by itself.
        self.watch(place, 1.0)
        # A fit that stops by itself at a requested step keeps that model twice; drop one.
        along.pop(end.step, None)
        return Fit(end, along, program.compile_seconds, devices.describe())

    def _whole(self, fitted: Fitted) -> Fitted:
        model = distributed.whole(fitted.model)
        return fitted._replace(model=replace(model, encode=self.learner.encode))


def at_once(mesh: Mesh | None = None) -> int:
    """How many loops may run at once: one for each core of a CPU; one on an accelerator or on
    several devices.
    """
    # Programs on several devices together must start in the same order on all of them.
    mesh = mesh or devices.own_mesh()
    return cores() if jax.default_backend() == "cpu" and mesh.size == 1 else 1


def as_key(key: Any) -> PRNGKeyArray:
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
            f"a key must be an integer or one random key, but it is {shown(key)}; give 0 or "
            "jax.random.key(0)."
        )
    return key


def _checked(
    learner: Learner, tasks: Sequence[Task], keys: Sequence[Any], at: Sequence[int]
) -> list[PRNGKeyArray]:
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
    return [as_key(key) for key in keys]


def _check_signals(signals: Any) -> None:
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


def blank_model(
    learner: Learner, task: Task, key: PRNGKeyArray, base: Model | None = None
) -> Model:
    """The shapes of the model that a learner would end with, for reading one from a file.

    For a learner on the host, that is a dictionary with as many atoms as the task has latents, and
    nothing else.
    """
    if isinstance(learner, HostLearner):
        dtype = task.train.signals.dtype
        dictionary = ShapeDtypeStruct((task.input_dim, task.width), dtype)
        return Model(dictionary, ShapeDtypeStruct((task.input_dim,), dtype))  # type: ignore[arg-type]
    inputs = Inputs(learner.select(task), key, given_base(base), task.width)
    inner = prepared(learner)
    return filter_eval_shape(lambda given: inner.model(given.init(inner)), inputs)
