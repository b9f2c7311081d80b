"""Repeat a step on only those samples that still need it, in batches of a fixed shape."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, PyTree


def keep(kept: Bool[Array, " n"], old: PyTree, new: PyTree) -> PyTree:
    """The old rows where `kept`, and the new elsewhere."""
    return jax.tree.map(lambda a, b: jnp.where(kept.reshape(kept.shape + (1,) * (a.ndim - 1)), a, b), old, new)


def by_groups(
    tree: PyTree, pending: Callable[[PyTree], Bool[Array, " n"]], group: int, step: Callable[[PyTree], PyTree]
) -> PyTree:
    """Apply `step` to the first `group` samples that are pending, gathered into a batch of their own, until none is.

    A group as large as the batch is not gathered, which saves compiling that.

    Args:
      tree: arrays with samples as rows.
      pending: which samples of a tree need another step; each must at some time not.
      group: samples to a step.
      step: maps a tree of `group` rows to one like it.

    Returns:
      The tree after all steps.
    """

    def body(tree):
        wanted = pending(tree)
        if group >= wanted.size:
            return keep(~wanted, tree, step(tree))
        chosen = jnp.nonzero(wanted, size=group, fill_value=0)[0]
        part = step(jax.tree.map(lambda a: a[chosen], tree))
        # Rows that only fill the batch are copies of sample 0, and must not overwrite what sample 0 has.
        target = jnp.where(jnp.arange(group) < jnp.sum(wanted), chosen, wanted.size)
        return jax.tree.map(lambda a, b: a.at[target].set(b, mode="drop"), tree, part)

    def loop(tree):
        return lax.while_loop(lambda tree: jnp.any(pending(tree)), body, tree)

    # Whatever in the step does not change is computed ahead of a loop, even of one that takes no turn; not so of a branch.
    return lax.cond(jnp.any(pending(tree)), loop, lambda tree: tree, tree)


__all__ = ["by_groups", "keep"]
