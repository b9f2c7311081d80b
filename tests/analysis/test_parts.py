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
    codes = {"support_codes": "topk support", "frozen_codes": "topk lasso"}
    codes |= {"oracle_codes": "oracle lasso", "relative_gap": None}
    assert found == {"method": "topk own", "dictionary": "topk"} | cell | scores | parts | codes


def test_a_part_takes_the_codes_that_are_best_on_average_over_seeds():
    seeds = [[row | {"seed": seed} for row in make_rows()] for seed in (0, 1)]
    others = {"topk support": (5.0, 0.0), "topk least": (2.0, 5.0), "oracle omp": (15.5, 15.5)}
    kinds = {"topk support": "support", "topk least": "least_squares", "oracle omp": "omp"}
    for seed, rows in enumerate(seeds):
        rows[1]["mcc_ood"] = others["topk support"][seed]
        for name, inference in kinds.items():
            if name != "topk support":
                again = rows[2] | {"method": name, "dictionary": name.split()[0]}
                rows.append(again | {"inference": inference, "mcc_ood": others[name][seed]})
    found = decompositions([*seeds[0], *seeds[1]])
    assert [line["seed"] for line in found] == [0, 1]
    assert [line["support"] for line in found] == [2.0, 5.0]
    assert [line["support_codes"] for line in found] == ["topk least"] * 2
    assert [line["dictionary_part"] for line in found] == [8.5, 8.5]
    # No code that keeps the own support, and none at all, falls behind the own codes.
    low = [row | {"mcc_ood": 0.5} for row in seeds[0] if row["method"] in ("topk support",)]
    (found,) = decompositions([seeds[0][0], *low, seeds[0][2] | {"mcc_ood": 0.7}, seeds[0][3]])
    assert (found["values_part"], found["support_part"], found["frozen_codes"]) == (
        0,
        0,
        "topk own",
    )


def test_another_encoder_s_own_codes_keep_another_support_and_nan_counts_as_missing():
    other = make_rows()[0] | {"method": "another", "mcc_ood": 6.0}
    (found, _) = decompositions([*make_rows(), other])
    assert (found["support"], found["support_codes"]) == (3.0, "topk support")
    (found, last) = decompositions([*make_rows()[::2], other, make_rows()[3]])
    assert found["values_part"] is None and last["method"] == "another"
    rows = make_rows()
    rows[3]["mcc_ood"] = float("nan")
    assert decompositions(rows) == []


def test_the_gap_is_of_the_own_codes_on_the_split_of_the_score():
    rows = [
        row | {"mcc_id": 1.0, "relative_gap_id": place, "relative_gap_ood": 10 + place}
        for place, row in enumerate(make_rows())
    ]
    gaps = [decompositions(rows, f"mcc_{split}")[0]["relative_gap"] for split in ("id", "ood")]
    assert gaps == [0, 10]


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


CHANGES = {"num_latents": 50, "sparsity": 5, "num_samples": 100, "input_dim": 48}
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


def test_changed_atoms_are_no_part_of_it_and_codes_may_differ_in_any_option():
    rows = make_rows()
    changed = [row | {"mcc_ood": 99.0, "columns": "renormed"} for row in rows[2:]]
    assert decompositions(changed + rows) == decompositions(rows)
    options = ({"start": "warm"}, {"lam": 0.2}, {"iterations": 9}, {"screens": 2})
    for option in options:
        (found,) = decompositions([*rows, rows[2] | {"mcc_ood": 9.0} | option])
        assert found["frozen"] == 9.0


def test_two_rows_of_one_place_are_refused():
    for again in make_rows():
        with pytest.raises(ValueError, match="twice"):
            decompositions([*make_rows(), again])
