"""The page of a study: what is written is read back, what is shown is what was found, and damage is told in one sentence."""

import dataclasses
import json
import math
import re
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from benchmarks.report import pages
from sae_gap.figures import tables


def draw(path):
    """A small PNG of noise."""
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)


def lines():
    rows = [
        {"method": method, "num_samples": 5_000, "seed": seed, "mcc": mcc + seed, "mse": 1e-5 * (mcc + seed)}
        for method, mcc in (("sae_relu", 0.25), ("fista_oracle", -1.5))
        for seed in (0, 1)
    ]
    return tables.summarise(rows, by=("method", "num_samples"))


def page(**changed):
    table = pages.Table("Recovery", {"method": "method", "num_samples": "samples", "mcc": "MCC", "mse": "MSE"}, lines())
    parts = {
        "study": "made_up",
        "title": "A made-up study",
        "about": "Is it `so`?\n\nOr is it not?",
        "command": "python -m sae_gap made_up",
        "finding": "It is so.",
        "figures": [pages.Figure("stairs.png", "Stairs. They go up.")],
        "tables": [table],
        "notes": {"Time": "2 s"},
    }
    return pages.Page(**parts | changed)


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "stairs.png")
    return tmp_path


def test_what_is_written_is_read_back(folder):
    written = page()
    pages.write(folder, written)
    assert pages.read(folder) == written
    assert {path.name for path in folder.iterdir()} == {"README.md", "page.json", "stairs.png"}
    pages.write(folder, dataclasses.replace(written, finding="It is not.", figures=[], tables=[]))
    assert pages.read(folder).finding == "It is not." and "stairs" not in (folder / "README.md").read_text()


def test_numbers_of_numpy_and_infinities_have_a_json_form(folder):
    line = {"method": "a", "mcc_mean": np.float32(0.5), "mcc_sd": math.nan, "flops": np.int64(3), "gap_mean": -math.inf}
    written = page(tables=[("t", {"method": "m", "mcc": "MCC"}, [line])])
    pages.write(folder, written)
    expected = {"method": "a", "mcc_mean": 0.5, "mcc_sd": None, "flops": 3, "gap_mean": None}
    assert pages.read(folder).tables[0].lines == written.tables[0].lines == (expected,)


def test_the_readme_shows_everything(folder):
    (folder / "summary.csv").touch()
    (folder / "rows-0-of-2.jsonl").touch()
    pages.write(folder, page())
    text = (folder / "README.md").read_text()
    assert text.startswith(
        "# A made-up study\n\n**It is so.**\n\nIs it `so`?\n\nOr is it not?\n\n```sh\npython -m sae_gap made_up\n```"
    )
    assert "![Stairs.](stairs.png)" in text and "\nStairs. They go up.\n" in text
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert sorted(targets) == ["rows-0-of-2.jsonl", "stairs.png", "summary.csv"]
    assert all((folder / target).exists() for target in targets)
    assert "- Time: 2 s" in text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert cells[:2] == [["method", "samples", "MCC", "MSE"], ["---", "---:", "---:", "---:"]]
    # Two values that are 1 apart have the deviation √½.
    assert cells[2] == ["sae_relu", "5,000", "0.750 ± 0.707", "7.5×10⁻⁶ ± 7.1×10⁻⁶"]
    assert cells[3] == ["fista_oracle", "5,000", "−1.000 ± 0.707", "−1.0×10⁻⁵ ± 7.1×10⁻⁶"]


def test_markdown_of_the_texts_is_escaped(folder):
    hostile = "a|b <i>c</i> *d* [e](f) _g_ h_i \\ `j"
    table = ("t", {"method": hostile}, [{"method": hostile}])
    pages.write(folder, page(title=hostile, finding="1. not a list", about="- nor this\n\n# nor this", tables=[table]))
    text = (folder / "README.md").read_text()
    escaped = r"a\|b \<i>c\</i> \*d\* \[e\](f) \_g\_ h_i \\ \`j"
    assert text.startswith(f"# {escaped}\n") and text.count(escaped) == 3
    assert "1\\. not a list" in text and "\n\\- nor this" in text and "\n\\# nor this" in text


def test_a_command_cannot_leave_its_fence(folder):
    pages.write(folder, page(command="echo '```'\n# still code"))
    assert "\n````sh\necho '```'\n# still code\n````\n" in (folder / "README.md").read_text()


def test_cells_are_those_of_the_terminal():
    rng = np.random.default_rng(0)
    summary = [
        {"method": f"m{place}"}
        | {f"{name}_mean": float(scale * rng.normal()) for name, scale in (("a", 1), ("b", 50), ("c", 1e-5), ("d", 600))}
        | {f"{name}_sd": float(rng.uniform()) for name in "abd"}
        | {"c_sd": None}
        for place in range(5)
    ]
    summary[2]["a_mean"] = None
    shown = pages.show(pages.Table("t", dict.fromkeys(("method", "a", "b", "c", "d"), ""), summary))
    assert [column.numeric for column in shown] == [False, True, True, True, True]
    assert shown[1].cells[2] == ("", "")
    superscripts = {"⁰": "0", "¹": "1", "²": "2", "³": "3", "⁴": "4", "⁵": "5", "⁶": "6", "⁷": "7", "⁸": "8", "⁹": "9"}
    for name, column in zip("abcd", shown[1:], strict=True):
        for line, (mean, sd) in zip(summary, column.cells, strict=True):
            if not mean:
                continue
            digits, _, power = mean.replace("−", "-").partition("×10⁻")
            exponent = -int("".join(superscripts[digit] for digit in power)) if power else 0
            unit = 10 ** (exponent - len(digits.partition(".")[2]))
            assert abs(float(digits) * 10**exponent - line[f"{name}_mean"]) <= 0.501 * unit
            assert bool(sd) == (line[f"{name}_sd"] is not None)


def test_large_numbers_are_grouped_and_texts_are_not():
    table = pages.Table(
        "t",
        {"flops": "", "seconds": "", "method": "", "done": ""},
        [{"flops": 1234567, "seconds_mean": 12345.6, "method": "m2000", "done": True}],
    )
    assert [column.cells[0][0] for column in pages.show(table)] == ["1,234,567", "12,346", "m2000", "True"]


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda content: b"", "not JSON"),
        (lambda content: b"[" * 100_000, "not JSON"),
        (lambda content: b"\xff", "not JSON"),
        (lambda content: json.dumps(content).encode()[:-20], "not JSON"),
        (lambda content: b'"a page"', "not a page of a study"),
        (lambda content: json.dumps(content | {"format": "another"}).encode(), "not a page of a study"),
        (
            lambda content: json.dumps({name: content[name] for name in content if name != "about"}).encode(),
            "'about' is missing",
        ),
        (lambda content: json.dumps(content | {"colour": 1}).encode(), "'colour' is unknown"),
        (lambda content: json.dumps(content | {"title": 3}).encode(), "title must be a text"),
        (lambda content: json.dumps(content | {"title": " "}).encode(), "`title` is empty"),
        (lambda content: json.dumps(content | {"finding": "\ud800"}).encode(), "finding holds a character"),
        (lambda content: json.dumps(content | {"notes": ["a"]}).encode(), "notes must be names with a text each"),
        (lambda content: json.dumps(content | {"figures": "stairs.png"}).encode(), "figures must be a list"),
        (lambda content: json.dumps(content | {"figures": [["../secret.png", ""]]}).encode(), "name of a PNG file"),
        (lambda content: json.dumps(content | {"figures": [["stairs.png"]]}).encode(), "a figure must have 2 parts"),
        (lambda content: json.dumps(content | {"figures": [["stairs.png", ""]] * 2}).encode(), "listed twice"),
        (lambda content: json.dumps(content | {"tables": [["t", {}, []]]}).encode(), "no columns"),
        (lambda content: json.dumps(content | {"tables": [["t", {"a": "a"}, [{"b": 1}]]]}).encode(), "shows 'a'"),
        (
            lambda content: json.dumps(content | {"tables": [["t", {"a": "a"}, [{"a": [1]}]]]}).encode(),
            "a in a line of a table",
        ),
        (lambda content: json.dumps(content | {"tables": [["t", {"a": "a"}, [{"a_mean": "1"}]]]}).encode(), "must be a number"),
        (lambda content: json.dumps(content | {"tables": [["t", {"a": "a"}, [3]]]}).encode(), "a line of a table must be"),
    ],
)
def test_a_damaged_page_is_named_in_one_sentence(folder, damage, fault):
    pages.write(folder, page())
    path = folder / "page.json"
    path.write_bytes(damage(json.loads(path.read_text())))
    with pytest.raises(ValueError, match=re.escape(fault)) as stop:
        pages.read(folder)
    message = str(stop.value)
    assert message.startswith(f"{path} is ") and message.endswith(".") and ".;" not in message and "\n" not in message


def test_a_page_whose_figure_is_not_there_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"stairs\.png"):
        pages.write(tmp_path, page())
    assert list(tmp_path.iterdir()) == []


def test_pages_are_written_and_read_without_jax_and_matplotlib():
    code = "import sys, benchmarks.report.pages; print({'jax', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "set()\n"
