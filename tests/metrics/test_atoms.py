"""Recovery by level and by frequency, by hand and by SciPy's assignment."""

import numpy as np
import pytest
import scipy.sparse
from scipy.optimize import linear_sum_assignment

from sae_gap.core import match_atoms, nearest_atoms
from sae_gap.metrics import atom_scores, groups_of
from tests.metrics.samples import unit


@pytest.mark.parametrize(("learned", "true"), [(5, 9), (9, 5), (7, 7)])
def test_atom_scores_are_those_of_the_assignment(learned, true):
    atoms, truth = unit(6, learned) * 3, unit(6, true)
    cosine = np.abs((atoms / 3).T @ truth)
    rows, columns = linear_sum_assignment(-cosine)
    nearest, groups = nearest_atoms(atoms, truth), {"first": np.arange(3), "none": np.zeros(0, int)}
    found = atom_scores(match_atoms(atoms, truth), learned, nearest, groups)
    assert found["atom_mcc"] == pytest.approx(cosine[rows, columns].mean(), abs=1e-6)
    assert found["uniqueness"] == len(set(cosine.argmax(axis=1))) / learned
    pairs = {column: cosine[row, column] for row, column in zip(rows, columns, strict=True)}
    assert found["atom_mcc_first"] == pytest.approx(
        np.mean([pairs[i] for i in range(3) if i in pairs]), abs=1e-6
    )
    assert "atom_mcc_none" not in found


def test_groups_are_levels_and_quartiles():
    codes = np.zeros((20, 8), np.float32)
    for feature, fired in enumerate((3, 20, 1, 5, 7, 0, 9, 2)):
        codes[:fired, feature] = 1
    found = groups_of(codes, np.array([0, 0, 1, 1, 2, 4, -1, -1]))
    assert {name: group.tolist() for name, group in found.items()} == {
        "roots": [0, 1],
        "children": [2, 3],
        "grandchildren": [4],
        "great_grandchildren": [],
        "level_4": [5],
        "free": [6, 7],
        "frequent": [1, 6],
        "common": [4, 3],
        "uncommon": [0, 7],
        "rare": [2, 5],
    }
    assert list(groups_of(scipy.sparse.csr_array(codes))) == [
        "frequent",
        "common",
        "uncommon",
        "rare",
    ]
