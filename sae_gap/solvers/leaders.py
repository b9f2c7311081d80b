"""The largest of many scores without a sort, which pursuits and working sets share."""

import jax.numpy as jnp
from jax import lax

# Groups of blocks; each sends the same number of leaders.
GROUPS = 2


def leaders(scores, num_blocks, count):
    """The largest score of each of `num_blocks` interleaved blocks, and about the `count` largest
    of these, without a sort.

    A non-negative float orders like its bits. The position of an entry can therefore ride in its
    lowest bits through a plain maximum, which vectorises where an argmax or a sort does not. The
    blocks play off in `GROUPS` groups. The largest score is always among the leaders, up to the
    bits that the positions take.

    Args:
      scores: `(n, num_latents)`, non-negative.
      num_blocks: a divisor of num_latents and a multiple of GROUPS.
      count: number of leaders, a multiple of GROUPS.

    Returns:
      `(n, count)` indices.
    """
    num_samples, num_latents = scores.shape
    rows = num_latents // num_blocks
    seats = num_blocks // GROUPS
    whole = jnp.int32 if scores.dtype == jnp.float32 else jnp.int64
    bits = lax.bitcast_convert_type(scores, whole).reshape(
        num_samples, rows, num_blocks
    )
    best = jnp.max(_tag(bits, jnp.arange(rows, dtype=whole)[:, None], rows), axis=1)
    # Samples last, so that every step runs along contiguous memory.
    field = _tag(
        best.T.reshape(seats, GROUPS, num_samples),
        jnp.arange(seats, dtype=whole)[:, None, None],
        seats,
    )
    winners = []
    for _ in range(count // GROUPS):
        top = jnp.max(field, axis=0)
        winners.append(top)
        field = jnp.where(field == top, 0, field)
    won = jnp.stack(winners)
    block = (won & mask(seats)) * GROUPS + jnp.arange(GROUPS, dtype=whole)[:, None]
    block = block.reshape(-1, num_samples).T.astype(jnp.int32)
    row = jnp.take_along_axis(best, block, axis=1) & mask(rows)
    return (row * num_blocks + block).astype(jnp.int32)


def mask(size: int) -> int:
    """The bits of the positions below `size`."""
    return (1 << (size - 1).bit_length()) - 1


def _tag(bits, position, size):
    return (bits & ~mask(size)) | position
