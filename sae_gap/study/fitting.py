"""Fits of a learner to tasks, a seed each: one compiled loop for all, on every core or side by side."""

import concurrent.futures
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray, PyTree

from sae_gap.core.checks import check_callable, check_flag, check_sequence
from sae_gap.core.types import Model, Task
from sae_gap.learners.fit_checks import check_fit
from sae_gap.learners.learner import Learner
from sae_gap.runtime import devices, distributed, progress
from sae_gap.runtime.cores import LOOPS, cores, one_blas_thread
from sae_gap.storage.trees import Checkpoint
from sae_gap.study.program import Fitted, Program


@dataclasses.dataclass(frozen=True)
class Fit:
    """A finished fit of one seed.

    Attributes:
      end: the last model.
      along: the models at the requested steps before the end.
      compile_seconds: of the program, which all seeds of a call share.
      device: what it was fitted on, in words: its seconds are that device's.
    """

    end: Fitted
    along: Mapping[int, Fitted]
    compile_seconds: float
    device: str

    def at(self, step: int | None) -> Fitted:
        """The model at a step. The last model stands for every later step, and for None."""
        return self.end if step is None or step >= self.end.step else self.along[step]


def fit(
    learner: Learner,
    tasks: Sequence[Task],
    keys: Sequence[int | PRNGKeyArray],
    *,
    at: Sequence[int] = (),
    bases: Sequence[Model] | None = None,
    side_by_side: bool | None = None,
    checkpoints: Sequence[Checkpoint] | None = None,
    keep: Callable[[int, Fitted], None] | None = None,
    watch: Callable[[int, int], None] | None = None,
    show_progress: bool = True,
    mesh: Mesh | None = None,
) -> list[Fit]:
    """Fits a learner to each task, with its own key; the tasks share their shapes.

    Training a seed is one compiled loop. Side by side, all seeds are one loop with the seeds as a vmapped axis: an accelerator
    fits them in little more than the time of one. On a CPU that gains nothing, so each core runs the loop of one seed in a
    thread, and a seed's bits do not depend on the other seeds. Calls from several threads share the cores.

    The loop pauses at the requested steps and, with checkpoints, now and then to save its state. A fit that was killed goes on
    from there and ends with the same bits; the seconds before the kill count.

    Args:
      learner: what to fit.
      tasks: one for each seed, of equal shapes.
      keys: one for each task; an integer i stands for `jax.random.key(i)`.
      at: steps whose models are kept, beside the last.
      bases: the models of the learner's base, one for each task; None fits them here.
      side_by_side: whether seeds are vmapped; None does so off the CPU, where the learner allows it.
      checkpoints: one for each task; side by side, the first is that of all. A learner on the host has no use for them.
      keep: called with the number of a task and each model that is kept, as soon as it is there.
      watch: called now and then with the number of a task and the steps that it has taken.
      show_progress: whether to show a line of progress on a terminal or in a notebook.
      mesh: the devices to fit on, see `devices.mesh`; None takes those of this process. If it spans processes, all of them call
        this alike.

    Returns:
      A fit for each task.

    Raises:
      TypeError: an argument is not of the class that it should be of.
      ValueError: there is no task, tasks differ in their shapes or are not finite, or there are more or fewer keys than tasks.
    """
    keys = check_fit(learner, tasks, keys, at, bases)
    for name, call in (("keep", keep), ("watch", watch)):
        if call is not None:
            check_callable(name, call, "(number of a task, ...) -> None")
    if side_by_side is not None:
        check_flag("side_by_side", side_by_side)
    if checkpoints is not None:
        check_sequence("checkpoints", checkpoints, Checkpoint, "give sae_gap.storage.trees.Checkpoint(folder)")
        if len(checkpoints) != len(tasks):
            raise ValueError(f"checkpoints must be {len(tasks)}, one for each task, but they are {len(checkpoints)}.")
    if learner.base is not None and bases is None:
        own = fit(learner.base, tasks, keys, side_by_side=side_by_side, show_progress=show_progress, mesh=mesh)
        bases = [one.end.model for one in own]
    # What trained the base is of no use to what goes on from its numbers, and would compile anew for each kind.
    given = [{"base": dataclasses.replace(model, encode=None)} for model in bases] if bases is not None else [{} for _ in tasks]
    num_latents = int(tasks[0].width)
    inputs = [(learner.select(task), key, base) for task, key, base in zip(tasks, keys, given, strict=True)]
    if learner.on_host:
        return _fit_on_host(learner, inputs, num_latents)
    mesh = devices.own_mesh() if mesh is None else mesh
    inputs = [(devices.place(data, mesh), *devices.replicate(rest, mesh)) for data, *rest in inputs]
    saves: Sequence[Checkpoint | None] = [None] * len(inputs) if checkpoints is None else checkpoints
    if side_by_side is None:
        side_by_side = goes_side_by_side(learner)
    if side_by_side:
        inputs, saves = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *inputs)], saves[:1]
    with LOOPS:
        program = Program(learner, *inputs[0], num_latents, mesh, side_by_side=side_by_side)

    def by_seed(place: int, found: Fitted) -> list[tuple[int, Fitted]]:
        """The model of each seed in one loop, which holds all seeds where they run side by side."""
        whole = distributed.whole(found.model)
        models, share = {place: whole}, found.seconds
        if side_by_side:
            models = {s: jax.tree.map(lambda leaf, s=s: leaf[s], whole) for s in range(len(tasks))}
            share /= len(tasks)
        return [(s, Fitted(found.step, dataclasses.replace(one, encode=learner.encode), share)) for s, one in models.items()]

    along: list[dict[int, Fitted]] = [{} for _ in tasks]

    def kept(place: int, found: Fitted) -> None:
        for seed, one in by_seed(place, found):
            along[seed][one.step] = one
            if keep is not None:
                keep(seed, one)

    # Thread-local JAX configuration is not inherited.
    precise = bool(jax.config.values["jax_enable_x64"])

    line = progress.bar(len(inputs) * learner.num_steps, learner.name, unit="step", shown=show_progress)
    taken, shows = [0] * len(inputs), not line.disable
    if devices.spans_processes(mesh):
        # A watched loop pauses, and all processes must pause alike.
        shows = distributed.from_first(shows)

    def watched(place: int, steps: int) -> None:
        taken[place] = steps
        line.n = sum(taken)
        line.refresh()
        if watch is not None:
            watch(place, steps)

    def run(place: int):
        told = None if watch is None and not shows else functools.partial(watched, place)
        # LAPACK's matrices are small, and further threads of it would take the cores from the loops beside this one.
        with jax.enable_x64(precise), LOOPS, one_blas_thread():
            return program.run(*inputs[place], at, saves[place], functools.partial(kept, place), told)

    with line, concurrent.futures.ThreadPoolExecutor(at_once(mesh)) as pool:
        ended = list(pool.map(run, range(len(inputs))))
    fits, device = [], devices.describe()
    for place, (model, count, spent) in enumerate(ended):
        steps = np.broadcast_to(count, len(tasks))
        for seed, one in by_seed(place, Fitted(0, model, spent)):
            end = one._replace(step=int(steps[seed]))
            before = {step: found for step, found in along[seed].items() if step < end.step}
            fits.append(Fit(end, before, program.compile_seconds, device))
    return fits


def at_once(mesh: Mesh | None = None) -> int:
    """How many loops may run at once: one for each core of a CPU, and one on an accelerator or on several devices."""
    # Programs that run on several devices together must come in one order on all of them.
    mesh = devices.own_mesh() if mesh is None else mesh
    return cores() if jax.default_backend() == "cpu" and mesh.size == 1 else 1


def goes_side_by_side(learner: Learner) -> bool:
    """Whether the seeds of a learner are vmapped here unless someone says otherwise."""
    return learner.side_by_side and not learner.on_host and jax.default_backend() != "cpu"


def _fit_on_host(
    learner: Learner, inputs: Sequence[tuple[PyTree, PRNGKeyArray, dict[str, Model]]], num_latents: int
) -> list[Fit]:
    """One seed after the other: learners in Python hold the interpreter and would slow each other down."""
    fits, device = [], devices.describe()
    for data, key, base in inputs:
        began = time.perf_counter()
        model = learner.learn(data, num_latents=num_latents, key=key, **base)
        fits.append(Fit(Fitted(learner.num_steps, model, time.perf_counter() - began), {}, 0.0, device))
    return fits
