"""The parts of the distance to the oracle: paired within a cell, and summing to it."""

import pytest

from sae_gap.figures.decompose import decompositions

from .samples import SETTING, row

# Sums of different powers of two, so that each part tells which scores it is the difference of.
SCORES = {
    ("topk", "own"): 1.0,
    ("topk", "support"): 3.0,
    ("topk", "lasso"): 7.0,
    ("oracle", "lasso"): 15.0,
}


def make_rows():
    return [row(*place, mcc_ood=score) for place, score in SCORES.items()]


def without(rows, **values):
    return [row for row in rows if any(row.get(name) != value for name, value in values.items())]


def test_the_parts_are_the_differences_and_sum_to_the_distance():
    (found,) = decompositions(make_rows())
    names = ("num_latents", "sparsity", "num_samples", "input_dim")
    sizes = {name: SETTING[name] for name in names}
    scores = {"encoder": 1.0, "support": 3.0, "frozen": 7.0, "oracle": 15.0}
    parts = {"values_part": 2.0, "support_part": 4.0}
    parts |= {"amortisation_part": 6.0, "dictionary_part": 8.0}
    cell = sizes | {"noise_db": None, "width": None, "stream": None, "seed": 0}
    assert found == {"method": "topk own", "dictionary": "topk"} | cell | scores | parts


def test_without_the_support_two_parts_are_left():
    (found,) = decompositions(without(make_rows(), inference="support"))
    assert (found["support"], found["values_part"], found["support_part"]) == (None, None, None)
    assert (found["amortisation_part"], found["dictionary_part"]) == (6.0, 8.0)


@pytest.mark.parametrize("missing", [("topk", "own"), ("topk", "lasso"), ("oracle", "lasso")])
def test_an_incomplete_cell_is_left_out(missing):
    place, rows = [*SCORES].index(missing), make_rows()
    assert decompositions([*rows[:place], *rows[place + 1 :]]) == []
    rows[place]["mcc_ood"] = None
    assert decompositions(rows) == []


CHANGES = {"num_latents": 50, "sparsity": 5, "num_samples": 100, "input_dim": 48, "lam": 0.2}
CHANGES |= {"noise_db": 20.0, "protocol": "paper", "seed": 1, "study": "other", "data": "abc"}
CHANGES |= {"stream": True}


@pytest.mark.parametrize("change", [{name: value} for name, value in CHANGES.items()], ids=CHANGES)
def test_rows_are_paired_within_their_cell_alone(change):
    rows = make_rows()
    for place in (0, 2, 3):
        changed = rows[place] | change
        assert decompositions([*rows[:place], changed, *rows[place + 1 :]]) == []
    twice = [row | {"mcc_ood": 2 * row["mcc_ood"]} | change for row in rows]
    assert len(decompositions(rows + twice)) == 2
    # The support row of another cell is not this one's.
    (found,) = decompositions([rows[0], rows[1] | change, *rows[2:]])
    assert found["support"] is None


def test_warm_starts_and_changed_atoms_are_no_part_of_it():
    rows = make_rows()
    others = [
        row | {"mcc_ood": 99.0} | change
        for row in rows[2:]
        for change in ({"start": "warm"}, {"columns": "renormed"})
    ]
    assert decompositions(others + rows) == decompositions(rows)
    named = [row | {"start": "cold", "columns": "learned"} for row in rows[2:]]
    assert decompositions(rows[:2] + named) == decompositions(rows)


def test_the_most_iterations_of_fista_stand_for_the_lasso_where_there_is_none():
    rows = make_rows()
    fista = [
        row | {"inference": "fista", "iterations": count, "mcc_ood": row["mcc_ood"] - 100 / count}
        for row in rows[2:]
        for count in (100, 20)
    ]
    assert decompositions(rows + fista) == decompositions(rows)
    (found,) = decompositions(without(rows, inference="lasso") + fista)
    assert (found["frozen"], found["oracle"]) == (6.0, 14.0)


def test_two_rows_of_one_place_are_refused():
    for again in make_rows():
        with pytest.raises(ValueError, match="twice"):
            decompositions([*make_rows(), again])
