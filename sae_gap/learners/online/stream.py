"""Learning from more samples than fit in memory, each seen once."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from sae_gap.core.checks import as_real, check_callable, check_size, check_type, shown
from sae_gap.core.types import Model, Split
from sae_gap.learners.fit_checks import check_key
from sae_gap.learners.online.online_dictionary import OnlineDictionary, OnlineState, lay
from sae_gap.runtime import devices, distributed
from sae_gap.runtime.sharding import LATENTS, SAMPLES, check_mesh
from sae_gap.storage.trees import Checkpoint

Source = Callable[[int, int], ArrayLike]


def fit_stream(
    learner: OnlineDictionary,
    source: Source | np.ndarray,
    *,
    num_latents: int,
    key: PRNGKeyArray,
    num_samples: int | None = None,
    checkpoint: Checkpoint | None = None,
    mesh: Mesh | None = None,
    watch: Callable[[OnlineState], None] | None = None,
) -> Model:
    """Learns a dictionary from a stream: an array on disk, or whatever gives samples when asked.

    A round's samples are fetched while those of the round before are learned from, and no more than these two are held; more
    rounds (`OnlineDictionary.num_steps`) make them smaller. `visits` has no say here: each sample is seen once, up to a last
    few that fill no minibatch.

    Several devices share every minibatch: each codes its own samples, and what these tell of the dictionary meets in one
    all-reduce. A dictionary too large for one of them is split where the mesh has an axis `latents` beside `samples`: each
    device correlates and moves the atoms that it has, and what crosses between them are the leading atoms of every block and
    the few that a sample uses. With several processes each must make the same call, and its source is asked for the rows of
    its own devices alone. The dictionary is that of one device up to rounding, which grows along a fit: a code that is barely
    on for one may be off for the other. Split by latents, the pursuit looks for leading atoms in other blocks, which gives
    another dictionary, unless the latents of each device are a multiple of eight times its `num_slots`.

    Args:
      learner: how to learn.
      source: `(num_samples, input_dim)` samples as rows, such as an `np.memmap`; or a function `(start, count)` that gives the
        `count` samples from number `start` on, the same ones whenever it is asked. Samples should come shuffled: those of the
        first round are the first atoms, as far as they go.
      num_latents: width of the dictionary.
      key: starts the dictionary.
      num_samples: length of the stream; None takes that of an array.
      checkpoint: where to save the state now and then, and to go on from; removed at the end.
      mesh: the devices, on an axis `samples` and perhaps one `latents`; None takes all, `devices.mesh()`.
      watch: called with the state after every round, which the next one uses up.

    Returns:
      The model, on a device of this process.

    Raises:
      TypeError: an argument is not of the class that it should be of.
      ValueError: the source does not give what was asked for, or not enough of it for `num_steps` rounds.
    """
    check_type("learner", learner, OnlineDictionary, "give sae_gap.learners.online.online_dictionary.OnlineDictionary()")
    check_key("key", key)
    check_type("checkpoint", checkpoint, (Checkpoint, type(None)), "give sae_gap.storage.trees.Checkpoint(folder)")
    if mesh is not None:
        check_mesh(mesh, SAMPLES)
    if watch is not None:
        check_callable("watch", watch, "(state) -> None")
    if num_samples is not None:
        check_size("num_samples", num_samples)
    if not callable(source):
        if len(getattr(source, "shape", ())) != 2:
            raise ValueError(
                f"source must be an array (num_samples, input_dim) or a function (start, count) -> rows, but it is "
                f"{shown(source)}."
            )
        if num_samples is None:
            num_samples = len(source)
        elif num_samples > len(source):
            raise ValueError(f"num_samples is {num_samples}, but the source has only {len(source)}; lower it.")
        source = functools.partial(_rows, source)
    elif num_samples is None:
        raise ValueError("a function does not tell how many samples it has; give num_samples.")
    check_size("num_latents", num_latents)
    check_size("num_samples", num_samples)
    # A number of NumPy's would be traced.
    num_latents, num_samples = int(num_latents), int(num_samples)
    if num_samples < learner.num_steps:
        raise ValueError(f"{num_samples} samples are too few for {learner.num_steps} rounds; lower num_steps or give more.")
    learner = dataclasses.replace(learner, visits=None)
    count, size = learner.minibatches(num_samples, num_latents)

    mesh = devices.mesh() if mesh is None else mesh
    if num_latents % mesh.shape.get(LATENTS, 1):
        raise ValueError(f"num_latents is {num_latents}, which {mesh.shape[LATENTS]} devices cannot share evenly; change it.")
    fetch = functools.partial(_fetch, _checked(source), count, size, mesh)

    context = contextlib.nullcontext() if mesh.size == 1 else jax.set_mesh(mesh)
    with concurrent.futures.ThreadPoolExecutor(1) as pool, context:
        upcoming = pool.submit(fetch, 0)
        first = upcoming.result()
        state, spent = _start(learner, first, size, num_latents, key), 0.0
        if checkpoint is not None:
            told = repr(learner), num_samples, num_latents, jax.random.key_data(key), _fingerprint(first, size)
            checkpoint = checkpoint.named(_digest(*told))
            found = checkpoint.load(state)
            if found is not None:
                state, spent = found
        saved = began = time.perf_counter()
        turn = int(state.round)
        if turn:
            upcoming = pool.submit(fetch, turn)
        del first
        while turn < learner.num_steps and not bool(learner.done(state)):
            block = upcoming.result()
            turn += 1
            if turn < learner.num_steps:
                upcoming = pool.submit(fetch, turn)
            state = _round((learner, block, size), state)
            # Clocks differ, and all processes must save the same round.
            if checkpoint is not None and distributed.from_first(time.perf_counter() - saved > checkpoint.every):
                checkpoint.store(state, spent + time.perf_counter() - began, step=turn)
                saved = time.perf_counter()
            if watch is not None:
                watch(state)
    if checkpoint is not None:
        checkpoint.discard()
    model = learner.model(state)
    if mesh.size == 1:
        return model
    # On one device of this process, wherever its parts are.
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), distributed.whole(model))


def _checked(source: Source) -> Callable[[int, int], np.ndarray]:
    """What the source gives, in the default float type, once it is sure to be samples."""
    widths: set[int] = set()

    def take(start: int, count: int) -> np.ndarray:
        given = source(start, count)
        block = as_real("what the source gives", given, "rows of floating-point numbers")
        if block.ndim != 2 or len(block) != count or not block.size or not jnp.issubdtype(block.dtype, jnp.floating):
            raise ValueError(
                f"the source gave {block.dtype} of shape {block.shape} for {count} samples; "
                "it must give floating-point rows, one a sample."
            )
        widths.add(block.shape[1])
        if len(widths) > 1:
            raise ValueError(f"the source gave rows of {min(widths)} and of {max(widths)} numbers; all must have one width.")
        with np.errstate(over="ignore"):
            block = block.astype(jnp.zeros(()).dtype)
        if not np.isfinite(block).all():
            raise ValueError(f"the source gave a NaN or an infinity in samples {start} and on; remove them.")
        return block

    return take


def _fetch(take: Callable[[int, int], np.ndarray], count: int, size: int, mesh: Mesh, turn: int) -> jax.Array:
    """A round's minibatches, (count, rows, input_dim), of which each device has the rows of its own; zeros fill the last."""
    begin, parts = turn * count * size, mesh.shape[SAMPLES]
    if mesh.size == 1:
        return jnp.asarray(take(begin, count * size).reshape(count, size, -1))
    rows = size + -size % parts
    sharding = NamedSharding(mesh, PartitionSpec(None, SAMPLES))
    own = [index[1].indices(rows) for index in sharding.addressable_devices_indices_map((count, rows)).values() if index]
    low, high = min(size - 1, *(first for first, _, _ in own)), min(size, max(last for _, last, _ in own))
    if high - low == size:
        block = take(begin, count * size).reshape(count, size, -1)
    else:
        # At least one row, which tells the width.
        block = np.stack([take(begin + i * size + low, max(1, high - low)) for i in range(count)])

    def of_device(index):
        first, last, _ = index[1].indices(rows)
        piece = block[:, first - low : last - low]
        return np.pad(piece, ((0, 0), (0, last - first - piece.shape[1]), (0, 0)))

    return jax.make_array_from_callback((count, rows, block.shape[2]), sharding, of_device)


def _digest(*parts) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.asarray(part).tobytes())
    return digest.hexdigest()


def _rows(array: np.ndarray, start: int, count: int) -> np.ndarray:
    return array[start : start + count]


@eqx.filter_jit
def _fingerprint(block: Float[Array, "count rows input_dim"], size: int) -> Array:
    """A sum over the bits of the samples, of which no other order of the additions gives another value."""
    words = lax.bitcast_convert_type(block[:, :size], jnp.uint32).reshape(-1, block.shape[2])
    return jnp.sum(words * (2 * jnp.arange(len(words), dtype=jnp.uint32)[:, None] + 1), axis=0, dtype=jnp.uint32)


@eqx.filter_jit
def _start(
    learner: OnlineDictionary, block: Float[Array, "count rows input_dim"], size: int, num_latents: int, key: PRNGKeyArray
) -> OnlineState:
    signals = block[:, :size].reshape(-1, block.shape[2])
    return lay(learner.init(Split(signals), num_latents=num_latents, key=key))


@eqx.filter_jit(donate="all-except-first")
def _round(fixed: tuple[OnlineDictionary, jax.Array, int], state: OnlineState) -> OnlineState:
    learner, minibatches, size = fixed
    if learner.centred:
        brought = jnp.sum(minibatches, axis=(0, 1)) / (len(minibatches) * size)
        state = eqx.tree_at(lambda s: s.mean, state, state.mean + (brought - state.mean) / (state.round + 1))
    return lay(learner.round(minibatches, state, size))


__all__ = ["fit_stream"]
