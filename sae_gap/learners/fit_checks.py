"""What a fit asks of its arguments."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from sae_gap.core.checks import check_integer, check_seed, check_sequence, check_size, check_type, is_integer, shown
from sae_gap.core.types import SPLITS, Model, Task
from sae_gap.learners.learner import Learner


def check_fit(learner: Any, tasks: Any, keys: Any, at: Any, bases: Any) -> list[PRNGKeyArray]:
    """Refuses what cannot be fitted, before a program is compiled for it; see `sae_gap.fit` for what each should be.

    Returns:
      The key of each task.
    """
    check_type("learner", learner, Learner, "give one of those in sae_gap.learners")
    check_sequence("tasks", tasks, Task, "give what sae_gap.draw or sae_gap.load returns")
    for task in tasks:
        _check_signals(task.train.signals)
    shapes = {(*(np.shape(getattr(task, name).signals) for name in SPLITS), task.width) for task in tasks}
    if len(shapes) > 1:
        raise ValueError(f"tasks must have one shape and one width, but have {sorted(shapes)}; fit them apart.")
    check_size("width", tasks[0].width)
    if not isinstance(keys, Sequence | jax.Array | np.ndarray) or isinstance(keys, str) or len(keys) != len(tasks):
        raise ValueError(f"keys must be {len(tasks)}, one for each task, but they are {shown(keys)}; give integers.")
    made = [as_key("a key", key) for key in keys]
    check_steps(at)
    if bases is not None:
        check_sequence("bases", bases, Model, "give a model for each task")
        if learner.base is None or len(bases) != len(tasks):
            raise ValueError(f"bases must be one for each of {len(tasks)} tasks, of a learner that has a base; see its base.")
    return made


def _check_signals(signals: Any) -> None:
    array = hasattr(signals, "dtype") and hasattr(signals, "shape")
    if not array or len(signals.shape) != 2 or 0 in signals.shape or not jnp.issubdtype(signals.dtype, jnp.floating):
        raise ValueError(
            f"the training signals of a task must be a matrix (samples, input_dim) of float32, but they are {shown(signals)}."
        )
    # A mapped file was looked through when it was opened, and what lies on other hosts is theirs.
    whole = isinstance(signals, np.ndarray | jax.Array) and not isinstance(signals, np.memmap)
    if whole and getattr(signals, "is_fully_addressable", True) and not np.isfinite(signals).all():
        raise ValueError("the training signals of a task have a NaN or an infinity; drop or mend those samples.")


def check_steps(at: Any) -> None:
    """Refuses what is no list of steps of a fit."""
    if not isinstance(at, Sequence | np.ndarray | range) or isinstance(at, str):
        raise TypeError(f"at must be a list of steps, but it is {shown(at)}; give () for none.")
    for step in at:
        check_integer("at", step, least=0)


def as_key(name: str, key: Any) -> PRNGKeyArray:
    """A random key: `jax.random.key(i)` for an integer i, and what already is one, in JAX's older form too, as it is.

    Raises:
      TypeError: it is neither.
      ValueError: the integer is below zero, or has more than 32 bits.
    """
    if is_integer(key):
        check_seed(key)
        return jax.random.key(int(key))
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    older = isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.shape == (2,)
    if not (typed or older):
        raise TypeError(f"{name} must be an integer or one random key, but it is {shown(key)}; give 0 or jax.random.key(0).")
    return key
