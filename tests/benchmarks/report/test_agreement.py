"""The table of agreement counts what the studies' comparisons say, wherever they lie."""

import re

import pytest

from benchmarks.report import published
from sae_gap.figures import tables
from tests.conftest import succeed

from .test_published import find


@pytest.fixture
def folder(tmp_path):
    line = find("vary_latents", "fista_oracle")
    ours = {name: line[name] for name in ("method", "num_latents", "sparsity", "num_samples")}
    ours |= {"mcc_paper_id_mean": line["mcc_paper_id_mean"]}
    ours |= {"auc_ood_mean": line["auc_ood_mean"] - 0.2}
    page = tmp_path / "vary_latents" / "protocol=paper"
    tables.write_table(page, "published.csv", published.compare([ours], "vary_latents"))
    return tmp_path


def test_it_counts_the_close_and_names_the_furthest(folder):
    out = succeed("agreement", f"--results_dir={folder}")
    heading, _, line = out.splitlines()
    assert heading.startswith("| study | compared | close")
    assert line.startswith("| vary_latents/protocol=paper | 2 | 1 | 50.0% |")
    assert "fista_oracle at 100 latents, num_samples 5,000, auc_ood: 0.790" in line


def test_nothing_to_compare_is_one_sentence(tmp_path, call):
    code, out, err = call("agreement", f"--results_dir={tmp_path}")
    assert (code, out) == (2, "") and re.fullmatch(r"no study under [^\n]+\.\n", err)
