"""The lines of a measurement, of rows written by hand."""

import pytest

from sae_gap.measure import atom_lines, curve_lines, worst_lines


def point(name, l0, fvu, codes="lasso", **others):
    row = {
        "kind": "curve",
        "dictionary": name,
        "codes": codes,
        "role": "sae",
        "samples": 9,
        "l0": l0,
        "fvu": fvu,
    }
    return (
        row
        | {"refit_l0": l0, "refit_fvu": fvu / 2, "certificate": 1e-7 * l0, "lam": 1 / l0}
        | others
    )


@pytest.mark.parametrize(("fvu", "best"), [(0.3, "screened"), (0.5, "lasso")])
def test_the_best_codes_are_those_that_explain_more_and_the_curve_stays_the_lassos(fvu, best):
    rows = [point("mine", 2.0, 0.4), point("mine", 4.0, 0.2)]
    rows += [point("mine", 2.0, fvu, "screened"), point("mine", 2.0, 0.1, "proposed")]
    rows += [point("mine", 2.0, 0.6, "own", lam=None)]
    rows += [{"kind": "weight", "dictionary": "mine", "own_lam": 0.5, "common_lam": 0.5}]
    for row in rows:
        # Of a pursuit they are one.
        if row.get("codes") in ("screened", "proposed"):
            row |= {"refit_fvu": row["fvu"] / 2, "certificate": None}
    (line,) = curve_lines(rows)
    assert (line["best_codes"], line["best_fvu"]) == (best, min(fvu, 0.4) / 2)
    assert (line["curve_fvu"], line["curve_refit_fvu"]) == (0.4, 0.2)
    assert line["refit_fvu_ratio"] == pytest.approx(0.3 / line["best_fvu"])


def test_a_curve_is_read_at_the_encoders_l0_or_at_the_common_one():
    # FVU is 0.8 / L0 here, a line in logarithms, and half of that after least squares.
    rows = [
        *(point("mine", l0, 0.8 / l0) for l0 in (1.0, 2.0, 4.0)),
        point("mine", 2.0, 0.3, "own", refit_fvu=0.25, lam=None),
    ]
    rows += [point("random", l0, 0.9) for l0 in (1.0, 4.0)]
    weights = {"mine": {"own_lam": 0.5, "common_lam": 0.25}, "random": {"common_lam": 0.25}}
    rows += [{"kind": "weight", "dictionary": name, **weight} for name, weight in weights.items()]
    mine, random = curve_lines(rows)
    assert (mine["at_l0"], mine["curve_fvu"], mine["curve_refit_fvu"]) == (2, 0.4, 0.2)
    assert mine["fvu_ratio"] == pytest.approx(0.3 / 0.2) and mine[
        "refit_fvu_ratio"
    ] == pytest.approx(0.25 / 0.2)
    # Least squares on the curve have an FVU of 0.25 at an L0 of 1.6.
    assert mine["l0_ratio"] == pytest.approx(2 / 1.6) and mine["certificate"] == pytest.approx(4e-7)
    assert random["at_l0"] == 4 and random["curve_fvu"] == 0.9 and "fvu_ratio" not in random


def test_the_worst_samples_are_the_largest_gaps_of_all_chunks():
    worst = [
        {
            "worst_index": [4, 7],
            "worst_gap": [3.0, 1.0],
            "worst_relative_gap": [0.3, 0.1],
            "worst_document": [1, 2],
        },
        {
            "worst_index": [9, 8],
            "worst_gap": [5.0, 3.0],
            "worst_relative_gap": [0.5, 0.2],
            "worst_document": None,
        },
    ]
    lines = worst_lines([{"kind": "gap", "dictionary": "D", **one} for one in worst], most=3)
    assert [(line["index"], line["gap"], line["document"]) for line in lines] == [
        (9, 5, None),
        (4, 3, 1),
        (8, 3, None),
    ]


def test_atoms_are_agreed_on_with_the_first():
    def atoms(name, coherence):
        row = {"kind": "atoms", "dictionary": name, "num_latents": 3, "dead": 0, "duplicates": 1}
        return row | {"coherence": coherence}

    agreed = {"kind": "agreement", "dictionary": "one", "other": "two", "cosine": 0.7}
    one, two = atom_lines(
        [atoms("one", [place / 100 for place in range(101)]), atoms("two", []), agreed]
    )
    assert (one["coherence_median"], one["coherence_95"], one["agreement"]) == (0.5, 0.95, None)
    assert (two["coherence_median"], two["agreement"]) == (None, 0.7)
