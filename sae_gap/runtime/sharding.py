"""Where arrays lie on a mesh, and work that every device does on its own samples.

The mesh has an axis `SAMPLES` and, for a dictionary sharded over several devices, an axis
`LATENTS`. Within `jax.jit` it is the mesh of `jax.set_mesh`.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from sae_gap.core.checks import check_type

# The names of the axes.
SAMPLES, LATENTS = "samples", "latents"


class Layout(NamedTuple):
    """The mesh axes that samples are sharded over, and the axis of the latents of the dictionary,
    if they are sharded.
    """

    mesh: Mesh | AbstractMesh
    samples: tuple[str, ...]
    latents: str | None

    @property
    def num_parts(self) -> int:
        """The number of parts that samples are split into."""
        return math.prod(self.mesh.shape[axis] for axis in self.samples)


def check_mesh(mesh: Any, *axes: str) -> None:
    """Raises a TypeError for what is no mesh, and a ValueError for a mesh that lacks an axis or has
    explicit ones.
    """
    check_type("mesh", mesh, Mesh, "make it by sae_gap.runtime.devices.mesh()")
    for axis in axes:
        if axis not in mesh.axis_names:
            raise ValueError(
                f"the mesh has no axis {axis!r}; make it by sae_gap.runtime.devices.mesh()."
            )
    _check_auto(mesh)


def _check_auto(mesh: Mesh | AbstractMesh) -> None:
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            "the mesh must have axes of type jax.sharding.AxisType.Auto; make it by "
            "sae_gap.runtime.devices.mesh()."
        )


def layout_of(signals: Any, dictionary: Any) -> Layout | None:
    """The layout of signals, `(n, input_dim)`, and of a dictionary, `(input_dim, num_latents)`.

    Samples go over all axes that the latents do not take, whether they lie so already or are copied
    to every device. Traced arrays have no place yet; for them the mesh of the context counts.

    Returns:
      The layout, or None where there is one device, or an unknown number.

    Raises:
      ValueError: their mesh has axes that are not of type Auto.
    """
    if isinstance(signals, jax.core.Tracer) or isinstance(dictionary, jax.core.Tracer):
        mesh: Any = jax.sharding.get_abstract_mesh()
        if SAMPLES not in mesh.axis_names or mesh.manual_axes or mesh.size == 1:
            return None
        return _layout(mesh, LATENTS if mesh.shape.get(LATENTS, 1) > 1 else None)
    shardings = [array.sharding for array in (signals, dictionary) if isinstance(array, jax.Array)]
    meshes = [
        lies.mesh for lies in shardings if isinstance(lies, NamedSharding) and lies.mesh.size > 1
    ]
    if not meshes:
        return None
    mesh = meshes[-1]
    return _layout(mesh, _latents_of(dictionary))


def _latents_of(dictionary) -> str | None:
    """The axis that the columns of a dictionary are split over."""
    sharding = getattr(dictionary, "sharding", None)
    if (
        not isinstance(sharding, NamedSharding)
        or len(sharding.spec) < 2
        or sharding.spec[1] is None
    ):
        return None
    axis = sharding.spec[1][0] if isinstance(sharding.spec[1], tuple) else sharding.spec[1]
    return axis if sharding.mesh.shape[axis] > 1 else None


def _layout(mesh, latents: str | None) -> Layout:
    _check_auto(mesh)
    return Layout(mesh, tuple(axis for axis in mesh.axis_names if axis != latents), latents)


def by_device(
    function: Callable[..., PyTree], layout: Layout | None, per_sample: PyTree, *shared: PyTree
) -> PyTree:
    """`function(per_sample, *shared)`, run by every device on its own samples, with no exchange
    between samples.

    Within `function` the mesh has the axis of the latents alone; the compiler shards along it.

    Args:
      function: maps arrays with samples as rows, and what all samples share, to arrays with the
        same samples as rows.
      layout: that of the samples; None calls the function as it is.
      per_sample: arrays of n rows. Where they do not divide, rows of zeros are added and their
        results dropped.
      shared: arrays that every device has, but for sharded latents.

    Returns:
      What the function returns, of all samples.
    """
    if layout is None:
        return function(per_sample, *shared)
    num_samples = jax.tree.leaves(per_sample)[0].shape[0]
    spare = -num_samples % layout.num_parts
    padded = (
        jax.tree.map(lambda a: jnp.pad(a, ((0, spare),) + ((0, 0),) * (a.ndim - 1)), per_sample)
        if spare
        else per_sample
    )
    rows = PartitionSpec(layout.samples)
    mapped = jax.shard_map(
        function,
        mesh=layout.mesh,
        in_specs=(rows, *(PartitionSpec() for _ in shared)),
        out_specs=rows,
        axis_names=frozenset(layout.samples),
        # Loops begin with constants, which are the same on all devices, and end with values that
        # are not.
        check_vma=False,
    )
    results = mapped(padded, *shared)
    return jax.tree.map(lambda a: a[:num_samples], results) if spare else results


def place_rows(tree: PyTree, like: Array) -> PyTree:
    """The arrays of a tree, their rows placed as the rows of `like`, if that lies on a mesh."""
    sharding = getattr(like, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
        return tree
    rows = NamedSharding(sharding.mesh, PartitionSpec(*sharding.spec[:1]))
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf, rows) if isinstance(leaf, jax.Array) else leaf, tree
    )


def shard(array: Array, axis_name: str | None, dim: int | None) -> Array:
    """Shard dimension `dim` of an array over an axis of the mesh of the context; None copies the
    array to every device.

    Without an axis name the array is left as it is.
    """
    if axis_name is None:
        return array
    return lax.with_sharding_constraint(
        array, PartitionSpec(*(axis_name if i == dim else None for i in range(array.ndim)))
    )


def axis_size(axis_name: str | None) -> int:
    """The parts that the compiler shards an axis of the mesh of the context into.

    There is one part without a name, without that axis, and within `by_device`, where each device
    has its own part already.
    """
    mesh: Any = jax.sharding.get_abstract_mesh()
    return (
        1
        if axis_name not in mesh.axis_names or axis_name in mesh.manual_axes
        else mesh.shape[axis_name]
    )


def split_batch(batch: PyTree) -> PyTree:
    """Shard the rows of a batch, its samples, over the mesh of the context, for a training step.

    Every device then computes the gradients of its own samples, and one sum joins them. Without a
    mesh, or where the rows do not divide, the batch is left as it is.
    """
    size = axis_size(SAMPLES)
    return jax.tree.map(
        lambda array: array if size == 1 or len(array) % size else shard(array, SAMPLES, 0), batch
    )


def constrain(state: PyTree, data: PyTree) -> PyTree:
    """Constrain a training state: arrays with a row for each sample lie as the samples do, all
    others on every device.

    Otherwise the compiler would choose a place, and another one in each program that the state
    passes through.

    Args:
      state: arrays; one with as many rows as an array of the data has a row for each sample.
      data: arrays with samples as rows.

    Returns:
      The state with its place constrained; without a mesh in the context, as it is.
    """
    size = axis_size(SAMPLES)
    counts = {len(leaf) for leaf in jax.tree.leaves(data) if leaf.ndim and len(leaf) % size == 0}

    def put(leaf):
        by_sample = leaf.ndim and len(leaf) in counts
        return lax.with_sharding_constraint(
            leaf, PartitionSpec(SAMPLES) if by_sample else PartitionSpec()
        )

    return state if size == 1 else jax.tree.map(put, state)


def within(tree: PyTree) -> contextlib.AbstractContextManager:
    """The context of the mesh that the arrays of a tree lie on, to trace in; on one device it sets
    no mesh.
    """
    for leaf in jax.tree.leaves(tree):
        sharding = getattr(leaf, "sharding", None)
        if (
            isinstance(sharding, NamedSharding)
            and isinstance(sharding.mesh, Mesh)
            and sharding.mesh.size > 1
        ):
            return jax.set_mesh(sharding.mesh)
    return contextlib.nullcontext()
