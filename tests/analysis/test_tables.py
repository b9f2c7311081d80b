"""Summaries are honest about seeds, and tables say what they hold."""

import csv

from pytest import mark, raises

from sae_gap.analysis import tables
from sae_gap.analysis.tables import format_table, summarise
from tests.figures.samples import SETTING


def row(method, seed, **values):
    kept = {"key": f"{method}{seed}", "job": method, "method": method, "seed": seed}
    kept |= {"study": "amortisation_gap", "revision": "abc", "compile_seconds": 3.0}
    return SETTING | kept | {"converged": True, "cosines": [1.0]} | values


def test_one_seed_has_no_deviation_and_a_failed_one_leaves_no_mean():
    rows = [row("a", 0, mcc_id=0.5)]
    rows += [
        row("b", seed, mcc_id=value) for seed, value in enumerate((0.5, float("nan")))
    ]
    one, failed = summarise(rows)
    assert (one["mcc_id_mean"], one["mcc_id_sd"], one["seeds"]) == (0.5, None, 1)
    assert (failed["mcc_id_mean"], failed["mcc_id_sd"], failed["seeds"]) == (
        None,
        None,
        2,
    )


def test_methods_keep_the_order_given_whatever_the_order_of_rows():
    rows = [
        row(method, 0, num_latents=size, mcc_id=0.5)
        for method in "abc"
        for size in (1000, 50)
    ]
    lines = summarise(rows[::-1], methods=("c", "a"))
    found = [(line["method"], line["num_latents"]) for line in lines]
    assert found == [
        ("c", 50),
        ("c", 1000),
        ("a", 50),
        ("a", 1000),
        ("b", 50),
        ("b", 1000),
    ]
    assert summarise(rows, methods="cab") == summarise(rows[::-1], methods="cab")


@mark.parametrize(("column", "other"), [("study", "another"), ("lam", None)])
def test_a_mean_over_different_conditions_is_refused(column, other):
    rows = [row("a", 0, mcc_id=0.5), row("a", 1, mcc_id=0.5, **{column: other})]
    with raises(ValueError, match=f"mix {column}"):
        summarise(rows)
    assert len(summarise(rows, by=(*tables.BY, column))) == 2
    with raises(ValueError, match="seed twice"):
        summarise([rows[0], rows[0] | {"mcc_id": 0.7}])


def test_the_summary_file_has_the_promised_columns(tmp_path):
    rows = [
        row("linear_probe", 0, fit_seconds=1.0, mcc_ood=0.5),
        row("sae_mp", 0, fit_seconds=0.1, mcc_id=1 / 3, mcc_ood=0.1),
    ]
    summary = summarise(rows, methods=("linear_probe", "sae_mp"))
    tables.write_table(tmp_path, "summary.csv", summary)
    header, probe, sae = csv.reader((tmp_path / "summary.csv").read_text().splitlines())
    # Seconds come last.
    metrics = ("mcc_ood", "mcc_id", "fit_seconds")
    parts = [f"{name}_{part}" for name in metrics for part in ("mean", "sd")]
    assert header == [*tables.BY, "seeds", *parts]
    assert probe == [
        "linear_probe",
        "100",
        "10",
        "5000",
        "1",
        "0.5",
        "",
        "",
        "",
        "1.0",
        "",
    ]
    assert float(sae[header.index("mcc_id_mean")]) == 1 / 3
    lines = [{"a": 1, "sums": None}, {"a": 2, "b": "x", "sums": [1.0, 2.0]}]
    tables.write_table(tmp_path, "rows.csv", lines)
    assert (tmp_path / "rows.csv").read_text() == "a,b\n1,\n2,x\n"


def test_the_table_lines_up():
    rows = [
        row("sae_relu", seed, mcc_id=value, l0_id=12.0 + seed, gap_id=1e-5 * seed)
        for seed, value in enumerate((0.4, 0.5))
    ]
    rows += [row("linear_probe", 0, mcc_id=0.67)]
    columns = {
        "method": "method",
        "num_samples": "samples",
        "mcc_id": "MCC",
        "l0_id": "L0",
    }
    columns |= {"gap_id": "gap"}
    assert format_table(summarise(rows), columns).splitlines() == [
        "method        samples            MCC          L0                gap",
        "------------  -------  -------------  ----------  -----------------",
        "sae_relu        5,000  0.450 ± 0.071  12.5 ± 0.7  5.0e-06 ± 7.1e-06",
        "linear_probe    5,000          0.670           -                  -",
    ]
    assert format_table(summarise([]), {"method": "x"}) == "x\n-"


@mark.parametrize(
    ("values", "cells"),
    [
        ([0.5, 9.94, 123.4], ["0.500", "9.9", "123.4"]),
        ([0.0, -1_234.5], ["0", "-1,234"]),
        ([0.0, 2e-5, -0.31], ["0.000", "2.0e-05", "-0.310"]),
        ([3.0, float("inf")], ["3.000", "-"]),
    ],
)
def test_a_large_number_leaves_the_small_ones_of_its_column_their_figures(
    values, cells
):
    _, _, rows = tables.grid(
        [{"x_mean": value, "x_sd": None} for value in values], {"x": "x"}
    )
    assert [cell for (cell,) in rows] == cells


def test_numbers_stand_at_the_right_and_names_at_the_left():
    lines = [
        {"method": "m2000", "lam": 0.05, "flops": 1234567, "done": True},
        {"method": "b", "lam": 1e-4, "gap": 1},
    ]
    columns = {
        "method": "method",
        "lam": "λ",
        "flops": "flops",
        "done": "done",
        "gap": "gap",
    }
    headings, numeric, rows = tables.grid(lines, columns)
    assert headings == [*columns.values()] and numeric == [
        False,
        True,
        True,
        False,
        True,
    ]
    assert rows == [
        ["m2000", "0.05", "1,234,567", "True", "-"],
        ["b", "0.0001", "-", "-", "1"],
    ]
    with raises(ValueError, match="no line has a column 'mcc'"):
        format_table(lines, {"mcc": "MCC"})


def test_a_table_that_is_too_wide_goes_on_below_its_names():
    names = [f"metric_{place}" for place in range(9)]
    lines = [
        {"method": f"sae_{kind}"} | {f"{name}_mean": 0.5 for name in names}
        for kind in ("relu", "topk")
    ]
    columns = {"method": "method"} | {name: name for name in names}
    table = format_table(lines, columns, width=40)
    assert max(map(len, table.splitlines())) <= 40
    blocks = [block.splitlines() for block in table.split("\n\n")]
    headings = [["method", *names[start : start + 3]] for start in (0, 3, 6)]
    assert [block[0].split() for block in blocks] == headings
    for block in blocks:
        assert [line.split()[0] for line in block[2:]] == ["sae_relu", "sae_topk"]
