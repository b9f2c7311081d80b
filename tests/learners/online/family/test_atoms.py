"""Which atoms are idle, and the thresholds of the rules."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.learners.online import cooccurrence
from sae_gap.learners.online.family import (
    add_missing_parents,
    atoms,
    part_from_parents,
    split_merged_parents,
    turn_pairs,
)
from tests.learners.online.family.examples import ROWS, WIDTH, filled, of_tables, unit


def test_idle_atoms_have_a_tenth_of_the_median_energy_of_those_that_have_any():
    squares = jnp.array([0.0, 10.0, 0.0, 0.9, 12.0, 1.1, 0.0, 11.0, 0.0, 0.0])
    wanted = [0, np.inf, 0, 0.9, np.inf, np.inf, 0, np.inf, 0, 0]
    np.testing.assert_allclose(atoms.idle_energy(squares), wanted)
    np.testing.assert_array_equal(atoms.idle_energy(jnp.zeros(3)), jnp.zeros(3))
    assert float(atoms.usual_energy(squares)) == pytest.approx(10)
    assert float(atoms.usual_energy(jnp.zeros(3))) == 0


def test_atoms_are_alike_only_if_neither_is_on_in_half_of_the_uses_of_the_other():
    """Of three like atoms with 300, 100 and 100 uses the second is on beside the first in 60, the
    third in 20; a fourth has hardly any use, and a fifth has moved.
    """
    table = np.diag([300.0, 100, 100, 3, 100])
    table[0, 1] = table[1, 0] = 60
    table[0, 2] = table[2, 0] = 20
    alike_atoms = filled(unit(np.full((ROWS, 5), 1.0) + np.eye(ROWS, 5)))
    moved = np.arange(WIDTH) == 4
    others = np.tile(np.arange(WIDTH), (WIDTH, 1))
    given = atoms.Atoms(jnp.asarray(alike_atoms), jnp.asarray(moved))
    found, cosines = atoms.alike_pairs(given, of_tables(table), jnp.asarray(others), 0.5)
    np.testing.assert_allclose(cosines, alike_atoms.T @ alike_atoms, atol=1e-5)
    assert np.argwhere(found).tolist() == [[0, 2], [1, 2], [2, 0], [2, 1]]


def test_the_page_of_mathematics_has_the_thresholds():
    page = Path(cooccurrence.__file__).with_name("README.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page, re.MULTILINE))
    rules = add_missing_parents, part_from_parents, split_merged_parents, turn_pairs
    constants = {
        name: value for file in (cooccurrence, atoms, *rules) for name, value in vars(file).items()
    }
    assert len(table) == 13
    assert all(constants[name.upper()] == float(value) for name, value in table.items())
    # Pairs of smaller shares are not counted.
    assert min(constants[name] for name in ("INCLUDES", "APART")) >= constants["PARTNERS"]
