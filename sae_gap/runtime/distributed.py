"""Many processes, one program: how they find each other, agree on what only one of them can know, and share the samples.

JAX's distributed runtime does the talking. Every process runs the same program on the same data; the first one alone reads and
writes files, and tells the others what it found, so that all take the same path even where they share no file system. In a
process by itself nothing here costs or changes anything.
"""

import os
import pickle
import re
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from sae_gap.runtime.roll_call import RollCall

T = TypeVar("T")

# Seconds after which a process that says nothing counts as dead, and all others end.
HEARTBEAT = 30
# Of the others' leave to end together.
_FAREWELL = 3
# Seconds by which JAX's own limit lies behind ours: it ends a process by a stack trace.
_LATER = 60
_SMALLEST = 1_024
# Seconds that CPUs wait for each other, where XLA would give up after half an hour: the first process may take longer over what
# it alone does. One that is dead is noticed otherwise.
_WAIT = "xla_cpu_collective_timeout_seconds", 7 * 86_400
# Options of JAX by which processes compile programs that cannot talk to each other, or draw other numbers.
_OPTIONS = (
    "jax_enable_x64",
    "jax_numpy_dtype_promotion",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_disable_jit",
    "jax_debug_nans",
)
# How the errors of collectives begin or name what failed: XLA's status codes, and the libraries that carry them.
_LOST = re.compile(r"\b(Gloo|NCCL|RCCL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|coordination service)\b", re.IGNORECASE)


def start(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None, *, timeout: int = 120
):
    """Joins the other processes; to be called before anything else of JAX.

    Without arguments JAX asks where it runs: TPU slices, Slurm's `srun`, Open MPI and Kubernetes tell it. A process that dies
    later ends all others within `HEARTBEAT` seconds. One that waits for it fails with an error, of which `is_lost` is true. One
    that computes by itself JAX aborts, with a stack trace and exit code 134: `jax.distributed.initialize` takes no function to
    call instead, and its clients end within milliseconds of process 0. The option `jax_enable_recoverability` spares those that
    compute where another than process 0 dies, but then nobody would notice a host that is gone without a word.

    Args:
      coordinator: `host:port` of the process 0, at a port that is free there.
      num_processes: how many there are.
      process_id: which one this is, from 0.
      timeout: seconds to wait for all to be there. Whoever waits in vain ends, by one sentence and exit code 2: what JAX has
        begun by then can be stopped in no other way.

    Raises:
      ValueError: some arguments are given and others not, or they fit neither each other nor the processes that came, or
        without arguments nothing tells where the others are. Or processes differ in their devices or in options of JAX.
    """
    if jax.distributed.is_initialized():
        raise ValueError("the processes have been joined already; start them once, before anything else.")
    given = (coordinator, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise ValueError(
            "coordinator, num_processes and process_id must be given together, or none where JAX finds them itself."
        )
    if timeout < 1:
        raise ValueError(f"timeout must be 1 second or more, but it is {timeout}.")
    if coordinator is not None and num_processes is not None and process_id is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise ValueError(f"coordinator must read host:port, such as 10.0.0.1:1234, but it is {coordinator!r}.")
        if num_processes < 1:
            raise ValueError(f"num_processes must be 1 or more, but it is {num_processes}.")
        if not 0 <= process_id < num_processes:
            raise ValueError(
                f"process_id must be from 0 to {num_processes - 1}, one less than num_processes, but it is {process_id}."
            )
        RollCall(coordinator, num_processes, process_id, timeout).hold()
    # Its signal handler would keep a process alive that is asked to end; what it would save is saved anyway.
    jax.config.update("jax_enable_preemption_service", False)
    flags, (name, seconds) = os.environ.get("XLA_FLAGS", ""), _WAIT
    if name not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{name}={seconds}".strip()
    watch = threading.Timer(timeout, _give_up, (coordinator, timeout))
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=timeout + _LATER,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=HEARTBEAT,
        )
    except (ValueError, RuntimeError) as error:
        if given != (None, None, None):
            raise ValueError(f"the processes cannot be joined ({' '.join(str(error).split())}).") from error
        raise ValueError(
            "neither a TPU slice nor Slurm tells where the other processes are; give coordinator, num_processes and process_id."
        ) from error
    finally:
        watch.cancel()
    counts = np.bincount([device.process_index for device in jax.devices()])
    if len(set(counts)) > 1:
        raise ValueError(f"all processes must have as many devices, but they have {', '.join(map(str, counts))}.")
    # Connects them, so that from here on each notices at once when another is gone.
    compare({name.upper(): jax.config.values.get(name) for name in _OPTIONS})


def _give_up(coordinator: str | None, timeout: int) -> None:
    where = "the coordinator" if coordinator is None else f"the coordinator {coordinator}"
    _exit(
        f"{where} did not answer within {timeout} s, or not all processes came; check its address and how many were started.", 2
    )


def _exit(sentence: str, code: int) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()
    os._exit(code)


def count() -> int:
    """How many processes run together; 1 unless `start` joined them."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def index() -> int:
    """Which of them this process is, from 0."""
    return jax.process_index() if count() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that reads and writes files and speaks to the user."""
    return index() == 0


def on_first(do: Callable[[], T]) -> T | None:
    """What `do` gives in the first process, which alone calls it; None in the others. Its error is raised in all."""
    found: list[T] = []

    def called() -> None:
        found.append(do())

    agree(called)
    return found[0] if found else None


def agree(find: Callable[[], T]) -> T:
    """What `find` gives in the first process, which alone calls it, for all to go on with. Its error is raised in all.

    Args:
      find: whose result or error can be pickled, which is safe between processes of one program.
    """
    if count() == 1:
        return find()
    found, fault = b"", None
    if is_first():
        try:
            found = pickle.dumps((find(), None))
        except Exception as error:
            found, fault = pickle.dumps((None, _portable(error))), error
    result, told = pickle.loads(_broadcast(found))
    if told is not None:
        raise told if fault is None else fault
    return result


def _portable(error: Exception) -> Exception:
    """An error as it is or, where it has no pickled form, as its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def same(value: T) -> T:
    """The value that the first process has, for all to go on with."""
    return agree(lambda: value)


def together(do: Callable[[], T]) -> T:
    """What `do` gives here, once it has gone well in all processes.

    Raises:
      ValueError: in the others, where it fails in one, whose own error is raised there.
    """
    result: list[T] = []
    fault = None
    try:
        result.append(do())
    except Exception as error:
        fault = error
    faults = gather(None if fault is None else str(fault))
    if fault is not None:
        raise fault
    for index, sentence in enumerate(faults):
        if sentence is not None:
            raise ValueError(f"process {index} cannot go on: {sentence}")
    return result[0]


def gather(value: T) -> list[T]:
    """The values of all processes, in their order, in each of them. They must have a pickled form."""
    if count() == 1:
        return [value]
    return [pickle.loads(message) for message in _gather(pickle.dumps(value))]


def whole(tree: PyTree) -> PyTree:
    """The arrays of a tree that span processes, each whole in the memory of this one; all processes must ask. Others stay."""

    def held(leaf):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            return leaf
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(held(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        if leaf.is_fully_replicated:
            return jax.numpy.asarray(np.asarray(leaf.addressable_data(0)))
        return jax.numpy.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(held, tree)


def share(num_samples: int) -> np.ndarray:
    """The rows that this process works on, (rows,): as many in each, so that all compile the same; beyond the end the last.

    Pieces that are joined in the order of the processes hold the `num_samples` rows in their order, then those of no use.
    """
    rows = -(-num_samples // count())
    first = rows * index()
    return np.minimum(np.arange(first, first + rows), num_samples - 1)


def compare(described: Mapping[str, Any]) -> None:
    """Checks that all processes were started alike, before any of them does something.

    Args:
      described: what must be the same, by the name to call it; values with a `str`.

    Raises:
      ValueError: in all processes, if one differs from the first; says which, and in what.
    """
    every = gather({name: str(value) for name, value in described.items()})
    for index, other in enumerate(every):
        differing = [name for name in {**every[0], **other} if every[0].get(name) != other.get(name)]
        if differing:
            told = ", ".join(f"{name} ({_short(other.get(name))}, not {_short(every[0].get(name))})" for name in differing[:3])
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise ValueError(f"process {index} differs from process 0 in {told}{more}; start all processes alike.")


def _short(text: str | None) -> str:
    return "nothing" if text is None else text if len(text) <= 60 else f"{text[:57]}..."


def is_lost(error: BaseException | None) -> bool:
    """Whether an error says that another process has ended or cannot be reached."""
    return count() > 1 and error is not None and _LOST.search(str(error)) is not None


def leave(code: int) -> None:
    """Ends a process that has failed. Where all have failed alike they end together; the others are not waited for."""
    if count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        threading.Timer(_FAREWELL, os._exit, (code,)).start()
        jax.distributed.shutdown()
        os._exit(code)


def _broadcast(message: bytes) -> bytes:
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(message))))
    return multihost_utils.broadcast_one_to_all(_padded(message, size))[:size].tobytes()


def _gather(message: bytes) -> list[bytes]:
    sizes = multihost_utils.process_allgather(np.int32(len(message)))
    found = multihost_utils.process_allgather(_padded(message, int(sizes.max())))
    return [row[:size].tobytes() for row, size in zip(found, sizes, strict=True)]


def _padded(message: bytes, size: int) -> np.ndarray:
    """A message of a size that few others have, since each is compiled for."""
    padded = np.zeros(max(_SMALLEST, 1 << (size - 1).bit_length()), np.uint8)
    padded[: len(message)] = np.frombuffer(message, np.uint8)
    return padded


__all__ = [
    "HEARTBEAT",
    "agree",
    "compare",
    "count",
    "gather",
    "index",
    "is_first",
    "is_lost",
    "leave",
    "on_first",
    "same",
    "share",
    "start",
    "together",
    "whole",
]
