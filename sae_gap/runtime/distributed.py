"""Runs one program in many processes; JAX joins them.

All processes run the same command and share a folder or a bucket for results. In a single process
nothing here costs or changes anything.
"""

import os
import pickle
import sys
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import process_allgather, sync_global_devices
from jax.random import key_data, key_impl, wrap_key_data
from jax.tree_util import tree_map
from jaxtyping import PyTree

T = TypeVar("T")


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the other processes (`jax.distributed.initialize`); call it before any other use of
    JAX.

    Args:
      coordinator: `host:port` of process 0; None asks the cluster: TPU slices, Slurm's `srun`, Open
        MPI or Kubernetes.
      num_processes: number of processes.
      process_id: number of this one, from 0.

    Raises:
      ValueError: some arguments are given and others not, or the cluster does not know the others.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise ValueError(
            "coordinator, num_processes and process_id go together; give all, or none in a cluster."
        )
    # Its signal handler would keep a process alive that is asked to end; the suite saves its state
    # anyway.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except ValueError as error:
        # If a process does not arrive in time, the user is not at fault: JAX's error stays, so that
        # a cluster restarts all.
        raise ValueError(
            f"the processes cannot be joined ({' '.join(str(error).split())})."
        ) from error


def count() -> int:
    """Number of processes that run together; 1 unless `start` joined them."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Number of this process among them, from 0."""
    return jax.process_index() if count() > 1 else 0


def is_first() -> bool:
    """True if this process writes the joint results and speaks to the user."""
    return index() == 0


def wait(name: str) -> None:
    """Returns once all processes have called it."""
    if count() > 1:
        sync_global_devices(name)


def gather(value: T) -> list[T]:
    """The values of all processes, in their order, for each of them; values must be picklable."""
    if count() == 1:
        return [value]
    message = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = np.ravel(process_allgather(np.int32(len(message))))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(message)] = message
    messages = process_allgather(padded)
    return [
        pickle.loads(row[:size].tobytes())
        for row, size in zip(messages, sizes, strict=True)
    ]


def from_first(value: T) -> T:
    """The first process's value."""
    return gather(value)[0]


def is_key(leaf: Any) -> bool:
    """True for a random key."""
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def whole(tree: PyTree) -> PyTree:
    """A tree with its arrays that span processes fetched whole into this one's memory; all
    processes must call it together. Other leaves stay.
    """

    def fetch(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if is_key(leaf):
            return wrap_key_data(fetch(key_data(leaf)), impl=key_impl(leaf))
        if leaf.is_fully_replicated:
            return jnp.asarray(np.asarray(leaf.addressable_data(0)))
        return jnp.asarray(process_allgather(leaf, tiled=True))

    return tree_map(fetch, tree)


def leave(code: int) -> None:
    """Ends this process without waiting for the others; a single process goes on."""
    if count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
