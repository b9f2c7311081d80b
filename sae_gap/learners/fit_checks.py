"""What a fit asks of its arguments."""

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
        _check_signals(task.train.signals)
    shapes = {(*(np.shape(getattr(task, name).signals) for name in SPLITS), task.width) for task in tasks}
    if len(shapes) > 1:
        raise ValueError(f"tasks must have one shape and one width, but have {sorted(shapes)}; fit them apart.")
    check_size("width", tasks[0].width)
    if not isinstance(keys, Sequence | jax.Array) or isinstance(keys, str) or len(keys) != len(tasks):
        raise ValueError(f"keys must be {len(tasks)}, one for each task, but they are {shown(keys)}; see jax.random.key.")
    for key in keys:
        check_key("a key", key)
    check_steps(at)
    if bases is not None:
        check_sequence("bases", bases, Model, "give a model for each task")
        if learner.base is None or len(bases) != len(tasks):
            raise ValueError(f"bases must be one for each of {len(tasks)} tasks, of a learner that has a base; see its base.")


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


def check_key(name: str, key: Any) -> None:
    """Raises a TypeError unless something is one random key, as `jax.random.key` makes it, or of the older form."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()
    older = isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.shape == (2,)
    if not (typed or older):
        raise TypeError(f"{name} must be one random key, but it is {shown(key)}; give jax.random.key(0).")
