"""Summaries are honest about seeds, and tables say what they hold."""

import csv

import numpy as np
import pytest

from sae_gap.figures import tables


def row(method, seed, **values):
    return {
        "key": f"{method}{seed}",
        "job": method,
        "job_rows": 1,
        "study": "amortisation_gap",
        "method": method,
        "seed": seed,
        "num_latents": 100,
        "sparsity": 10,
        "num_samples": 5_000,
        "input_dim": 47,
        "lam": 0.1,
        "protocol": "strict",
        "revision": "abc",
        "compile_seconds": 3.0,
        "converged": True,
        "cosines": [1.0],
        **values,
    }


def test_summary_is_the_sample_mean_and_deviation():
    measured = [0.2, 0.4, 0.9]
    (line,) = tables.summarise([row("sae_relu", seed, mcc_id=value) for seed, value in enumerate(measured)])
    assert line == {
        "method": "sae_relu",
        "num_latents": 100,
        "sparsity": 10,
        "num_samples": 5_000,
        "seeds": 3,
        "mcc_id_mean": pytest.approx(np.mean(measured)),
        "mcc_id_sd": pytest.approx(np.std(measured, ddof=1)),
    }


def test_the_largest_numbers_have_a_mean_and_fit_in_a_table():
    summary = tables.summarise([row("sae_relu", seed, mcc_id=1.7e308) for seed in range(3)])
    assert summary[0]["mcc_id_mean"] == pytest.approx(1.7e308) and summary[0]["mcc_id_sd"] == 0
    assert tables.format_table(summary, ["mcc_id"]).splitlines()[-1] == "1.7e+308 ± 0.0e+00"


def test_one_seed_has_no_deviation_and_a_failed_seed_has_no_mean():
    one, two = tables.summarise(
        [row("one", 0, mcc_id=0.5), row("two", 0, mcc_id=0.5), row("two", 1, mcc_id=float("nan"))], methods=("one", "two")
    )
    assert (one["mcc_id_mean"], one["mcc_id_sd"], one["seeds"]) == (0.5, None, 1)
    assert (two["mcc_id_mean"], two["mcc_id_sd"], two["seeds"]) == (None, None, 2)


def test_methods_keep_the_order_given_whatever_the_order_of_rows():
    rows = [row(method, 0, num_latents=size, mcc_id=0.5) for method in "abc" for size in (1000, 50)]
    lines = tables.summarise(rows[::-1], methods=("c", "a"))
    assert [(line["method"], line["num_latents"]) for line in lines] == [
        ("c", 50),
        ("c", 1000),
        ("a", 50),
        ("a", 1000),
        ("b", 50),
        ("b", 1000),
    ]
    assert tables.summarise(rows, methods="cab") == tables.summarise(rows[::-1], methods="cab")


@pytest.mark.parametrize(("column", "other"), [("study", "another"), ("protocol", "paper"), ("lam", None), ("input_dim", 50)])
def test_a_mean_over_different_conditions_is_refused(column, other):
    rows = [row("a", 0, mcc_id=0.5), row("a", 1, mcc_id=0.5, **{column: other})]
    with pytest.raises(ValueError, match=f"mix {column}"):
        tables.summarise(rows)
    assert len(tables.summarise(rows, by=(*tables.BY, column))) == 2


def test_a_seed_counted_twice_is_refused():
    with pytest.raises(ValueError, match="seed twice"):
        tables.summarise([row("a", 0, mcc_id=0.5), row("a", 0, mcc_id=0.7)])


def test_the_summary_file_has_the_promised_columns(tmp_path):
    stems = (
        "mcc",
        "mcc_paper",
        "cosine",
        "close",
        "support_f1",
        "support_precision",
        "accuracy",
        "auc",
        "l0",
        "mse",
        "objective",
    )
    stems += ("gap", "relative_gap", "certificate")
    metrics = [name for stem in stems for name in ([stem] if stem in ("cosine", "close") else [f"{stem}_id", f"{stem}_ood"])]
    metrics += ["novelty", "fit_seconds", "encode_seconds"]
    measured = dict.fromkeys(metrics, 0.1) | {"novelty": 1 / 3}
    rows = [
        row("linear_probe", 0, fit_seconds=1.0, mcc_ood=0.5, mcc_id=None),
        row("sae_mp", 0, **dict(reversed(measured.items()))),
    ]
    path = tmp_path / "summary.csv"
    tables.write_summary(path, tables.summarise(rows, methods=("linear_probe", "sae_mp")))
    header, probe, sae = csv.reader(path.read_text().splitlines())
    assert header == [*tables.BY, *(f"{name}_{part}" for name in metrics for part in ("mean", "sd"))]
    assert probe[:4] == ["linear_probe", "100", "10", "5000"] and probe[4:8] == ["", "", "0.5", ""]
    assert float(sae[header.index("novelty_mean")]) == 1 / 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["summary.csv"]


def test_metrics_may_be_chosen():
    (line,) = tables.summarise([row("a", 0, mcc_id=0.5, epoch=3)], metrics=("auc_id", "mcc_id"))
    assert list(line)[5:] == ["auc_id_mean", "auc_id_sd", "mcc_id_mean", "mcc_id_sd"]


def test_an_empty_summary_is_refused(tmp_path):
    assert tables.summarise([]) == []
    with pytest.raises(ValueError, match="no rows"):
        tables.write_summary(tmp_path / "summary.csv", [])
    assert list(tmp_path.iterdir()) == []


def test_the_table_lines_up():
    rows = [row("sae_relu", seed, mcc_id=value, l0_id=12.0 + seed, gap_id=1e-5 * seed) for seed, value in enumerate((0.4, 0.5))]
    rows += [row("linear_probe", 0, mcc_id=0.67)]
    table = tables.format_table(
        tables.summarise(rows), {"method": "method", "mcc_id": "MCC", "l0_id": "L0", "gap_id": "gap", "lam": "lam"}
    )
    assert table.splitlines() == [
        "method                  MCC          L0                gap  lam",
        "------------  -------------  ----------  -----------------  ---",
        "sae_relu      0.450 ± 0.071  12.5 ± 0.7  5.0e-06 ± 7.1e-06  -",
        "linear_probe          0.670           -                  -  -",
    ]
    assert tables.format_table([], ("method",)) == "method\n------"
