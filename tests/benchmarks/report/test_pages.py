"""Pages hold everything, ask for nothing, and take texts for texts."""

import base64
import dataclasses
import hashlib
import html.parser
import re

import numpy as np
import PIL.Image
import pytest

from benchmarks.report import pages
from sae_gap.analysis import tables
from sae_gap.storage.folder import Folder

HOSTILE = """<script>alert(1)</script> "quoted" 'single' & <img src=x onerror=alert(2)> | *b* [e](javascript:f) h_i _g_"""
METRICS = [
    "mcc_id",
    "mcc_ood",
    "cosine",
    "close",
    "accuracy_id",
    "auc_id",
    "l0_id",
    "mse_id",
    "gap_id",
    "fit_seconds",
]
SAES = ("relu", "topk", "jumprelu", "mp")
METHODS = [f"{family}_{name}" for family in ("sae", "frozen", "refined") for name in SAES]


def page(**changed):
    """A page as wide as those of the headline."""
    scores = {name: 10.0**-place for place, name in enumerate(METRICS)}
    rows = [
        {"method": method, "num_samples": 5_000, "seed": seed}
        | {name: score * (1 + seed) for name, score in scores.items()}
        for method in METHODS
        for seed in (0, 1)
    ]
    summary = tables.summarise(rows, by=("method", "num_samples"))
    columns = {"method": "method", "num_samples": "samples"} | {name: name for name in METRICS}
    parts = {
        "study": "made_up",
        "title": "Where recovery is lost",
        "about": "Is it `so`?\n\n- Or is it\n- not?",
        "command": "python -m sae_gap made_up --seeds=0,1",
        "finding": "It is the `dictionary`.",
        "figures": [pages.Figure("stairs.png", "Stairs. They go up.")],
        "tables": [pages.Table("Recovery", columns, summary)],
        "notes": {"Time": "2 s"},
    }
    return pages.Page(**parts | changed)


def write(folder, **changed):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (900, 1280), dtype=np.uint8)
    PIL.Image.fromarray(pixels).resize((1280, 900)).save(folder / "stairs.png")
    pages.write(folder, page(**changed))
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
        assert len(dict(attributes)) == len(attributes)
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open:
            self.texts[tag] = self.texts.get(tag, "") + data

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    def values(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def check(text):
    """What holds for every page."""
    document = Document(text)
    ids = document.values("id")
    assert text.lstrip().startswith("<!DOCTYPE html>") and len(set(ids)) == len(ids)
    assert all(
        target == "data:," or target.removeprefix("#") in ids for target in document.values("href")
    )
    for image in document.all("img"):
        assert image["alt"].strip()
        assert image["src"].startswith("data:image/png;base64,")
    # One script, and no other may run.
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)[-1:]
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert document.all("script") == [{}] and "aria-sort" in script
    assert f"script-src 'sha256-{hashed}'" in text
    assert not [name for _, found in document.tags for name in found if name.startswith("on")]
    assert "url(" not in text and "@import" not in text and "default-src 'none'" in text
    return document


def cells_of(markdown):
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]


def test_what_is_written_is_read_back_and_written_anew(tmp_path):
    write(tmp_path)
    entry = pages.read(tmp_path)
    bare = dataclasses.replace(entry.page, figures=[], tables=[])
    assert bare == page(figures=[], tables=[], answers=[])
    assert [tuple(one) for one in entry.page.tables] == [tuple(one) for one in page().tables]
    image = base64.b64decode(entry.images["stairs.png"].partition(",")[2])
    assert image == (tmp_path / "stairs.png").read_bytes()
    assert pages.render([entry]) == (tmp_path / "report.html").read_text()
    write(tmp_path, finding="It is not.", figures=[], tables=[])
    assert pages.read(tmp_path).page.finding == "It is not."
    assert "stairs" not in (tmp_path / "README.md").read_text()


def test_the_readme_shows_everything(tmp_path):
    (tmp_path / "summary.csv").touch()
    text = (write(tmp_path) / "README.md").read_text()
    assert text.startswith("# Where recovery is lost\n\n**It is the `dictionary`.**\n\nIs it `so`?")
    assert "- Or is it\n- not?\n\n![Stairs.](stairs.png)" in text
    assert "\nStairs. They go up.\n" in text and "- Time: 2 s" in text
    assert "```sh\npython -m sae_gap made_up --seeds=0,1\n```" in text
    links = sorted(re.findall(r"\]\(([^)]+)\)", text))
    assert links == ["report.html", "stairs.png", "summary.csv"]
    headings, rules, first, *rest = cells_of(text)
    assert headings == ["method", "samples", *METRICS]
    assert rules == ["---", *["---:"] * 11]
    assert len(rest) == len(METHODS) - 1
    # Two values that are 1 apart have the deviation √½.
    assert first[:4] == ["sae_relu", "5,000", "1.500 ± 0.707", "0.150 ± 0.071"]
    assert first[7] == "1.5e-05 ± 7.1e-06"


def test_the_page_shows_everything(tmp_path):
    text = (write(tmp_path) / "report.html").read_text()
    document = check(text)
    assert document.texts["h1"] == "Where recovery is lost" and "Or is it" in document.texts["li"]
    assert "<code>dictionary</code>" in text
    assert "python -m sae_gap made_up" in document.texts["pre"]
    assert document.all("img")[0]["alt"] == "Stairs."
    assert "Figure 1. Stairs. They go up." in document.texts["figcaption"]
    assert "sae_relu" in document.texts["th"] and "5,0001.500 ± 0.707" in document.texts["td"]
    assert "1.5×10<sup>−5</sup>" in text and "<dt>Time</dt><dd>2 s</dd>" in text


def test_a_table_without_lines_is_its_title(tmp_path):
    write(tmp_path, tables=[pages.Table("288 of 288 are close.", {"method": "method"}, [])])
    assert "<p>288 of 288 are close.</p>" in (tmp_path / "report.html").read_text()
    assert "\n## 288 of 288 are close.\n\n## How" in (tmp_path / "README.md").read_text()


def test_texts_are_only_texts(tmp_path):
    line = {"method": HOSTILE, "x_mean": None}
    table = pages.Table(HOSTILE, {"method": HOSTILE, "x": "x"}, [line])
    texts = dict.fromkeys(("title", "about", "command", "finding"), HOSTILE)
    texts |= {"tables": [table], "notes": {HOSTILE: HOSTILE}}
    figure = pages.Figure("stairs.png", f"{HOSTILE}. `{HOSTILE}`")
    folder = write(tmp_path / "a", **texts, figures=[figure])
    document = check((folder / "report.html").read_text())
    for tag in ("h1", "pre", "th", "figcaption", "dd", "caption"):
        assert HOSTILE in document.texts[tag]
    assert len(document.all("img")) == 1 and document.all("img")[0]["alt"].startswith(HOSTILE)
    assert not [link for link in document.values("href") if "javascript" in link]
    markdown = (folder / "README.md").read_text()
    assert markdown.startswith("# \\<script>alert(1)\\</script> ")
    assert r"\| \*b\* \[e\](javascript:f) h_i \_g\_" in markdown
    assert check(pages.render([*[pages.read(folder)] * 2])).texts["a"].count(HOSTILE) == 2


@pytest.mark.parametrize(
    ("old", "new"), [('"title"', '"titel"'), ("{", ""), ('"figures": [', '"figures": [3, ')]
)
def test_a_page_that_cannot_be_read_is_one_sentence(tmp_path, old, new):
    path = write(tmp_path) / pages.FILE
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=r"^the page in .* cannot be read \([^\n]+\);"):
        pages.read(tmp_path)


def test_the_report_holds_every_study(tmp_path):
    write(tmp_path / "b_second")
    write(tmp_path / "a_first" / "oracle", title="A deeper folder", finding="Nothing `much`.")
    entries = [
        pages.read(folder, place)
        for place, folder in pages.folders(Folder(tmp_path))
        if folder.exists(pages.FILE)
    ]
    text = pages.render(entries)
    document = check(text)
    assert document.texts["h1"] == "Is it the encoder or the dictionary?" and "2 studies" in text
    assert text.index("A deeper folder") < text.index("Where recovery")
    assert text.count("Nothing <code>much</code>.") == 2
    assert "Its files are in <code>a_first/oracle</code>." in text and len(document.all("img")) == 2


def test_what_made_a_row_is_told_where_it_is_known():
    row = {"revision": "abc-dirty", "machine": None, "device": "cpu", "method": "a"}
    known = {"revision": "abc-dirty", "device": "cpu", "versions": "jax 0.10.2"}
    assert pages.provenance(row | {"jax": "0.10.2", "optax": None}) == known
    assert pages.provenance({}) == {}
