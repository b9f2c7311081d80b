"""Streams draw their samples in pieces, each by a random generator of its own, so that any part of
them can be drawn alone.
"""

from collections.abc import Iterator


def pieces_of(start: int, count: int, size: int) -> Iterator[tuple[int, slice, slice]]:
    """The pieces of `size` samples that hold the `count` samples from number `start` on.

    Yields:
      The number of a piece, the samples to take from it, and their place among those asked for.
    """
    done = 0
    while done < count:
        piece, first = divmod(start + done, size)
        taken = min(size - first, count - done)
        yield piece, slice(first, first + taken), slice(done, done + taken)
        done += taken
