"""What each door makes of activations as real ones are, against plain NumPy."""

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from pytest import approx

import sae_gap
from sae_gap import open_activations
from sae_gap.core import evenly_spaced
from sae_gap.data import HeldOut
from sae_gap.saes import SAE
from tests.real_data import (
    ARRAYS,
    COUNT,
    DOCUMENTS,
    OPTIONS,
    OUTLIERS,
    ROWS,
    codes_of,
    usual,
)

USUAL = usual()
WHOLE = open_activations(ROWS, documents=DOCUMENTS)
SOURCE = HeldOut(WHOLE, samples=50, held_out=0.3, seed=4, split_seed=1)


def test_held_out_rows_are_of_other_documents_and_each_has_its_own_place():
    train, held = SOURCE.parts
    assert not {*DOCUMENTS[train.numbers]} & {*DOCUMENTS[held.numbers]}
    assert_array_equal(np.sort(np.r_[train.numbers, held.numbers]), USUAL)
    # No document could bring the share nearer, and the next smaller one is of a single row.
    assert abs(held.num_samples / COUNT - 0.3) < 0.1
    places = held.numbers[evenly_spaced(held.num_samples, 50)]
    assert_array_equal(SOURCE.scored, ROWS[places].astype("f"))
    names, members = np.unique(DOCUMENTS[places], return_inverse=True)
    assert_array_equal(SOURCE.members, members)
    assert len(names) > 1
    # At least one outlier, where the held-out documents have some.
    outside = [row for row in OUTLIERS if DOCUMENTS[row] in {*DOCUMENTS[held.numbers]}]
    share = -(-len(outside) * 50 // held.num_samples)
    assert len(SOURCE.left_out) == min(share, len(outside))
    assert all(
        any((ROWS[row] == left).all() for row in outside) for left in SOURCE.left_out
    )
    task = SOURCE.task()
    count = 50 + len(SOURCE.left_out)
    assert len(task.id.signals) == count and task.width == SOURCE.width
    counts = np.ones(count, bool) if task.id.counts is None else task.id.counts
    assert_array_equal(counts, np.arange(count) < 50)
    assert_array_equal(task.train.signals, ROWS[train.numbers].astype("f"))


def test_an_sae_codes_and_is_saved_as_its_formula_says(tmp_path):
    """Of a mean L0 that is not whole."""
    sae = SAE.from_arrays(*ARRAYS, **OPTIONS)
    sae_gap.save_sae(sae, tmp_path / "sae", metadata={"hook_name": "blocks.3"})
    again = sae_gap.load_sae(tmp_path / "sae")
    rows = ROWS[USUAL]
    wanted = codes_of(rows)
    for each in (sae, again):
        found = np.asarray(each.encode(rows))
        assert_allclose(found, wanted, atol=2e-5)
    assert np.count_nonzero(wanted) / len(wanted) == approx(2.6, abs=0.1)
    assert again.notes["hook_name"] == "blocks.3" and again.architecture == "jumprelu"
