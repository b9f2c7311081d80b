"""The parts of the distance to the oracle: paired within a cell, and summing to it."""

import itertools

import pytest

from sae_gap.figures.decompose import decompositions

# Sums of different powers of two, so that each part tells which scores it is the difference of.
SCORES = {("topk", "own"): 1.0, ("topk", "support"): 3.0, ("topk", "lasso"): 7.0, ("oracle", "lasso"): 15.0}


def make_rows(**values):
    cell = {
        "num_latents": 100,
        "sparsity": 10,
        "num_samples": 5_000,
        "input_dim": 47,
        "lam": 0.1,
        "protocol": "strict",
        "seed": 0,
    }
    return [
        cell | {"method": f"m{place}", "dictionary": dictionary, "inference": inference, "mcc_ood": score} | values
        for place, ((dictionary, inference), score) in enumerate(SCORES.items())
    ]


def without(rows, **values):
    return [row for row in rows if any(row.get(name) != value for name, value in values.items())]


def test_the_parts_are_the_differences_and_sum_to_the_distance():
    (found,) = decompositions(make_rows())
    assert found == {
        "method": "m0",
        "dictionary": "topk",
        "num_latents": 100,
        "sparsity": 10,
        "num_samples": 5_000,
        "input_dim": 47,
        "noise_db": None,
        "width": None,
        "stream": None,
        "seed": 0,
        "encoder": 1.0,
        "support": 3.0,
        "frozen": 7.0,
        "oracle": 15.0,
        "values_part": 2.0,
        "support_part": 4.0,
        "amortisation_part": 6.0,
        "dictionary_part": 8.0,
    }


def test_without_the_support_two_parts_are_left():
    (found,) = decompositions(without(make_rows(), inference="support"))
    assert (found["support"], found["values_part"], found["support_part"]) == (None, None, None)
    assert (found["amortisation_part"], found["dictionary_part"]) == (6.0, 8.0)


@pytest.mark.parametrize("missing", [("topk", "own"), ("topk", "lasso"), ("oracle", "lasso")])
def test_an_incomplete_cell_is_left_out(missing):
    assert decompositions(without(make_rows(), dictionary=missing[0], inference=missing[1])) == []
    assert (
        decompositions(
            [row | {"mcc_ood": None} if (row["dictionary"], row["inference"]) == missing else row for row in make_rows()]
        )
        == []
    )


@pytest.mark.parametrize(
    "change",
    [
        {"num_latents": 50},
        {"sparsity": 5},
        {"num_samples": 100},
        {"input_dim": 48},
        {"noise_db": 20.0},
        {"protocol": "paper"},
        {"lam": 0.2},
        {"seed": 1},
        {"study": "other"},
        {"data": "abc"},
        {"stream": True},
    ],
)
def test_rows_are_paired_within_their_cell_alone(change):
    rows = make_rows()
    for place in range(4):
        assert decompositions([row | change if other == place else row for other, row in enumerate(rows)]) == [] or place == 1
    assert len(decompositions(rows + [row | {"mcc_ood": 2 * row["mcc_ood"]} | change for row in rows])) == 2
    # The support row of another cell is not this one's.
    (found,) = decompositions([row | change if row["inference"] == "support" else row for row in rows])
    assert found["support"] is None


def test_warm_starts_and_changed_atoms_are_no_part_of_it():
    rows = make_rows()
    others = [
        row | {"method": f"other {place}", "mcc_ood": 99.0} | change
        for place, (row, change) in enumerate(
            itertools.product(
                [row for row in rows if row["inference"] == "lasso"], ({"start": "warm"}, {"columns": "renormed"})
            )
        )
    ]
    assert decompositions(others + rows) == decompositions(rows)
    named = [row | {"start": "cold", "columns": "learned"} if row["inference"] == "lasso" else row for row in rows]
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
    for row in make_rows():
        with pytest.raises(ValueError, match="twice"):
            decompositions([*make_rows(), row])
