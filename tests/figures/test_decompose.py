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
    return [
        row(dictionary, inference, mcc_ood=score)
        for (dictionary, inference), score in SCORES.items()
    ]


def without(rows, **values):
    return [row for row in rows if any(row.get(name) != value for name, value in values.items())]


def test_the_parts_are_the_differences_and_sum_to_the_distance():
    (found,) = decompositions(make_rows())
    sizes = {
        name: SETTING[name] for name in ("num_latents", "sparsity", "num_samples", "input_dim")
    }
    scores = {"encoder": 1.0, "support": 3.0, "frozen": 7.0, "oracle": 15.0}
    parts = {
        "values_part": 2.0,
        "support_part": 4.0,
        "amortisation_part": 6.0,
        "dictionary_part": 8.0,
    }
    cell = sizes | {"noise_db": None, "width": None, "stream": None, "seed": 0}
    assert found == {"method": "topk own", "dictionary": "topk"} | cell | scores | parts


def test_without_the_support_two_parts_are_left():
    (found,) = decompositions(without(make_rows(), inference="support"))
    assert (found["support"], found["values_part"], found["support_part"]) == (None, None, None)
    assert (found["amortisation_part"], found["dictionary_part"]) == (6.0, 8.0)


@pytest.mark.parametrize("missing", [("topk", "own"), ("topk", "lasso"), ("oracle", "lasso")])
def test_an_incomplete_cell_is_left_out(missing):
    place = [*SCORES].index(missing)
    assert decompositions([row for other, row in enumerate(make_rows()) if other != place]) == []
    assert (
        decompositions(
            [
                row | {"mcc_ood": None} if other == place else row
                for other, row in enumerate(make_rows())
            ]
        )
        == []
    )


CHANGES = {
    "num_latents": 50,
    "sparsity": 5,
    "num_samples": 100,
    "input_dim": 48,
    "noise_db": 20.0,
    "protocol": "paper",
}
CHANGES |= {"lam": 0.2, "seed": 1, "study": "other", "data": "abc", "stream": True}


@pytest.mark.parametrize("change", [{name: value} for name, value in CHANGES.items()], ids=CHANGES)
def test_rows_are_paired_within_their_cell_alone(change):
    rows = make_rows()
    for place in range(4):
        assert (
            decompositions(
                [row | change if other == place else row for other, row in enumerate(rows)]
            )
            == []
            or place == 1
        )
    assert (
        len(decompositions(rows + [row | {"mcc_ood": 2 * row["mcc_ood"]} | change for row in rows]))
        == 2
    )
    # The support row of another cell is not this one's.
    (found,) = decompositions(
        [row | change if row["inference"] == "support" else row for row in rows]
    )
    assert found["support"] is None


def test_warm_starts_and_changed_atoms_are_no_part_of_it():
    rows = make_rows()
    changes = ({"start": "warm"}, {"columns": "renormed"})
    others = [
        row | {"mcc_ood": 99.0} | change
        for row in rows
        if row["inference"] == "lasso"
        for change in changes
    ]
    assert decompositions(others + rows) == decompositions(rows)
    named = [
        row | {"start": "cold", "columns": "learned"} if row["inference"] == "lasso" else row
        for row in rows
    ]
    assert decompositions(named) == decompositions(rows)


def test_the_most_iterations_of_fista_stand_for_the_lasso_where_there_is_none():
    rows = make_rows()
    fista = [
        row | {"inference": "fista", "iterations": count, "mcc_ood": row["mcc_ood"] - 100 / count}
        for row in rows
        if row["inference"] == "lasso"
        for count in (100, 20)
    ]
    assert decompositions(rows + fista) == decompositions(rows)
    (found,) = decompositions(without(rows, inference="lasso") + fista)
    assert (found["frozen"], found["oracle"]) == (6.0, 14.0)


def test_two_rows_of_one_place_are_refused():
    for again in make_rows():
        with pytest.raises(ValueError, match="twice"):
            decompositions([*make_rows(), again])
