"""Pages hold everything, ask for nothing, and take texts for texts; the report has them all."""

import base64
import hashlib
import html.parser
import re

import PIL.Image
from pytest import mark

from benchmarks.report import pages
from sae_gap.analysis import published, tables
from tests.analysis.test_published import find
from tests.conftest import refused, succeed

HOSTILE = """<script>alert(1)</script> "quoted" 'single' & <img src=x onerror=alert(2)> | *b* [e](javascript:f) h_i _g_"""


def page(**changed):
    rows = [
        {"method": method, "num_samples": 5_000, "seed": seed}
        | {"mcc_id": 1.0 + seed, "mse_id": 1e-5 * (1 + seed)}
        for method in ("sae_relu", "oracle")
        for seed in (0, 1)
    ]
    columns = {
        "method": "method",
        "num_samples": "samples",
        "mcc_id": "MCC",
        "mse_id": "error",
    }
    parts = {
        "title": "Where recovery is lost",
        "about": "Is it `so`?\n\n- Or is it\n- not?",
        "command": "python -m sae_gap made_up --seeds=0,1",
        "finding": "It is the `dictionary`.",
        "figures": [pages.Figure("stairs.png", "Stairs. They go up.")],
        "tables": [
            pages.Table("Recovery", columns, tables.summarise(rows, by=[*columns][:2]))
        ],
        "notes": {"Time": "2 s"},
    }
    return pages.Page(**parts | changed)


def write(folder, **changed):
    folder.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("L", (4, 3)).save(folder / "stairs.png")
    pages.publish(folder, page(**changed))
    return folder


class Document(html.parser.HTMLParser):
    """A strict reader: everything that is opened is closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open:
            self.texts[tag] = self.texts.get(tag, "") + data

    def values(self, name, only=None):
        return [
            found[name]
            for tag, found in self.tags
            if name in found and only in (None, tag)
        ]


def check(text):
    """What holds for every page."""
    document = Document(text)
    ids = document.values("id")
    assert text.lstrip().startswith("<!DOCTYPE html>") and len(set(ids)) == len(ids)
    assert {*document.values("href")} <= {"data:,", *(f"#{name}" for name in ids)}
    assert all(
        source.startswith("data:image/png;base64,") for source in document.values("src")
    )
    # One script, and no other may run.
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[-1:]
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{hashed}'" in text and "default-src 'none'" in text
    assert not [
        name for _, found in document.tags for name in found if name.startswith("on")
    ]
    return document


def test_what_is_written_is_read_back_and_written_anew(tmp_path):
    entry = pages.read(write(tmp_path))
    bare = entry.page._replace(figures=[], tables=[])
    assert bare == page(figures=[], tables=[], answers=[])
    assert [tuple(one) for one in entry.page.tables] == [
        tuple(one) for one in page().tables
    ]
    image = base64.b64decode(entry.images["stairs.png"].partition(",")[2])
    assert image == (tmp_path / "stairs.png").read_bytes()
    assert pages.render([entry]) == (tmp_path / "report.html").read_text()


def test_both_files_show_everything(tmp_path):
    (tmp_path / "summary.csv").touch()
    text = (write(tmp_path) / "README.md").read_text()
    for part in (
        "# Where recovery is lost\n\n**It is the `dictionary`.**\n\nIs it `so`?\n\n- Or is it\n- no",
        "?\n\n![Stairs.](stairs.png)\n\nStairs. They go up.\n",
        # Two values that are 1 apart have the deviation √½.
        "| method | samples | MCC | error |\n| --- | ---: | ---: | ---: |\n"
        "| sae_relu | 5,000 | 1.500 ± 0.707 | 1.5e-05 ± 7.1e-06 |\n| oracle |",
        "```sh\npython -m sae_gap made_up --seeds=0,1\n```",
        "- Time: 2 s",
        "(report.html)",
        "(summary.csv)",
    ):
        assert part in text
    text = (tmp_path / "report.html").read_text()
    document = check(text)
    for tag, part in {
        "h1": "Where recovery is lost",
        "li": "Or is it",
        "pre": "python -m sae_gap made_up",
        "figcaption": "Figure 1. Stairs. They go up.",
        "th": "sae_relu",
        "td": "5,0001.500 ± 0.707",
    }.items():
        assert part in document.texts[tag]
    assert document.values("alt") == ["Stairs."] and "<code>dictionary</code>" in text
    assert "1.5×10<sup>−5</sup>" in text and "<dt>Time</dt><dd>2 s</dd>" in text


def test_texts_are_only_texts(tmp_path):
    table = pages.Table(
        HOSTILE, {"method": HOSTILE, "x": "x"}, [{"method": HOSTILE, "x_mean": None}]
    )
    texts = dict.fromkeys(("title", "about", "command", "finding"), HOSTILE)
    texts |= {"tables": [table], "notes": {HOSTILE: HOSTILE}}
    figure = pages.Figure("stairs.png", f"{HOSTILE}. `{HOSTILE}`")
    folder = write(tmp_path / "a", **texts, figures=[figure])
    document = check((folder / "report.html").read_text())
    for tag in ("h1", "pre", "th", "figcaption", "dd", "caption"):
        assert HOSTILE in document.texts[tag]
    markdown = (folder / "README.md").read_text()
    assert markdown.startswith("# \\<script>alert(1)\\</script> ")
    assert r"\| \*b\* \[e\](javascript:f) h_i \_g\_" in markdown
    assert (
        check(pages.render([*[pages.read(folder)] * 2])).texts["a"].count(HOSTILE) == 2
    )


@mark.parametrize(
    ("old", "new"),
    [('"title"', '"titel"'), ("{", ""), ('"figures": [', '"figures": [3, ')],
)
def test_a_page_that_cannot_be_read_is_one_sentence(tmp_path, old, new):
    path = write(tmp_path / "a") / pages.FILE
    path.write_text(path.read_text().replace(old, new, 1))
    refused("cannot be read (", "report", f"--results_dir={tmp_path}")


def test_the_report_has_every_page_and_counts_the_published_numbers_that_are_close(
    tmp_path,
):
    refused("there are no results in", "report", f"--results_dir={tmp_path}")
    line, _ = find("vary_latents fista_oracle")
    names = ("method", "num_latents", "sparsity", "num_samples", "mcc_paper_id_mean")
    ours = {name: line[name] for name in names}
    ours["auc_ood_mean"] = line["auc_ood_mean"] - 0.2
    folder = write(tmp_path / "vary_latents" / "protocol=paper")
    write(tmp_path / "a_first", finding="", about="Nothing `much`. Or is it?")
    write(tmp_path / "models" / "none")
    tables.write_table(
        folder, "published.csv", published.compare([ours], "vary_latents")
    )
    heading, _, line = succeed("report", f"--results_dir={tmp_path}").splitlines()
    assert heading.startswith("| study | compared | close")
    assert line.startswith("| vary_latents/protocol=paper | 2 | 1 | 50.0% |")
    assert "fista_oracle at 100 latents, num_samples 5,000, auc_ood: 0.790" in line
    text = (tmp_path / "report.html").read_text()
    assert check(text).texts["code"].count("vary_latents/protocol=paper") == 1
    assert text.index("<code>a_first</code>") < text.index("<code>vary_latents")
    assert text.count("Nothing <code>much</code>.") == 1 and "Nothing much." in text
    assert "models" not in text


def test_what_made_a_row_is_told_where_it_is_known():
    row = {"device": "cpu", "revision": "abc-dirty", "machine": "EPYC", "method": "a"}
    found = pages.provenance(row | {"date": None, "jax": "0.10.2", "optax": None})
    # In the order of the page.
    assert [*found.items()] == [
        ("revision", "abc-dirty"),
        ("machine", "EPYC"),
        ("device", "cpu"),
        ("versions", "jax 0.10.2"),
    ]
