"""The headline from end to end: the files it leaves, the tables it prints, and one sentence for
whatever is wrong.
"""

import numpy as np
import pytest

from benchmarks.harness import outcome
from benchmarks.studies.amortisation_gap import BENCH
from sae_gap import Store
from sae_gap.figures import labels
from tests.conftest import lines_of, page_of, refused, succeed

SMOKE = ("amortisation_gap", "--preset=smoke")


def read(directory):
    return {line["method"]: line for line in lines_of(directory / "summary.csv")}


def test_results_make_sense(smoke):
    found = {
        name: {
            column.removesuffix("_mean"): float(value or "nan")
            for column, value in line.items()
            if column.endswith("_mean")
        }
        for name, line in read(smoke.page).items()
    }
    oracle = found["fista_oracle"]
    assert oracle["mcc_id"] > 0.9 and oracle["cosine"] == pytest.approx(1, abs=1e-6)
    assert sorted(found, key=lambda name: found[name]["mcc_ood"])[-1] == "fista_oracle"
    # A column that is empty for every method names a metric that nothing measures.
    columns = " ".join(BENCH.tables.values()).split()
    assert not [name for name in columns if not any(name in line for line in found.values())]
    for sae in ("relu", "topk", "jumprelu", "mp"):
        own, kept, frozen, refined = (
            found[f"{kind}_{sae}"] for kind in ("sae", "support", "frozen", "refined")
        )
        assert own["cosine"] == kept["cosine"] == frozen["cosine"] == refined["cosine"]
        assert own["relative_gap_id"] > 0.01 and kept["relative_gap_id"] > -2e-6
        # Values may vanish from a support, and none can join it.
        assert kept["l0_above_id"] <= own["l0_above_id"]
        # Cold and warm refinement reach the same optimum.
        for name in ("mcc_ood", "accuracy_id", "auc_ood", "mse_id"):
            assert refined[name] == pytest.approx(frozen[name], abs=2e-3)
        assert abs(frozen["relative_gap_id"]) < 2e-6 and abs(refined["relative_gap_ood"]) < 2e-6
    assert found["sae_topk"]["l0_above_id"] <= 3 and found["sae_mp"]["l0_above_id"] <= 3


def test_a_run_ends_with_its_answer_and_the_path_of_its_page(smoke):
    *_, question, answer, page = smoke.printed.strip().split("\n\n")
    about = "(number of seeds: 2; the SAEs have the paper's untuned options):"
    assert question.endswith(f"to the oracle in MCC OOD {about}")
    # Of codes that score alike, tables show one.
    tables = smoke.printed.split("\n\n")
    assert "frozen_relu" in tables[0] and "refined_relu" not in tables[0]
    assert any("refined_relu" in table for table in tables)
    lines = [
        line for line in lines_of(smoke.page / "decomposition.csv") if line["loss"] == "mcc_ood"
    ]
    scores = {name: float(line["mcc_ood_mean"]) for name, line in read(smoke.page).items()}
    for line, told in zip(lines, answer.splitlines(), strict=True):
        parts = [float(line[f"{part}_part"]) for part in ("amortisation", "dictionary")]
        sae = line["method"].removeprefix("sae_")
        assert sum(parts) == pytest.approx(scores["fista_oracle"] - scores[line["method"]])
        said = [f"{part / sum(parts):.0%}".replace("%", " %") for part in parts]
        words = f"{sum(parts):.3f}, {said[0]} encoder, {said[1]} dictionary"
        assert told == f"- {labels.label(sae)}: {words}"
    assert page == f"The page: {smoke.page / 'report.html'}"
    assert answer in (smoke.page / "README.md").read_text()
    one = {"method": "sae_topk", "units": 1, "total": 0.1, "rest": 0.1}
    # An SAE as good as the oracle has no parts; and no one number is for two sizes.
    assert outcome._answer([one]).endswith("- TopK SAE: 0.000") and outcome._answer([one] * 2) == ""


def test_the_published_protocol(tmp_path, smoke):
    methods = "--methods=dl_fista,fista_oracle"
    succeed(*SMOKE, "--protocol=paper", f"--results_dir={tmp_path}", methods)
    strict = {(row["method"], row["seed"]): row for row in smoke.rows}
    for row in Store(tmp_path / "amortisation_gap").rows():
        other = strict[row["method"], row["seed"]]
        assert row["protocol"] == "paper" and row["key"] != other["key"]
        if row["method"] == "dl_fista":
            # Fitted on the very samples that it is scored on.
            assert row["mse_id"] < other["mse_id"]
        else:
            # Hardly converged, and never below the optimum.
            assert -1e-6 < row["relative_gap_id"] < 0.05 and row["certificate_id"] <= 1e-6


@pytest.fixture
def data(tmp_path, arrays):
    """A file of activations without and with the truth."""
    for name in ("bare", "whole"):
        kept = {part: arrays[part] for part in arrays if name == "whole" or part[0] == "Y"}
        np.savez(tmp_path / f"{name}.npz", **kept)
    return f"--data={tmp_path}/"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("bare.npz", "give width"),
        ("whole.npz --sparsity=20 --width=20", "sparsity must be below width"),
        ("whole.npz --num_samples=200", "--num_samples and --data exclude each other"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path, data, flags, words):
    given = ("--methods=linear_probe", *f"{data}{flags}".split())
    refused(words, *SMOKE, *given, f"--results_dir={tmp_path / 'results'}")
    assert not (tmp_path / "results").exists()


def test_folders_that_cannot_be_used_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "blocked").write_text("mine")
    results, models = f"--results_dir={tmp_path / 'results'}", tmp_path / "blocked"
    refused("results cannot be written to", *SMOKE, f"--results_dir={models / 'deep'}")
    refused(f"models cannot be kept in {models} (", *SMOKE, results, f"--models_dir={models}")
    assert not (tmp_path / "results").exists()
    # What takes no fit needs no place for it.
    succeed(*SMOKE, results, f"--models_dir={models}", "--methods=fista_oracle")
    assert models.read_text() == "mine"


def test_data_without_the_truth_have_no_parts(tmp_path, data):
    results = tmp_path / "results"
    flags = (f"{data}bare.npz", "--width=20", f"--results_dir={results}")
    succeed(*SMOKE, "--methods=sae_topk", "--seeds=0", *flags)
    files = {"summary.csv", "README.md", "page.json", "report.html"}
    assert {path.name for path in page_of(results).iterdir()} == files
    # Models stand beside the study by default.
    assert {path.name for path in results.iterdir()} == {"amortisation_gap", "models"}
    assert [path.name.partition("-")[0] for path in (results / "models").iterdir()] == ["topk"]
    # The probe needs the truth, and nothing else is to run.
    refused("linear_probe", "amortisation_gap", "--methods=linear_probe", *flags)
