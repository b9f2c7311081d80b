"""The binary writes one file of all results, or says in one sentence why it cannot."""

import re

import pytest

from benchmarks.report import pages

from .test_pages import write


def test_the_binary_writes_one_file(tmp_path, call):
    write(tmp_path / "results" / "a")
    code, out, err = call("report", f"--results_dir={tmp_path / 'results'}")
    assert (code, out) == (0, ""), err
    whole = pages.render([pages.read(tmp_path / "results" / "a", "a")])
    assert (tmp_path / "results" / "report.html").read_text() == whole


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
