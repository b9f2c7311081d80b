"""Families whose codes and whose repair can be worked out on paper.

A family has orthonormal concepts: a parent p and children c_1 … c_4, which are on with p one at a
time. All tests have atoms of one shape, so that their program is compiled once: rows of zeros are
no dimensions, and atoms that a test does not name are orthogonal to all others and used by
themselves.
"""

import jax
import jax.numpy as jnp
import numpy as np

from sae_gap.learners import PARTNERS, Cooccurrence
from sae_gap.learners.online import family

ROWS, WIDTH = 200, 14
# Unrelated directions, the last of which are left to the atoms that fill up.
WIDE, NARROW = (
    np.pad(
        np.linalg.qr(np.random.default_rng(0).standard_normal((dim, 28)))[0],
        ((0, ROWS - dim), (0, 0)),
    )
    for dim in (ROWS, 60)
)


@jax.jit
def repair(dictionary, counts):
    idle = family.idle_energy(counts.squares)
    (found, moved), idle = family.repair(dictionary, counts, idle)
    return found, moved, idle


def unit(atoms):
    return atoms / np.linalg.norm(atoms, axis=0)


def filled(atoms):
    spare = (WIDE if atoms[100:].any() else NARROW)[:, atoms.shape[1] - WIDTH :]
    return np.concatenate([atoms, spare], axis=1).astype(np.float32)


def counted(codes, number=None):
    """The counts of dense codes, beside 100 samples for each atom that fills up, among four times
    as many.
    """
    spare = WIDTH - codes.shape[1]
    codes = np.pad(codes, ((0, 100 * spare), (0, spare))).astype(np.float32)
    codes[len(codes) - 100 * spare :, WIDTH - spare :] = 1.5 * np.tile(np.eye(spare), (100, 1))
    return of_codes(codes, number or 4 * len(codes))


def of_codes(codes, number):
    on = (codes > 0).astype(np.float32)
    return of_pairs(on.T @ on, codes.T @ codes, codes.sum(axis=0), number)


def of_pairs(together, products, sums, number):
    """The counts of all pairs, in tables of which each column's largest shares are kept."""
    uses = np.diag(together)
    share = np.float32(together / np.maximum(uses, 1)) * (1 - np.eye(len(uses)))
    partners = np.where(np.float32(PARTNERS) < share.T, np.arange(len(uses)), len(uses))
    partners.sort(axis=1)
    tables = (
        np.take_along_axis(np.pad(table.T, ((0, 0), (0, 1))), partners, axis=1)
        for table in (together, products)
    )
    own = uses, sums, np.diag(products), number
    return Cooccurrence(jnp.asarray(partners), *(jnp.float32(each) for each in (*tables, *own)))


def of_tables(together, products=None, number=1_000):
    """The counts of codes that are all 1, or whose products are others."""

    def filled_up(table):
        spare = [60] * (WIDTH - len(table))
        return np.pad(np.asarray(table, np.float32), (0, len(spare))) + np.diag(
            [0] * len(table) + spare
        )

    together, products = map(filled_up, (together, together if products is None else products))
    return of_pairs(together, products, np.diag(together), number)
