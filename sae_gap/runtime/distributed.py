"""Many processes, one program. JAX joins them; here is the little that the suite needs of it.

All processes run the same command and share a folder or a bucket for results. In a process by
itself nothing here costs or changes anything.
"""

import os
import pickle
import sys
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

T = TypeVar("T")


def start(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins the other processes, see `jax.distributed.initialize`; to be called before anything
    else of JAX.

    Args:
      coordinator: `host:port` of process 0; None asks the cluster: TPU slices, Slurm's `srun`, Open
        MPI and Kubernetes tell it.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      ValueError: some arguments are given and others not, or nothing tells where the others are.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise ValueError(
            "coordinator, num_processes and process_id go together; give all, or none in a cluster."
        )
    # Its handler of signals would keep a process alive that is asked to end; what it would save is
    # saved anyway.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except ValueError as error:
        # A process that does not come in time is no fault of the user's: JAX's error stays, so that
        # a cluster starts all again.
        raise ValueError(
            f"the processes cannot be joined ({' '.join(str(error).split())})."
        ) from error


def count() -> int:
    """How many processes run together; 1 unless `start` joined them."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Which of them this process is, from 0."""
    return jax.process_index() if count() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes what all have made together, and speaks to the
    user.
    """
    return index() == 0


def wait(name: str) -> None:
    """Returns once all processes have called it."""
    if count() > 1:
        multihost_utils.sync_global_devices(name)


def gather(value: T) -> list[T]:
    """The values of all processes, in their order, in each of them. They must have a pickled
    form.
    """
    if count() == 1:
        return [value]
    message = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = np.ravel(multihost_utils.process_allgather(np.int32(len(message))))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(message)] = message
    messages = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:size].tobytes()) for row, size in zip(messages, sizes, strict=True)]


def from_first(value: T) -> T:
    """The value that the first process has."""
    return gather(value)[0]


def whole(tree: PyTree) -> PyTree:
    """The arrays of a tree that span processes, each whole in the memory of this one; all processes
    must ask. Others stay.
    """

    def fetch(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                fetch(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf)
            )
        if leaf.is_fully_replicated:
            return jax.numpy.asarray(np.asarray(leaf.addressable_data(0)))
        return jax.numpy.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(fetch, tree)


def leave(code: int) -> None:
    """Ends this process at once, without waiting for the others; in a process by itself it does
    nothing.
    """
    if count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
