"""The headline from end to end: the files it leaves, the tables it prints, and one sentence for
whatever is wrong.
"""

import shutil

import numpy as np
import pytest

from benchmarks.harness import outcome
from benchmarks.studies.amortisation_gap import BENCH
from sae_gap import Store
from sae_gap.figures import labels
from tests.conftest import lines_of, page_of, refused, succeed

SAES = ("relu", "topk", "jumprelu", "mp")
METHODS = (
    "linear_probe",
    *(f"{kind}_{name}" for kind in ("sae", "support", "frozen", "refined") for name in SAES),
    *("dl_fista", "online_dl", "fista_oracle"),
)


def read(directory):
    return lines_of(directory / "summary.csv")


def by_method(rows):
    return {row["method"]: row for row in rows}


@pytest.fixture(scope="module")
def summary(smoke):
    return read(smoke.page)


def test_results_make_sense(summary):
    found = {
        name: {
            column.removesuffix("_mean"): float(value or "nan")
            for column, value in line.items()
            if column.endswith("_mean")
        }
        for name, line in by_method(summary).items()
    }
    oracle = found["fista_oracle"]
    assert oracle["mcc_id"] > 0.9 and oracle["cosine"] == pytest.approx(1, abs=1e-6)
    others = [line["mcc_ood"] for name, line in found.items() if name != "fista_oracle"]
    assert oracle["mcc_ood"] > max(others)
    for sae in SAES:
        own, kept, frozen, refined = (
            found[f"{kind}_{sae}"] for kind in ("sae", "support", "frozen", "refined")
        )
        assert own["cosine"] == kept["cosine"] == frozen["cosine"] == refined["cosine"]
        assert own["relative_gap_id"] > 0.01 and kept["relative_gap_id"] > -2e-6
        # Values may vanish from a support, and none can join it.
        assert kept["l0_above_id"] <= own["l0_above_id"]
        assert kept["l0_above_ood"] <= own["l0_above_ood"]
        # Cold and warm refinement reach the same optimum.
        for name in ("mcc_ood", "accuracy_id", "auc_ood", "mse_id"):
            assert refined[name] == pytest.approx(frozen[name], abs=2e-3)
        assert abs(frozen["relative_gap_id"]) < 2e-6 and abs(refined["relative_gap_ood"]) < 2e-6
    assert found["sae_topk"]["l0_above_id"] <= 3 and found["sae_mp"]["l0_above_id"] <= 3


def test_the_tables_name_every_method_and_fill_every_column(smoke, summary):
    for title, names in BENCH.tables.items():
        columns = names.split()
        # A table that is too wide goes on in a block below.
        blocks = smoke.printed[smoke.printed.index(f"{title}\n") + len(title) + 1 :].split("\n\n")
        # Refined codes are those of the lasso, in other seconds.
        shown = [name for name in METHODS if "encode_seconds" in columns or "refined_" not in name]
        assert [line.split()[0] for line in blocks[0].splitlines()[2:]] == shown
        headings = " ".join(block.splitlines()[0] for block in blocks)
        assert all(labels.heading(name).removesuffix(" ID") in headings for name in columns)
        # A column that is empty for every method names a metric that nothing measures.
        assert all(any(line.get(f"{name}_mean") for line in summary) for name in columns)
    _, _, table = smoke.printed.partition("Distance to the oracle in MCC OOD")
    table = table.split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in table[3:]] == [f"sae_{name}" for name in SAES]
    lines = [
        line for line in lines_of(smoke.page / "decomposition.csv") if line["metric"] == "auc_ood"
    ]
    assert [line["method"] for line in lines] == [f"sae_{name}" for name in SAES]
    own, frozen = (
        float(by_method(summary)[name]["auc_ood_mean"]) for name in ("sae_relu", "frozen_relu")
    )
    assert float(lines[0]["amortisation_part_mean"]) == pytest.approx(frozen - own)


def test_a_run_ends_with_its_answer_and_the_path_of_its_page(smoke, summary):
    *_, question, answer, page = smoke.printed.strip().split("\n\n")
    assert question.endswith("to the oracle in MCC OOD (number of seeds: 2):")
    lines = [
        line for line in lines_of(smoke.page / "decomposition.csv") if line["metric"] == "mcc_ood"
    ]
    for line, told in zip(lines, answer.splitlines(), strict=True):
        parts = [float(line[f"{part}_part_mean"]) for part in ("amortisation", "dictionary")]
        said = [f"{part / sum(parts):.0%}".replace("%", " %") for part in parts]
        name = labels.label(line["method"].removeprefix("sae_"))
        assert told == f"- {name}: {sum(parts):.3f}, {said[0]} encoder, {said[1]} dictionary"
    assert page == f"The page: {smoke.page / 'report.html'}"
    assert answer in (smoke.page / "README.md").read_text()
    lines = [{"method": name, "mcc_id_mean": 0.2} for name in ("frozen_a", "refined_a")]
    assert outcome._distinct(lines, ["mcc_id"], ["method"]) == lines[:1]
    lines[0] = {"method": "frozen_a", "mcc_id_mean": 0.3}
    assert outcome._distinct(lines, ["mcc_id"], ["method"]) == lines
    one = {"method": "sae_topk", "seeds": 1, "amortisation_part_mean": 0, "dictionary_part_mean": 0}
    # An SAE as good as the oracle has no parts; and no one number is for two sizes.
    assert outcome._answer([one]).endswith("- TopK SAE: 0.000") and outcome._answer([one] * 2) == ""


def test_a_second_run_prints_the_same_and_a_choice_reports_what_is_chosen(smoke, tmp_path):
    copy = shutil.copytree(smoke.directory, tmp_path / "amortisation_gap").parent

    def rows():
        folder = copy / "amortisation_gap" / "rows"
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    before, options = rows(), ("--preset=smoke", f"--results_dir={copy}")
    out = succeed("amortisation_gap", *options)
    # The last line has the path of the page.
    assert out.splitlines()[:-1] == smoke.printed.splitlines()[:-1]
    assert rows() == before
    chosen = ("--methods=fista_oracle,linear_probe", "--seeds=1")
    out = succeed("amortisation_gap", *options, *chosen)
    assert "sae_relu" not in out and "±" not in out
    assert out.index("linear_probe") < out.index("fista_oracle")
    # Beside the page of the whole, which stands.
    pages = [path for path in (copy / "amortisation_gap").iterdir() if "seeds=1" in path.name]
    (page,) = (path for path in pages if "fista_oracle,linear_probe" in path.name)
    lines = read(page)
    assert len(read(copy / "amortisation_gap" / "preset=smoke")) == len(METHODS)
    assert [line["method"] for line in lines] == ["linear_probe", "fista_oracle"]
    assert lines[0]["mcc_id_sd"] == ""


def test_the_published_protocol(tmp_path, smoke):
    methods = "--methods=dl_fista,fista_oracle"
    options = ("--preset=smoke", "--protocol=paper", f"--results_dir={tmp_path}")
    succeed("amortisation_gap", *options, methods)
    rows = Store(tmp_path / "amortisation_gap").rows()
    strict = {(row["method"], row["seed"]): row for row in smoke.rows}
    for row in rows:
        other = strict[row["method"], row["seed"]]
        assert row["protocol"] == "paper" and row["key"] != other["key"]
        if row["method"] == "dl_fista":
            # Fitted on the very samples that it is scored on.
            assert row["mse_id"] < other["mse_id"]
        else:
            # Hardly converged, and never below the optimum.
            assert -1e-6 < row["relative_gap_id"] < 0.05 and row["certificate_id"] <= 1e-6


@pytest.fixture
def file(tmp_path, arrays):
    def write(**changes):
        kept = {name: array for name, array in (arrays | changes).items() if array is not None}
        np.savez(tmp_path / "data.npz", **kept)
        return tmp_path / "data.npz"

    return write


BARE = dict.fromkeys(("Z_train", "Z_val", "Z_ood", "A"))


@pytest.mark.parametrize(
    ("changes", "flags", "words"),
    [
        (BARE, [], "give width"),
        ({}, ["--sparsity=20", "--width=20"], "sparsity must be below width"),
        ({}, ["--num_samples=200"], "--num_samples and --data exclude each other"),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence(tmp_path, file, changes, flags, words):
    results = tmp_path / "results"
    given = ("--preset=smoke", "--methods=linear_probe", f"--data={file(**changes)}", *flags)
    refused(words, "amortisation_gap", *given, f"--results_dir={results}")
    assert not results.exists()


def test_folders_that_cannot_be_used_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "blocked").write_text("mine")
    results, models = tmp_path / "results", f"--models_dir={tmp_path / 'blocked'}"
    run = ("amortisation_gap", "--preset=smoke", f"--results_dir={results}", models)
    refused(
        "results cannot be written to", *run[:2], f"--results_dir={tmp_path / 'blocked' / 'deep'}"
    )
    refused(f"models cannot be kept in {tmp_path / 'blocked'} (", *run)
    assert not results.exists()
    # What takes no fit needs no place for it.
    succeed(*run, "--methods=fista_oracle")
    assert (tmp_path / "blocked").read_text() == "mine"


def test_models_stand_beside_the_study_by_default(tmp_path):
    succeed(
        "amortisation_gap",
        "--preset=smoke",
        "--methods=sae_relu",
        "--seeds=0",
        f"--results_dir={tmp_path}",
    )
    assert {path.name for path in tmp_path.iterdir()} == {"amortisation_gap", "models"}
    assert [path.name.partition("-")[0] for path in (tmp_path / "models").iterdir()] == ["relu"]


def test_data_without_the_truth_have_no_parts(tmp_path, file):
    data = (f"--data={file(**BARE)}", "--width=20", f"--results_dir={tmp_path}")
    succeed("amortisation_gap", "--preset=smoke", "--methods=sae_topk", *data)
    files = {"summary.csv", "README.md", "page.json", "report.html"}
    assert {path.name for path in page_of(tmp_path).iterdir()} == files
    # The probe needs the truth, and nothing else is to run.
    refused("linear_probe", "amortisation_gap", "--methods=linear_probe", *data)
