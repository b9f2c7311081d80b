"""The place of arrays on a mesh, and work that every device does on its own samples.

The mesh has an axis `SAMPLES`. Within `jax.jit` it is the mesh of `jax.set_mesh`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from jax import device_put, lax
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    get_abstract_mesh,
)
from jax.tree_util import tree_leaves, tree_map
from jaxtyping import Array, PyTree

from sae_gap.core import check_type

# The name of the axis.
SAMPLES = "samples"


def check_mesh(mesh: Any) -> None:
    """Raises a TypeError if this is no mesh, and a ValueError if it lacks the axis or has explicit
    ones.
    """
    check_type("mesh", mesh, Mesh, "make it by sae_gap.runtime.devices.mesh()")
    if SAMPLES not in mesh.axis_names:
        raise ValueError(
            f"the mesh has no axis {SAMPLES!r}; make it by sae_gap.runtime.devices.mesh()."
        )
    _check_auto(mesh)


def _check_auto(mesh: Any) -> None:
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            "the mesh must have axes of type jax.sharding.AxisType.Auto; make it by "
            "sae_gap.runtime.devices.mesh()."
        )


def mesh_of(*arrays: Any) -> Mesh | AbstractMesh | None:
    """The mesh whose devices share the work on samples, whether these are sharded or copied to
    every device.

    Traced arrays have no place yet; for them the mesh of the context counts.

    Returns:
      The mesh, or None for one device or an unknown number.

    Raises:
      ValueError: the mesh has axes that are not of type Auto.
    """
    mesh: Any = None
    if any(isinstance(array, jax.core.Tracer) for array in arrays):
        context = get_abstract_mesh()
        if SAMPLES in context.axis_names and not context.manual_axes:
            mesh = context
    else:
        for array in arrays:
            sharding = getattr(array, "sharding", None)
            if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1:
                mesh = sharding.mesh
    if mesh is None or mesh.size == 1:
        return None
    _check_auto(mesh)
    return mesh


def by_device(
    function: Callable[..., PyTree],
    mesh: Mesh | AbstractMesh | None,
    per_sample: PyTree,
    *shared: PyTree,
) -> PyTree:
    """`function(per_sample, *shared)`, where every device works on its own samples, without
    exchange between samples.

    Args:
      function: maps arrays with samples as rows, and those that all samples share, to arrays with
        the same samples as rows.
      mesh: the devices; None calls the function directly.
      per_sample: arrays of n rows. If they do not divide, rows of zeros are added and their results
        dropped.
      shared: arrays that every device has.

    Returns:
      The function's results for all samples.
    """
    if mesh is None:
        return function(per_sample, *shared)
    num_samples = tree_leaves(per_sample)[0].shape[0]
    spare = -num_samples % mesh.size
    rows = PartitionSpec(mesh.axis_names)
    mapped = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(rows, *(PartitionSpec() for _ in shared)),
        out_specs=rows,
        # Loops start with constants, equal on all devices, and end with values that differ.
        check_vma=False,
    )
    results = mapped(tree_map(lambda a: _padded(a, spare), per_sample), *shared)
    return tree_map(lambda a: a[:num_samples], results)


def _padded(array: Array, rows: int) -> Array:
    return jnp.pad(array, ((0, rows),) + ((0, 0),) * (array.ndim - 1))


def in_batches(run: Callable[[PyTree], PyTree], rows: PyTree, size: int) -> PyTree:
    """Applies `run` to at most `size` rows at a time; zeros fill up the last batch."""
    number = len(tree_leaves(rows)[0])
    if size >= number:
        return run(rows)
    batches = -(-number // size)

    def split(array: Array) -> Array:
        padded = _padded(array, batches * size - number)
        return padded.reshape(batches, size, *array.shape[1:])

    found = lax.map(run, tree_map(split, rows))
    return tree_map(lambda a: a.reshape(-1, *a.shape[2:])[:number], found)


def place_rows(tree: PyTree, like: Array) -> PyTree:
    """The arrays of a tree, their rows placed as the rows of `like`, if that is on a mesh."""
    sharding = getattr(like, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
        return tree
    rows = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))
    return tree_map(
        lambda leaf: device_put(leaf, rows) if isinstance(leaf, jax.Array) else leaf,
        tree,
    )


def num_parts() -> int:
    """Number of parts into which the compiler shards samples, by the mesh of the context.

    It is 1 without a mesh, and within `by_device`, where each device already has its own part.
    """
    mesh = get_abstract_mesh()
    return 1 if SAMPLES in mesh.manual_axes else mesh.shape.get(SAMPLES, 1)


def split_batch(batch: PyTree) -> PyTree:
    """Shards the rows of a batch, its samples, over the mesh of the context, for a training step.

    Every device then computes the gradients of its own samples, and one sum joins them. Without a
    mesh, or if the rows do not divide, the batch stays unchanged.
    """
    size = num_parts()

    def split(array: Array) -> Array:
        if size == 1 or len(array) % size:
            return array
        return lax.with_sharding_constraint(array, PartitionSpec(SAMPLES))

    return tree_map(split, batch)


def constrain(state: PyTree, data: PyTree) -> PyTree:
    """Constrains a training state: arrays with a row for each sample are placed as the samples, all
    others on every device.

    Otherwise the compiler would choose a place, perhaps a different one in each program that the
    state passes through.

    Args:
      state: arrays; one with as many rows as an array of the data has a row for each sample.
      data: arrays with samples as rows.

    Returns:
      The state with its place constrained; unchanged without a mesh in the context.
    """
    size = num_parts()
    counts = {
        len(leaf) for leaf in tree_leaves(data) if leaf.ndim and len(leaf) % size == 0
    }

    def put(leaf: Any) -> Any:
        by_sample = leaf.ndim and len(leaf) in counts
        return lax.with_sharding_constraint(
            leaf, PartitionSpec(SAMPLES) if by_sample else PartitionSpec()
        )

    return state if size == 1 else tree_map(put, state)


def within(tree: PyTree) -> AbstractContextManager:
    """The context for tracing with the mesh of a tree's arrays; on one device it sets no mesh."""
    mesh = mesh_of(*tree_leaves(tree))
    return jax.set_mesh(mesh) if isinstance(mesh, Mesh) else nullcontext()
