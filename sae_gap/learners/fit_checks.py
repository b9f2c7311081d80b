"""What a fit asks of its arguments."""

import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.core.checks import check_integer, check_sequence, check_size, check_type, shown
from sae_gap.core.types import SPLITS, Model, Task
from sae_gap.learners.learner import Learner


def check_fit(learner: Any, tasks: Any, keys: Any, at: Any, bases: Any) -> None:
    """Refuses what cannot be fitted, before a program is compiled for it; see `sae_gap.fit` for what each should be."""
    check_type("learner", learner, Learner, "give one of those in sae_gap.learners")
    check_sequence("tasks", tasks, Task, "give what sae_gap.draw or sae_gap.load returns")
    for task in tasks:
        signals = task.train.signals
        if not hasattr(signals, "dtype") or not hasattr(signals, "shape"):
            raise TypeError(f"the training signals of a task must be an array, but they are {shown(signals)}.")
        if len(signals.shape) != 2 or 0 in signals.shape or not jnp.issubdtype(signals.dtype, jnp.floating):
            raise ValueError(
                "the training signals of a task must be a matrix (samples, input_dim) of float32, but they are "
                f"{shown(signals)}."
            )
    shapes = [_shape(task) for task in tasks]
    if len(set(shapes)) > 1:
        other = next(shape for shape in shapes if shape != shapes[0])
        raise ValueError(f"tasks must have one shape, but one has {shapes[0]} and another {other}; fit them apart.")
    check_size("width", tasks[0].width)
    for task in tasks:
        signals = task.train.signals
        # A mapped file was looked through when it was opened, and what lies on other hosts is theirs.
        whole = isinstance(signals, np.ndarray | jax.Array) and not isinstance(signals, np.memmap)
        if whole and getattr(signals, "is_fully_addressable", True) and not np.isfinite(signals).all():
            raise ValueError("the training signals of a task have a NaN or an infinity; drop or mend those samples.")
    if (
        learner.base is not None
        and "base" not in inspect.signature(learner.learn if learner.on_host else learner.init).parameters
    ):
        raise ValueError(f"{learner.name} goes on from no other learner's model, but has a base; leave it out.")
    if not isinstance(keys, Sequence | jax.Array) or isinstance(keys, str) or len(keys) != len(tasks):
        raise ValueError(f"keys must be {len(tasks)}, one for each task, but they are {shown(keys)}; see jax.random.key.")
    for key in keys:
        check_key("a key", key)
    check_steps(at)
    if bases is not None:
        check_sequence("bases", bases, Model, "give a model for each task")
        if len(bases) != len(tasks):
            raise ValueError(f"bases must be {len(tasks)}, one for each task, but they are {len(bases)}.")
        if learner.base is None:
            raise ValueError(f"{learner.name} goes on from no base, but bases are given; leave them out.")
        for base in bases:
            if not all(np.isfinite(part).all() for part in (base.decoder, base.bias)):
                raise ValueError("the model of a base has a NaN or an infinity; fit it anew, or give another.")


def check_steps(at: Any) -> None:
    """Refuses what is no list of steps of a fit."""
    if not isinstance(at, Sequence | np.ndarray | range) or isinstance(at, str):
        raise TypeError(f"at must be a list of steps, but it is {shown(at)}; give () for none.")
    for step in at:
        check_integer("at", step, least=0)


def _shape(task: Task) -> str:
    """What the tasks of a fit share, in words."""
    sizes = ", ".join(f"{name} {np.shape(getattr(task, name).signals)}" for name in SPLITS)
    return f"{sizes} and {task.width} atoms"


def check_key(name: str, key: Any) -> None:
    """Raises a TypeError unless something is one random key, as `jax.random.key` makes it, or of the older form."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    older = isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.shape == (2,)
    if not (typed or older):
        raise TypeError(f"{name} must be one random key, but it is {shown(key)}; give jax.random.key(0).")


__all__ = ["check_fit", "check_key", "check_steps"]
