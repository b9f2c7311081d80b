"""Coherent atoms decorrelated: beside a Gram matrix that is formed at once, and by hand."""

import jax
import numpy as np
import pytest

from sae_gap.learners.online import decorrelation
from tests.learners.online.examples import NARROW, WIDTH, filled, of_tables, unit

decorrelate_children = jax.jit(decorrelation.decorrelate_children)


@pytest.mark.parametrize(
    ("input_dim", "padding", "columns"), [(200, 0, 43), (200, 0, 7), (30, 0, 20), (30, 170, 43)]
)
def test_coherent_atoms_lose_what_they_share_with_more_central_ones(
    input_dim, padding, columns, monkeypatch
):
    """At cosines above .3 and above four standard deviations of chance, in any blocks of columns;
    opposite atoms are not coherent, and padding makes none.
    """
    rng = np.random.default_rng(0)
    one = unit(rng.standard_normal((input_dim, 25)))
    added = one[:, :12] + 0.8 * one[:, 3:15], one[:, :6] - 0.8 * one[:, 12:18]
    atoms = unit(np.concatenate([one, *added], axis=1))
    gram, least = atoms.T @ atoms - np.eye(43), max(0.3, 4 / input_dim**0.5)
    much = np.where(gram > least, gram, 0)
    central = much.sum(axis=0)
    taken = atoms @ np.where(central[:, None] > central, much, 0)
    most = (atoms * taken).sum(axis=0) / np.maximum((taken**2).sum(axis=0), 1e-12)
    # Some are just below and some are opposite, and steps have both lengths.
    assert ((gram > least - 0.1) & (gram < least)).any() and (gram < -0.3).any()
    wanted = unit(atoms - np.minimum(0.5, most) * taken)
    assert np.abs(wanted - atoms).max() > 0.01
    monkeypatch.setattr(decorrelation, "GRAM_COLUMNS", columns)
    given = np.pad(atoms, ((0, padding), (0, 0))).astype(np.float32)
    found = jax.jit(lambda atoms: decorrelation.decorrelate_atoms(atoms))(given)
    np.testing.assert_allclose(found[:input_dim], wanted, atol=2e-6)


# Seven pairs in 60 dimensions, where chance makes .13: uses of both, of the first, of the second,
# their cosine, and whether the second moves.
PAIRS = [
    (50, 100, 50, 0.25, True),
    (50, 100, 50, -0.25, True),
    (50, 100, 50, 0.12, False),
    # On in 76 % of the child's uses.
    (38, 100, 50, 0.25, False),
    # Of two that are used as often none is the child.
    (95, 100, 100, 0.25, False),
    (95, 101, 100, 0.25, True),
    (5, 100, 5, 0.25, False),
]


def test_a_child_is_decorrelated_from_what_includes_it():
    atoms, together = NARROW[:, :WIDTH].copy(), np.zeros((WIDTH, WIDTH))
    wanted = atoms.copy()
    for i, (both, first, second, cosine, moves) in zip(range(0, WIDTH, 2), PAIRS, strict=True):
        together[i : i + 2, i : i + 2] = [[first, both], [both, second]]
        rest = (1 - cosine**2) ** 0.5 * atoms[:, i + 1]
        atoms[:, i + 1] = rest + cosine * atoms[:, i]
        wanted[:, i + 1] = unit(rest + cosine * (0.5 if moves else 1) * atoms[:, i])
    found = decorrelate_children(atoms.astype(np.float32), of_tables(together), 0.5)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_what_many_that_include_an_atom_share_is_taken_out_once():
    """Five atoms of cosine .7 with each other, each at .5 with the one that they include: at most
    all of it goes.
    """
    above = 0.7**0.5 * NARROW[:, :1] + 0.3**0.5 * NARROW[:, 1:6]
    # Their mean has a squared length of .7 + .3 / 5.
    mean = above.mean(axis=1) / 0.76**0.5
    child = 0.5 / 0.76**0.5 * mean + (1 - 0.25 / 0.76) ** 0.5 * NARROW[:, 6]
    together = np.diag([100.0] * 5 + [50])
    together[5, :5] = together[:5, 5] = 50
    found = decorrelate_children(filled(np.column_stack([above, child])), of_tables(together), 0.5)
    np.testing.assert_allclose(found[:, :5].T @ found[:, 5], 0, atol=1e-5)
