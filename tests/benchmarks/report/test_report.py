"""The binary writes one file of all results, or says in one sentence why it cannot."""

import re

import pytest

from benchmarks.report import pages
from sae_gap.analysis import published, tables
from tests.analysis.test_published import find
from tests.conftest import succeed

from .test_pages import write


def test_the_binary_writes_one_file(tmp_path, call):
    write(tmp_path / "results" / "a")
    code, out, err = call("report", f"--results_dir={tmp_path / 'results'}")
    assert (code, out) == (0, ""), err
    whole = pages.render([pages.read(tmp_path / "results" / "a", "a")])
    assert (tmp_path / "results" / "report.html").read_text() == whole


def test_it_counts_the_published_numbers_that_are_close_and_names_the_furthest(tmp_path):
    line = find("vary_latents", "fista_oracle")
    ours = {name: line[name] for name in ("method", "num_latents", "sparsity", "num_samples")}
    ours |= {"mcc_paper_id_mean": line["mcc_paper_id_mean"]}
    ours |= {"auc_ood_mean": line["auc_ood_mean"] - 0.2}
    page = tmp_path / "vary_latents" / "protocol=paper"
    write(page)
    tables.write_table(page, "published.csv", published.compare([ours], "vary_latents"))
    heading, _, line = succeed("report", f"--results_dir={tmp_path}").splitlines()
    assert heading.startswith("| study | compared | close")
    assert line.startswith("| vary_latents/protocol=paper | 2 | 1 | 50.0% |")
    assert "fista_oracle at 100 latents, num_samples 5,000, auc_ood: 0.790" in line


@pytest.mark.parametrize("name", ["", "absent", "file"])
def test_nothing_to_report_is_one_sentence(tmp_path, call, name):
    (tmp_path / "file").touch()
    code, out, err = call("report", f"--results_dir={tmp_path / name}")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"there are no results in [^\n]+; run a study first[^\n]+\.\n", err)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_damage_is_one_sentence_and_nothing_is_written(tmp_path, call):
    write(tmp_path / "a")
    (tmp_path / "a" / "stairs.png").unlink()
    code, _, err = call("report", f"--results_dir={tmp_path}")
    assert code == 2 and re.fullmatch(
        r"the page in [^\n]+ cannot be read [^\n]+stairs\.png[^\n]+; run [^\n]+\.\n", err
    )
    assert not (tmp_path / "report.html").exists()
