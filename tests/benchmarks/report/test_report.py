"""The binary writes one file of all results, or says in one sentence why it cannot."""

import pytest

from benchmarks.report import pages
from sae_gap.analysis import published, tables
from tests.analysis.test_published import find
from tests.conftest import refused, succeed

from .test_pages import write


def test_the_binary_writes_one_file_or_says_what_is_damaged(tmp_path):
    write(tmp_path / "a")
    assert succeed("report", f"--results_dir={tmp_path}") == ""
    whole = pages.render([pages.read(tmp_path / "a", "a")])
    assert (tmp_path / "report.html").read_text() == whole
    (tmp_path / "report.html").unlink()
    (tmp_path / "a" / "stairs.png").unlink()
    refused("cannot be read", "report", f"--results_dir={tmp_path}")
    assert not (tmp_path / "report.html").exists()


def test_it_counts_the_published_numbers_that_are_close_and_names_the_furthest(tmp_path):
    line, _ = find("vary_latents fista_oracle")
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
def test_nothing_to_report_is_one_sentence(tmp_path, name):
    (tmp_path / "file").touch()
    refused("there are no results in", "report", f"--results_dir={tmp_path / name}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
