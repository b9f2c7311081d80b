"""What every learner is, and the one loop that runs them all."""

import time
from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray, PyTree

from sae_gap.types import Model, Split, Task


class Learner(eqx.Module):
    """Frozen hyper-parameters and pure methods; what changes is the state that they pass on.

    Float hyper-parameters enter the compiled loop as arrays, so a sweep over them compiles once. Whatever sets a shape or a
    loop length is a static field. A subclass defines `init`, `step` and `model`, and may define `select` and `done`.
    """

    num_steps: eqx.AbstractVar[int]
    # Whether seeds train side by side. A learner whose steps fill the machine, or whose seeds stop at different times, says no.
    side_by_side: ClassVar[bool] = True

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

    def done(self, state: PyTree) -> Bool[Array, ""] | None:
        """Whether to stop before `num_steps`; None never asks."""
        return None


class Fit(eqx.Module):
    """The models of a batch of seeds, with the steps each took and the seconds that compiling and fitting took in all."""

    models: list[Model]
    num_steps: list[int]
    compile_seconds: float
    fit_seconds: float


def fit(learner: Learner, tasks: Sequence[Task], keys: Sequence[PRNGKeyArray]) -> Fit:
    """Fits a learner to each task, with its own key; the tasks share their shapes.

    The whole training is one compiled loop, with the tasks as a vmapped axis where `learner.side_by_side` allows it.

    Args:
      learner: what to fit.
      tasks: one for each seed, of equal shapes.
      keys: one for each task.

    Returns:
      The fitted models, in the order of the tasks.
    """
    num_latents = tasks[0].num_latents
    data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(learner.select(task) for task in tasks))
    arguments = (_floats_to_arrays(learner), data, jnp.stack(keys))
    started = time.perf_counter()
    compiled = _fit_all.lower(*arguments, num_latents).compile()
    compiled_at = time.perf_counter()
    models, steps = jax.block_until_ready(compiled(*arguments, num_latents))
    finished = time.perf_counter()
    return Fit(
        models=[jax.tree.map(lambda leaf, seed=seed: leaf[seed], models) for seed in range(len(tasks))],
        num_steps=[int(count) for count in steps],
        compile_seconds=compiled_at - started,
        fit_seconds=finished - compiled_at,
    )


@eqx.filter_jit
def _fit_all(learner: Learner, data: PyTree, keys: PRNGKeyArray, num_latents: int) -> tuple[Model, Array]:
    def fit_one(seed_inputs):
        data, key = seed_inputs
        state = learner.init(data, num_latents=num_latents, key=key)
        if learner.num_steps == 0:
            return learner.model(state), jnp.asarray(0)
        if learner.done(state) is None:
            state = jax.lax.fori_loop(0, learner.num_steps, lambda _, state: learner.step(data, state), state)
            return learner.model(state), jnp.asarray(learner.num_steps)

        def unfinished(carry):
            count, state = carry
            return (count < learner.num_steps) & ~learner.done(state)

        count, state = jax.lax.while_loop(unfinished, lambda carry: (carry[0] + 1, learner.step(data, carry[1])), (0, state))
        return learner.model(state), jnp.asarray(count)

    over_seeds: Any = jax.vmap if learner.side_by_side else lambda function: lambda inputs: jax.lax.map(function, inputs)
    return over_seeds(fit_one)((data, keys))


def _floats_to_arrays(learner: Learner) -> Learner:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, learner)
