"""What each door makes of activations as real ones are, against plain NumPy."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import sae_gap
from sae_gap import open_activations
from sae_gap.core import evenly_spaced
from sae_gap.data import HeldOut
from sae_gap.dictionaries import learn
from sae_gap.saes import SAE
from tests.real_data import ARRAYS, COUNT, DOCUMENTS, OPTIONS, OUTLIERS, ROWS, codes_of, usual

USUAL = usual()
WHOLE = open_activations(ROWS, documents=DOCUMENTS)
SOURCE = HeldOut(WHOLE, samples=50, held_out=0.3, seed=4, split_seed=1)


def test_outliers_are_those_of_the_median_and_take_follows_any_order():
    assert_array_equal(WHOLE.outliers.rows, OUTLIERS)
    assert_array_equal(WHOLE.without_outliers().numbers, USUAL)
    lengths = np.linalg.norm(ROWS.astype(float), axis=1)
    ratios = lengths[[*OUTLIERS]] / np.median(lengths)
    assert_allclose(WHOLE.outliers.ratios, ratios, rtol=1e-6)
    first = np.unique(DOCUMENTS, return_index=True)[1]
    assert WHOLE.outliers.num_first == np.isin(OUTLIERS, first).sum()
    wanted = [COUNT - 1, 7, 7, 0, 640]
    assert_array_equal(WHOLE.take(wanted), ROWS[wanted].astype("f"), strict=True)
    assert_allclose(WHOLE.mean(), ROWS.astype(float).mean(axis=0), rtol=1e-6)


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
    assert all(any((ROWS[row] == left).all() for row in outside) for left in SOURCE.left_out)
    task = SOURCE.task()
    count = 50 + len(SOURCE.left_out)
    assert len(task.id.signals) == count and task.width == SOURCE.width
    counts = np.ones(count, bool) if task.id.counts is None else task.id.counts
    assert_array_equal(counts, np.arange(count) < 50)
    assert_array_equal(task.train.signals, ROWS[train.numbers].astype("f"))


def test_every_option_that_decides_the_rows_is_in_the_key():
    key = SOURCE.asdict()
    assert dataclasses.replace(SOURCE).asdict() == key
    other = open_activations(np.where(np.arange(COUNT)[:, None] == 3, 2 * ROWS, ROWS))
    changes = {
        "activations": other,
        "width": 7,
        "sparsity": 2.6,
        "samples": 51,
        "keep_outliers": True,
        "seed": 5,
        "held_out": 0.2,
        "split_seed": 2,
        "learn_outliers": True,
        "inputs": open_activations(ROWS[:, :5], documents=DOCUMENTS),
        "learn_from": 100,
        "together": True,
    }
    fields = {field.name for field in dataclasses.fields(HeldOut)}
    assert changes.keys() == fields
    for name, value in changes.items():
        assert dataclasses.replace(SOURCE, **{name: value}).asdict() != key, name
    # The seed draws the documents where none of their own does, and what is scored is no share.
    alone = HeldOut(WHOLE, held_out=WHOLE).seen()
    assert alone.keys() == {"activations", "keep_outliers", "input_dim", "seed"}
    assert (key["samples"], key["input_dim"], key["seed"], key["split_seed"]) == (50, 12, 4, 1)
    assert key["held_out"] == 0.3 and "held_out" not in HeldOut(WHOLE).seen()
    assert HeldOut(WHOLE, seed=3).seen()["split_seed"] == 3


def test_a_row_that_is_not_a_number_is_refused_at_every_door():
    spoilt = ROWS.copy()
    spoilt[900, 2] = np.nan
    rows = open_activations(spoilt, documents=DOCUMENTS)
    sae = SAE.from_arrays(*ARRAYS, **OPTIONS)
    for call in (
        lambda: rows.outliers,
        lambda: HeldOut(rows).scored,
        lambda: sae_gap.check(sae, spoilt),
        lambda: sae_gap.learn(spoilt, 12, 2.6),
        lambda: sae.encode(spoilt),
        lambda: sae_gap.fvu(ROWS, spoilt),
    ):
        with pytest.raises(ValueError, match="NaN"):
            call()


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
    assert np.count_nonzero(wanted) / len(wanted) == pytest.approx(2.6, abs=0.1)
    assert again.notes["hook_name"] == "blocks.3" and again.architecture == "jumprelu"


def test_learn_is_given_what_it_says(monkeypatch):
    """Defaults: a tenth of the documents is held out by the seed 0, and outliers are left out."""
    seen = {}

    def fit_rows(learner, rows, width, seed, **options):
        seen.update(learner=learner, rows=rows, width=width, seed=seed, **options)
        raise InterruptedError

    monkeypatch.setattr("sae_gap.dictionaries.learn.fit_rows", fit_rows)
    train, _ = WHOLE.without_outliers().split(0.1, 0)
    for options, numbers in (({}, train.numbers), ({"outliers": "keep"}, WHOLE.split()[0].numbers)):
        with pytest.raises(InterruptedError):
            sae_gap.learn(ROWS, 12, 2.6, documents=DOCUMENTS, seed=9, **options)
        assert_array_equal(seen["rows"].numbers, numbers)
        assert (seen["width"], seen["seed"], seen["checkpoint"]) == (12, 9, None)
        assert seen["show_progress"] is True and seen["learner"].visits == learn.VISITS
