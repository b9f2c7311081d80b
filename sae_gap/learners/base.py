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


def fit(learner: Learner, tasks: Sequence[Task], keys: Sequence[PRNGKeyArray], *, side_by_side: bool | None = None) -> Fit:
    """Fits a learner to each task, with its own key; the tasks share their shapes.

    The whole training of a seed is one compiled loop. Side by side, all seeds are one loop with the seeds as a vmapped axis: an
    accelerator then does them in little more than the time of one. On a CPU that gains nothing per seed, so there the loop
    of one seed runs on a thread for each core instead, and a seed's bits do not depend on which others it is fitted with.

    Args:
      learner: what to fit.
      tasks: one for each seed, of equal shapes.
      keys: one for each task.
      side_by_side: whether seeds are vmapped; None does so off the CPU, where the learner allows it.

    Returns:
      The fitted models, in the order of the tasks.
    """
    if learner.on_host:
        return _fit_on_host(learner, tasks, keys)
    num_latents = tasks[0].num_latents
    inputs = [(learner.select(task), key) for task, key in zip(tasks, keys, strict=True)]
    if side_by_side is None:
        side_by_side = learner.side_by_side and jax.default_backend() != "cpu"
    if side_by_side:
        inputs = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *inputs)]
    arrays = _floats_to_arrays(learner)
    started = time.perf_counter()
    compiled = _fit.lower(arrays, *inputs[0], num_latents, side_by_side).compile()  # type: ignore[attr-defined]
    compiled_at = time.perf_counter()

    def run(one):
        began = time.perf_counter()
        return jax.block_until_ready(compiled(arrays, *one, num_latents, side_by_side)), time.perf_counter() - began

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() if jax.default_backend() == "cpu" else 1) as pool:
        timed = list(pool.map(run, inputs))
    wall_seconds = time.perf_counter() - compiled_at
    outcomes, seconds = [outcome for outcome, _ in timed], [spent for _, spent in timed]
    if side_by_side:
        seconds = [seconds[0] / len(tasks)] * len(tasks)
        outcomes = [jax.tree.map(lambda leaf, seed=seed: leaf[seed], outcomes[0]) for seed in range(len(tasks))]
    return Fit(
        models=[dataclasses.replace(model, encode=learner.encode) for model, _ in outcomes],
        num_steps=[int(steps) for _, steps in outcomes],
        fit_seconds=seconds,
        wall_seconds=wall_seconds,
        compile_seconds=compiled_at - started,
    )


def _fit_on_host(learner: Learner, tasks: Sequence[Task], keys: Sequence[PRNGKeyArray]) -> Fit:
    """One seed after the other, since what a learner in Python holds of the interpreter would slow those beside it."""
    models, seconds = [], []
    for task, key in zip(tasks, keys, strict=True):
        began = time.perf_counter()
        models.append(learner.learn(learner.select(task), num_latents=task.num_latents, key=key))
        seconds.append(time.perf_counter() - began)
    return Fit(models, [learner.num_steps] * len(models), seconds, sum(seconds), 0.0)


@eqx.filter_jit
def _fit(learner: Learner, data: PyTree, key: PyTree, num_latents: int, side_by_side: bool) -> tuple[Model, Array]:
    def fit_one(data, key):
        return train(learner, data, num_latents=num_latents, key=key)

    return (jax.vmap(fit_one) if side_by_side else fit_one)(data, key)


def train(learner: Learner, data: PyTree, *, num_latents: int, key: PRNGKeyArray) -> tuple[Model, Int[Array, ""]]:
    """The whole training of one seed, and the steps it took: what `fit` compiles, and what a learner on top of another runs."""
    state = learner.init(data, num_latents=num_latents, key=key)
    if learner.num_steps == 0:
        return learner.model(state), jnp.asarray(0)
    if learner.done(state) is False:
        state = jax.lax.fori_loop(0, learner.num_steps, lambda _, state: learner.step(data, state), state)
        return learner.model(state), jnp.asarray(learner.num_steps)

    def unfinished(carry):
        count, state = carry
        return (count < learner.num_steps) & jnp.logical_not(learner.done(state))

    count, state = jax.lax.while_loop(unfinished, lambda carry: (carry[0] + 1, learner.step(data, carry[1])), (0, state))
    return learner.model(state), jnp.asarray(count)


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
