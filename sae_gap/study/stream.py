"""Learns from more samples than fit in memory."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from equinox import filter_jit, tree_at
from jax import block_until_ready, device_get, lax
from jax.random import key_data
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import tree_leaves, tree_map
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray, UInt

from sae_gap.core import (
    Model,
    Split,
    as_matrix,
    check_integer,
    check_size,
    check_type,
    identity,
    shown,
)
from sae_gap.core.identity import describe, precision
from sae_gap.data.activations import outliers
from sae_gap.encoders import check_model
from sae_gap.learners import Families, FamiliesState, OnlineDictionary, OnlineState
from sae_gap.runtime import (
    LOOPS,
    SAMPLES,
    check_mesh,
    constrain,
    devices,
    distributed,
    progress,
)
from sae_gap.storage import Checkpoint, digest
from sae_gap.study import Loop, Pauses, Stepped, as_key, given_base

# Returns rows of a stream: (start, count) -> rows.
Source = Callable[[int, int], ArrayLike]
Learner = OnlineDictionary | Families
State = OnlineState | FamiliesState
# A round's samples, padded.
Block = Float[Array, "count rows input_dim"]


def fit_stream(
    learner: Learner,
    source: Source | np.ndarray,
    *,
    num_latents: int,
    key: int | PRNGKeyArray,
    num_samples: int | None = None,
    base: Model | None = None,
    checkpoint: Checkpoint | None = None,
    mesh: Mesh | None = None,
    watch: Callable[[State], None] | None = None,
    show_progress: bool = True,
) -> Model:
    """Learns a dictionary from a stream: an array on disk, or a function that returns samples.

    It fetches a round's samples while it learns from those of the round before, and holds only
    these two. `OnlineDictionary` sees each sample once, except for a last few that fill no
    minibatch, and ignores `visits`; more rounds (`num_steps`) make them smaller. A round of
    `Families` takes the next samples, as many as `visits` says, and starts again after the last.
    Outlier samples, of more than ten times the median norm, are scaled down to it, as in `fit`; the
    median is the first round's.

    Several devices share each minibatch: each codes its own samples, and one all-reduce adds up
    their contributions to the dictionary. With several processes each makes the same call, and its
    source is asked only for the rows of its own devices. The dictionary equals that of one device
    up to rounding, which grows along a fit: a code that is barely on for one may be off for the
    other.

    Args:
      learner: the learner.
      source: `(num_samples, input_dim)` samples as rows, such as an `np.memmap`; or a function
        `(start, count)` that returns the `count` samples from number `start` on, the same ones at
        each call. Samples should be shuffled: the first round's samples, as far as they go, are the
        first atoms.
      num_latents: width of the dictionary.
      key: starts the dictionary; an integer i stands for `jax.random.key(i)`.
      num_samples: length of the stream; None takes the length of an array.
      base: the model of the learner's base, if it has one.
      checkpoint: where to save the state periodically, and to resume from; like that of `fit` it
        stays until it is discarded. Its `fit` should identify the source, of which only the first
        round is checked.
      mesh: the devices, on an axis `samples`; None takes all, `devices.mesh()`.
      watch: called with the state after every round; the next round consumes that state.
      show_progress: whether to show a line of progress on a terminal or in a notebook.

    Returns:
      The model, on a device of this process.

    Raises:
      TypeError: an argument is of a wrong class.
      ValueError: the source returns something else than asked for, or too little for `num_steps`
        rounds; or base does not fit.
    """
    check_type(
        "learner",
        learner,
        (OnlineDictionary, Families),
        "give one of sae_gap.learners.online",
    )
    if (base is None) != (learner.base is None):
        which = "has no base" if base else "needs the model of its base"
        raise ValueError(f"{learner.name} {which}; check base.")
    key = as_key(key)
    mesh = mesh or devices.mesh()
    check_mesh(mesh)
    check_size("num_latents", num_latents)
    # JAX would trace a number of NumPy's.
    num_latents = int(num_latents)
    samples = _opened(source, num_samples)
    if isinstance(learner, OnlineDictionary):
        if samples.total < learner.num_steps:
            raise ValueError(
                f"{samples.total} samples are too few for {learner.num_steps} rounds; lower "
                "num_steps or give more."
            )
        learner = replace(learner, visits=None)
    count, size = learner.minibatches(samples.total, num_latents)
    line = progress.line(
        learner.num_steps, learner.name, unit="rounds", shown=show_progress
    )
    with line as drawn, ThreadPoolExecutor(1) as pool, jax.set_mesh(mesh):
        rounds = _Rounds(learner, samples, count, size, mesh, pool)
        first = rounds.fetch(0).result()
        if base:
            base = _as_base(base, (first.shape[2], num_latents), first.dtype)
        rounds.median, state = _start(
            learner, first, size, num_latents, key, given_base(base)
        )
        stepped: Stepped = state.round, state
        spent = 0.0
        if checkpoint:
            about = [
                f"{num_latents} of {samples.total} samples",
                _fingerprint(first, size),
            ]
            if base:
                about += ["from", digest(tree_leaves(base))]
            checkpoint = _named(checkpoint, learner, key, about)
            stepped, spent = checkpoint.load(stepped) or (stepped, spent)
        del first, state

        def report(turn: int, state: State) -> None:
            drawn.update(turn - drawn.n)
            if watch:
                watch(state)

        loop = Loop(
            rounds.advance,
            lambda stepped: learner.model(stepped[1]),
            learner.num_steps,
            Pauses(save=checkpoint, watch=report),
            together=distributed.count() > 1,
        )
        model = loop.run(stepped, spent).model
    # On one device of this process, wherever its parts were.
    return tree_map(jnp.asarray, device_get(distributed.whole(model)))


def _named(
    checkpoint: Checkpoint, learner: Learner, key: PRNGKeyArray, about: list[Any]
) -> Checkpoint:
    """The checkpoint of a fit, by all that decides it."""
    seed = key_data(key).tolist()
    return checkpoint.named(
        f"{' '.join(map(str, about))} {checkpoint.fit}, key {seed}, "
        f"{describe(learner)}, {precision()}, {identity.NUMERICS}"
    )


class _Samples(NamedTuple):
    """The rows of a source in the default float type, again from the first after the last.

    Attributes:
      read: `(start, count)` -> rows.
      total: the number of samples.
    """

    read: Source
    total: int

    def take(self, start: int, count: int) -> Float[np.ndarray, "count input_dim"]:
        start %= self.total
        left = self.total - start
        if count > left:
            return np.concatenate([self.take(start, left), self.take(0, count - left)])
        name = f"what the source gives from sample {start} on"
        block = as_matrix(name, self.read(start, count))
        if len(block) != count:
            raise ValueError(
                f"the source gave {len(block)} rows for {count} samples; give one each."
            )
        return block.astype(jnp.zeros(()).dtype)


def _opened(source: Any, num_samples: int | None) -> _Samples:
    """The samples to take from a source."""
    if callable(source):
        read = source
        most = num_samples
    elif np.ndim(source) == 2:
        most = len(source)

        def read(start: int, count: int) -> ArrayLike:
            return source[start : start + count]

    else:
        wanted = (
            "an array (num_samples, input_dim) or a function (start, count) -> rows"
        )
        raise ValueError(f"source must be {wanted}, but it is {shown(source)}.")
    if most is None:
        raise ValueError(
            "a function does not tell how many samples it has; give num_samples."
        )
    num_samples = most if num_samples is None else num_samples
    check_integer("num_samples", num_samples, most=most)
    return _Samples(read, int(num_samples))


def _as_base(base: Model, shape: tuple[int, int], dtype: Any) -> Model:
    """A model checked to be finite and of this shape, without its encoder."""
    check_model(base)
    if base.decoder.shape != shape:
        raise ValueError(
            f"base has a decoder {base.decoder.shape}, where {shape} is expected: dimensions of a "
            "sample, and num_latents."
        )
    return Model(jnp.asarray(base.decoder, dtype), jnp.asarray(base.bias, dtype))


@dataclass
class _Rounds:
    """The rounds of a fit. While one is learned from, the samples of the next are fetched.

    Attributes:
      count: minibatches of a round.
      size: samples of a minibatch.
      median: the median norm of the first round's samples, once that is known.
    """

    learner: Learner
    samples: _Samples
    count: int
    size: int
    mesh: Mesh
    pool: ThreadPoolExecutor
    median: Any = None
    upcoming: dict[int, Future[Block]] = field(default_factory=dict)

    def fetch(self, turn: int) -> Future[Block]:
        """The samples of a round, which a thread fetches."""
        if turn not in self.upcoming:
            self.upcoming[turn] = self.pool.submit(self._block, turn)
        return self.upcoming[turn]

    def advance(self, stepped: Stepped, stop: int) -> Stepped:
        """Takes one round, since each is reported."""
        turn = int(stepped[0])
        state = stepped[1]
        if not bool(self.learner.done(state)):
            block = self.fetch(turn)
            self.upcoming.clear()
            if stop < self.learner.num_steps:
                self.fetch(stop)
            with LOOPS:
                fixed = self.learner, block.result(), self.size, self.median
                state = block_until_ready(_round(fixed, state))
        return state.round, state

    def _block(self, turn: int) -> Block:
        """A round's minibatches, each split by rows over the devices and padded with zeros."""
        count = self.count
        size = self.size
        rows = size + -size % self.mesh.shape[SAMPLES]
        begin = turn * count * size
        sharding = NamedSharding(self.mesh, PartitionSpec(None, SAMPLES))
        places = sharding.addressable_devices_indices_map((count, rows)).values()
        slices = [place[1].indices(rows) for place in places if place]
        low = min(min(slices)[0], size - 1)
        high = min(max(slices)[1], size)
        if high - low == size:
            block = self.samples.take(begin, count * size).reshape(count, size, -1)
        else:
            # At least one row, since it shows the width.
            some = max(1, high - low)
            starts = [begin + i * size + low for i in range(count)]
            block = np.stack([self.samples.take(start, some) for start in starts])

        def of_device(index: Any) -> np.ndarray:
            first, last, _ = index[1].indices(rows)
            piece = block[:, first - low : last - low]
            return np.pad(piece, ((0, 0), (0, last - first - piece.shape[1]), (0, 0)))

        shape = count, rows, block.shape[2]
        return jax.make_array_from_callback(shape, sharding, of_device)


def _samples(block: Block, size: int) -> Float[Array, "n input_dim"]:
    """The samples of a round, without the padding of minibatches."""
    return block[:, :size].reshape(-1, block.shape[2])


@filter_jit
def _fingerprint(block: Block, size: int) -> UInt[Array, ""]:
    """A sum of the samples' bits, weighted by place; of integers, so that the order of the
    additions does not matter.
    """
    words = lax.bitcast_convert_type(_samples(block, size), jnp.uint32).reshape(
        -1, block.shape[2]
    )
    rows, columns = (
        2 * jnp.arange(length, dtype=jnp.uint32) + 1 for length in words.shape
    )
    return jnp.sum(words * rows[:, None] * columns, dtype=jnp.uint32)


@filter_jit
def _start(
    learner: Learner,
    block: Block,
    size: int,
    num_latents: int,
    key: PRNGKeyArray,
    base: dict[str, Model],
) -> tuple[Array, State]:
    """The median norm of the first round's samples, and the state that starts from them."""
    rows = _samples(block, size)
    median = outliers.median_norm(rows)
    signals = Split(outliers.to_median(rows, median))
    state = learner.init(signals, num_latents=num_latents, key=key, **base)
    return constrain((median, state), ())


@filter_jit(donate="all-except-first")
def _round(fixed: tuple[Any, Block, int, Array], state: Any) -> Any:
    learner, minibatches, size, median = fixed
    minibatches = outliers.to_median(minibatches, median)
    if isinstance(learner, OnlineDictionary) and learner.centred:
        brought = jnp.sum(minibatches, axis=(0, 1)) / (len(minibatches) * size)
        state = tree_at(
            lambda s: s.mean,
            state,
            state.mean + (brought - state.mean) / (state.round + 1),
        )
    return constrain(learner.round(minibatches, state, size), ())
