"""Devices: the mesh over all of them, the place of data on it, and the cache of compiled programs.

Samples are sharded over all devices, since every cost that grows is a sum or a map over them. Every
device has the whole dictionary.
"""

import os
import platform
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import device_put
from jax.random import key_data, key_impl, wrap_key_data
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding
from jax.tree_util import tree_map
from jaxtyping import Array, PyTree
from numpy import arange

from sae_gap.core import float_type
from sae_gap.runtime import SAMPLES, check_mesh
from sae_gap.runtime.distributed import is_key


def mesh() -> Mesh:
    """All devices of all processes, on an axis `samples`."""
    return _of_samples(jax.devices())


def has_devices() -> bool:
    """True if JAX finds a device of the platforms that it was asked for."""
    # JAX raises an AssertionError if a plugin is missing.
    with suppress(RuntimeError, AssertionError):
        return bool(jax.local_devices())
    return False


def own_mesh() -> Mesh:
    """The devices of this process on an axis `samples`; a single process has all."""
    return _of_samples(jax.local_devices())


def spans_processes(mesh: Mesh) -> bool:
    """True if a mesh has devices of other processes."""
    return len({device.process_index for device in mesh.devices.flat}) > 1


def _of_samples(chosen: Any) -> Mesh:
    return jax.make_mesh(
        (len(chosen),), (SAMPLES,), devices=chosen, axis_types=(AxisType.Auto,)
    )


def place(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts the arrays of a tree on the devices of a mesh, sharded along their leading axis where it
    divides evenly.

    Meant for a split, whose leading axis is its samples; any other array gives the same results,
    perhaps more slowly. If the leading axis does not divide, every device gets a copy, since
    dropping or adding samples would change what is learned. The devices still share the work on it
    where that changes nothing: the coder pads the samples with zeros, and training shards its
    batches. With several processes, each must pass the same whole arrays.

    Args:
      tree: arrays in any tree; leaves that are not arrays stay as they are.
      mesh: the devices, from `mesh`.

    Returns:
      The tree with its arrays placed.

    Raises:
      TypeError: `mesh` is not a mesh.
      ValueError: it has no axis `samples`, or explicit axes.
    """
    return _put_all(tree, mesh, lambda leaf: _rows_of_each(leaf.shape, mesh))


def _rows_of_each(shape: tuple[int, ...], mesh: Mesh) -> Any:
    """Shards the rows if they divide."""
    return (
        PartitionSpec(SAMPLES)
        if shape and shape[0] % mesh.shape[SAMPLES] == 0
        else PartitionSpec()
    )


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Puts the arrays of a tree, which all samples share, whole on every device of a mesh."""
    return _put_all(tree, mesh, lambda leaf: PartitionSpec())


def _put_all(tree: PyTree, mesh: Mesh, spec: Any) -> PyTree:
    check_mesh(mesh)

    def put_leaf(leaf: Any) -> Any:
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            return leaf
        # One device needs no sharding, and a caller may move an uncommitted array.
        if mesh.size == 1:
            return jnp.asarray(leaf)
        return put(leaf, NamedSharding(mesh, spec(leaf)))

    return tree_map(put_leaf, tree)


def put(array: jax.Array | np.ndarray, sharding: Sharding) -> jax.Array:
    """Puts an array on devices, also those of other processes; each process must pass the same
    whole array.

    An array that lies on the devices of several processes already is moved between them.
    """
    if sharding.is_fully_addressable or not getattr(
        array, "is_fully_addressable", True
    ):
        return device_put(array, sharding)
    if is_key(array):
        return wrap_key_data(put(key_data(array), sharding), impl=key_impl(array))
    # Each process brings its own devices' part, and reads no more of a mapped file. `device_put`
    # would send the whole array around to check that it is the same.
    held = np.asarray(array)
    return jax.make_array_from_callback(held.shape, sharding, lambda index: held[index])


def read_rows(
    take: Callable[[np.ndarray], np.ndarray], num_samples: int, width: int
) -> Array:
    """Reads rows in the default float type; each of several processes reads those of its own
    devices, as `place` shards them.

    Args:
      take: returns the rows of some numbers, as `Activations.take` does.
      num_samples: number of rows.
      width: the width of a row.

    Returns:
      The rows, (num_samples, width), uncommitted in one process, and sharded over the devices of
      several.
    """
    dtype = float_type()
    everywhere = mesh()
    if everywhere.size == len(jax.local_devices()):
        return jnp.asarray(take(arange(num_samples)), dtype)
    shape = num_samples, width
    sharding = NamedSharding(everywhere, _rows_of_each(shape, everywhere))

    def read(index: Any) -> Any:
        return take(arange(*index[0].indices(num_samples))).astype(dtype)

    return jax.make_array_from_callback(shape, sharding, read)


def enable_compilation_cache() -> Path | None:
    """Keeps compiled programs in the user's cache folder, so that a second run of the same shapes
    compiles nothing.

    A folder that the user set by `JAX_COMPILATION_CACHE_DIR` is kept, and so is a least time set by
    `JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS`.

    Returns:
      The folder, or None if it cannot be written to, so that every run compiles its programs.
    """
    try:
        folder = Path(
            jax.config.values.get("jax_compilation_cache_dir")
            or cache_home() / "sae_gap" / "jax"
        )
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # The default of a second leaves out most programs of a small study, whose many compilations
        # add up.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return folder


def compilations() -> int:
    """Number of programs that this process has compiled, or taken from the cache."""
    return _events["/jax/core/compile/backend_compile_duration"]


# How often JAX has reported each of its events.
_events = Counter[str]()
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: _events.update([event])
)


def peak_memory() -> float:
    """The peak memory of this process so far, in GiB."""
    with suppress(OSError):
        # On Linux `getrusage` also counts the process that started this one.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    most = getrusage(RUSAGE_SELF).ru_maxrss
    # In kilobytes, on Apple's systems in bytes.
    return most / (2**30 if sys.platform == "darwin" else 2**20)


def describe() -> str:
    """Names the devices of all processes, for the rows: times compare only between equal devices.


    Returns:
      For example `4 x NVIDIA H100 80GB HBM3`, or `1 x cpu (AMD EPYC)`.
    """
    kind = jax.devices()[0].device_kind
    processor = f" ({_processor()})" if kind == "cpu" else ""
    return f"{jax.device_count()} x {kind}{processor}"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def cache_home() -> Path:
    """The user's cache folder, by the XDG convention."""
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The convention ignores a relative path, which would scatter caches over working folders.
    return chosen if chosen.is_absolute() else Path.home() / ".cache"
