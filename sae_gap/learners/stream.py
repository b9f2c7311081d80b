"""Learning from more samples than fit in memory, each seen once."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import PRNGKeyArray

from sae_gap.checkpoints import Checkpoint
from sae_gap.learners.online import OnlineDictionary, OnlineState
from sae_gap.types import Model, Split, check_size

Source = Callable[[int, int], ArrayLike]


def fit_stream(
    learner: OnlineDictionary,
    source: Source | np.ndarray,
    *,
    num_latents: int,
    key: PRNGKeyArray,
    num_samples: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> Model:
    """Learns a dictionary from a stream: an array on disk, or whatever gives samples when asked.

    A round's samples are fetched while those of the round before are learned from, and no more than these two are held; more
    rounds (`OnlineDictionary.num_steps`) make them smaller. `visits` has no say here: each sample is seen once, up to a last
    few that fill no minibatch.

    Args:
      learner: how to learn.
      source: `(num_samples, input_dim)` samples as rows, such as an `np.memmap`; or a function `(start, count)` that gives the
        `count` samples from number `start` on, the same ones whenever it is asked. Samples should come shuffled: those of the
        first round are the first atoms, as far as they go.
      num_latents: width of the dictionary.
      key: starts the dictionary.
      num_samples: length of the stream; None takes that of an array.
      checkpoint: where to save the state now and then, and to go on from; removed at the end.

    Returns:
      The model.

    Raises:
      ValueError: the source does not give what was asked for, or not enough of it for `num_steps` rounds.
    """
    if not callable(source):
        if num_samples is None:
            num_samples = len(source)
        elif num_samples > len(source):
            raise ValueError(f"num_samples is {num_samples}, but the source has only {len(source)}; lower it.")
        source = functools.partial(_rows, source)
    elif num_samples is None:
        raise ValueError("a function does not tell how many samples it has; give num_samples.")
    check_size("num_latents", num_latents)
    check_size("num_samples", num_samples)
    if num_samples < learner.num_steps:
        raise ValueError(f"{num_samples} samples are too few for {learner.num_steps} rounds; lower num_steps or give more.")
    learner = dataclasses.replace(learner, visits=None)
    count, size = learner.minibatches(num_samples, num_latents)

    def fetch(turn: int) -> jax.Array:
        block = np.asarray(source(turn * count * size, count * size))
        if block.ndim != 2 or len(block) != count * size or not jnp.issubdtype(block.dtype, jnp.floating):
            raise ValueError(
                f"the source gave {block.dtype} of shape {block.shape} for {count * size} samples; "
                "it must give floating-point rows, one a sample."
            )
        block = block.astype(jnp.zeros(()).dtype)
        if not np.isfinite(block).all():
            raise ValueError(f"the source gave a NaN or an infinity in samples {turn * count * size} and on; remove them.")
        return jnp.asarray(block)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        upcoming = pool.submit(fetch, 0)
        first = upcoming.result()
        state, spent = _start(learner, first, num_latents, key), 0.0
        if checkpoint is not None:
            checkpoint = checkpoint.named(_digest(repr(learner), num_samples, num_latents, jax.random.key_data(key), first))
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
            state = _round((learner, block.reshape(count, size, -1)), state)
            if checkpoint is not None and time.perf_counter() - saved > checkpoint.every:
                checkpoint.store(state, spent + time.perf_counter() - began, step=turn)
                saved = time.perf_counter()
    if checkpoint is not None:
        checkpoint.discard()
    return learner.model(state)


def _digest(*parts) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.asarray(part).tobytes())
    return digest.hexdigest()


def _rows(array: np.ndarray, start: int, count: int) -> np.ndarray:
    return array[start : start + count]


@eqx.filter_jit
def _start(learner: OnlineDictionary, signals: jax.Array, num_latents: int, key: PRNGKeyArray) -> OnlineState:
    return learner.init(Split(signals), num_latents=num_latents, key=key)


@eqx.filter_jit(donate="all-except-first")
def _round(fixed: tuple[OnlineDictionary, jax.Array], state: OnlineState) -> OnlineState:
    learner, minibatches = fixed
    if learner.centred:
        seen = state.mean + (jnp.mean(minibatches, axis=(0, 1)) - state.mean) / (state.round + 1)
        state = eqx.tree_at(lambda state: state.mean, state, seen)
    return learner.round(minibatches, state)


__all__ = ["fit_stream"]
