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


def test_idle_atoms_have_a_tenth_of_the_median_energy_of_those_that_have_any():
    squares = jnp.array([0.0, 10.0, 0.0, 0.9, 12.0, 1.1, 0.0, 11.0, 0.0, 0.0])
    wanted = [0, np.inf, 0, 0.9, np.inf, np.inf, 0, np.inf, 0, 0]
    np.testing.assert_allclose(atoms.idle_energy(squares), wanted)
    np.testing.assert_array_equal(atoms.idle_energy(jnp.zeros(3)), jnp.zeros(3))
    assert float(atoms.usual_energy(squares)) == pytest.approx(10)
    assert float(atoms.usual_energy(jnp.zeros(3))) == 0


def test_the_page_of_mathematics_has_the_thresholds():
    page = Path(cooccurrence.__file__).with_name("README.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", page, re.MULTILINE))
    rules = add_missing_parents, part_from_parents, split_merged_parents, turn_pairs
    constants = {
        name: value for file in (cooccurrence, atoms, *rules) for name, value in vars(file).items()
    }
    assert len(table) == 14
    assert all(constants[name.upper()] == float(value) for name, value in table.items())
    # Pairs of smaller shares are not counted.
    assert min(constants[name] for name in ("INCLUDES", "APART", "TURNED")) >= constants["PARTNERS"]
