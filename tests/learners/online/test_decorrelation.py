"""Coherent atoms decorrelated: by hand, and beside a Gram matrix that is formed at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.learners.online import decorrelation
from tests.learners.online.family.examples import NARROW, WIDTH, filled, of_tables

# One program a shape.
decorrelate = jax.jit(decorrelation.decorrelate_atoms)
decorrelate_children = jax.jit(decorrelation.decorrelate_children)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def unit(atoms):
    return atoms / np.linalg.norm(atoms, axis=0)


@pytest.mark.parametrize(("input_dim", "level"), [(400, 0.3), (100, 0.4)])
def test_coherence_that_chance_makes_is_left_alone(rng, input_dim, level):
    """Below .3, and below four standard deviations of the cosine of random atoms."""
    frame = np.linalg.qr(rng.standard_normal((input_dim, 4)))[0]
    for cosine, stays in ((level - 0.02, True), (level + 0.02, False)):
        pair = frame[:, :2].copy()
        pair[:, 1] = cosine * frame[:, 0] + np.sqrt(1 - cosine**2) * frame[:, 1]
        # What makes the first atom the more central one.
        third = 0.9 * frame[:, :1] + np.sqrt(1 - 0.81) * frame[:, 2:3]
        atoms = np.concatenate([pair, third], axis=1)
        found = np.asarray(decorrelate(jnp.asarray(atoms, jnp.float32)))
        assert np.allclose(found[:, 1], atoms[:, 1], atol=1e-6) == stays
        np.testing.assert_allclose(found[:, 0], atoms[:, 0], atol=1e-6)


def test_opposite_atoms_are_not_coherent(rng):
    frame = np.linalg.qr(rng.standard_normal((400, 3)))[0]
    # The first, which would be the more central one of its pair, has a third atom near it.
    atoms = unit(
        np.stack([frame[:, 0], frame[:, 1] - frame[:, 0], frame[:, 0] + 0.5 * frame[:, 2]], axis=1)
    )
    assert (atoms.T @ atoms)[0, 1] < -0.7
    found = decorrelate(jnp.asarray(atoms, jnp.float32))
    np.testing.assert_allclose(found[:, 1], atoms[:, 1], atol=1e-6)


def test_dimensions_that_padding_adds_make_nothing_coherent(rng):
    atoms = unit(rng.standard_normal((30, 20)))
    atoms = unit(np.concatenate([atoms, atoms[:, :10] + 0.7 * atoms[:, 5:15]], axis=1)).astype(
        np.float32
    )
    padded = np.pad(atoms, ((0, 170), (0, 0)))
    cosines = np.abs(atoms.T @ atoms)[~np.eye(30, dtype=bool)]
    # Chance makes .73 in 30 dimensions, and .3 would be coherent in 200.
    assert ((cosines > 0.3) & (cosines < 0.73)).sum() > 20 and (cosines > 0.73).any()
    assert decorrelation.coherent_cosine(jnp.asarray(atoms)) == pytest.approx(4 / np.sqrt(30))
    np.testing.assert_allclose(
        decorrelate(jnp.asarray(padded))[:30],
        decorrelate(jnp.asarray(atoms)),
        atol=1e-6,
    )


def test_blocks_of_columns_are_one_gram_matrix(rng, monkeypatch):
    atoms = unit(rng.standard_normal((200, 25)))
    atoms = unit(
        np.concatenate(
            [atoms, atoms[:, :12] + 0.8 * atoms[:, 3:15], atoms[:, :6] + atoms[:, 12:18]], axis=1
        )
    )
    gram = atoms.T @ atoms - np.eye(43)
    much = np.where(gram > 0.3, gram, 0)
    central = much.sum(axis=0)
    taken = atoms @ np.where(central[:, None] > central, much, 0)
    step = np.minimum(0.5, (atoms * taken).sum(axis=0) / np.maximum((taken**2).sum(axis=0), 1e-12))
    assert (step < 0.5).any() and (step == 0.5).any()
    wanted = unit(atoms - step * taken)
    assert np.abs(wanted - atoms).max() > 0.01
    for columns in (43, 20, 7):
        monkeypatch.setattr(decorrelation, "GRAM_COLUMNS", columns)
        decorrelate.clear_cache()
        np.testing.assert_allclose(decorrelate(jnp.asarray(atoms, jnp.float32)), wanted, atol=2e-6)


def test_a_child_is_decorrelated_from_what_includes_it():
    """Seven pairs in 60 dimensions, where chance makes .13: uses of both, of the first, of the
    second, and their cosine.
    """
    pairs = {
        (50, 100, 50, 0.25): True,
        (50, 100, 50, -0.25): True,
        (50, 100, 50, 0.12): False,
        # On in 76 % of the child's uses.
        (38, 100, 50, 0.25): False,
        # Of two that are used as often none is the child.
        (95, 100, 100, 0.25): False,
        (95, 101, 100, 0.25): True,
        (5, 100, 5, 0.25): False,
    }
    atoms, together = NARROW[:, :WIDTH].copy(), np.zeros((WIDTH, WIDTH))
    for i, (both, first, second, cosine) in enumerate(pairs):
        together[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = [[first, both], [both, second]]
        atoms[:, 2 * i + 1] *= (1 - cosine**2) ** 0.5
        atoms[:, 2 * i + 1] += cosine * atoms[:, 2 * i]
    wanted = atoms.copy()
    for i, ((*_, cosine), moves) in enumerate(pairs.items()):
        if moves:
            wanted[:, 2 * i + 1] = unit(atoms[:, 2 * i + 1] - 0.5 * cosine * atoms[:, 2 * i])
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
