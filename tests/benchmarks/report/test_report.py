"""The report: one page that holds everything, asks for nothing, escapes what it is given, and fits a screen and a telephone."""

import base64
import html.parser
import itertools
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest
from absl.testing import flagsaver

from benchmarks import cli
from benchmarks.report import pages, rendering, report
from sae_gap.figures import tables

HOSTILE = """<script>alert(1)</script> "quoted" 'single' & <img src=x onerror=alert(2)>"""
METHODS = [f"{family}_{name}" for family in ("sae", "frozen", "refined") for name in ("relu", "topk", "jumprelu", "mp")]
METRICS = ("mcc_id", "mcc_ood", "cosine", "close", "accuracy_id", "auc_id", "l0_id", "mse_id", "gap_id", "fit_seconds")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
VOID = {"meta", "link", "img", "br", "hr", "input"}


def draw(path, caption="", size=(64, 45)):
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("Description", caption)
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path, pnginfo=text)


def study(folder, title="Where recovery is lost", *, size=(64, 45), **changed):
    """A page as wide as those of the headline."""
    folder.mkdir(parents=True)
    draw(folder / "stairs.png", "Stairs, from the file.", size=size)
    draw(folder / "violins.png", size=size)
    rows = [
        {"method": method, "seed": seed} | {metric: 0.1 + 0.01 * seed + place for place, metric in enumerate(METRICS)}
        for method in METHODS
        for seed in (0, 1)
    ]
    columns = {"method": "method"} | dict.fromkeys(METRICS)
    wide = pages.Table("Recovery", {name: name for name in columns}, tables.summarise(rows, by=("method",)))
    narrow = pages.Table("Alone", {"method": "method", "mcc_id": "MCC"}, wide.lines[:1])
    parts = {
        "study": "made_up",
        "title": title,
        "about": "Which one is it?",
        "command": "python -m sae_gap made_up --seeds=0,1",
        "finding": "It is the dictionary.",
        "figures": [("stairs.png", ""), ("violins.png", "Violins. They are wide.")],
        "tables": [wide, narrow],
        "notes": {"Time": "2 s"},
    }
    pages.write(folder, pages.Page(**parts | changed))


def publish(folder, close=(True, False, True)):
    lines = [
        {"method": method, "num_latents": 50, "metric": "auc_ood", "ours": 0.5, "published": 0.6, "published_sd": 0.01}
        | {"difference": -0.1, "tolerance": 0.04, "close": value}
        for method, value in zip(METHODS, close, strict=False)
    ]
    tables.write_table(folder / "published.csv", lines)


def make(results):
    return report.render(report.collect(results))


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
        self.tags.append((tag, dict(attributes), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        for tag in self.open:
            self.texts[tag] = self.texts.get(tag, "") + data

    def all(self, name):
        return [attributes for tag, attributes, _ in self.tags if tag == name]

    def values(self, name):
        return [attributes[name] for _, attributes, _ in self.tags if name in attributes]


def check_structure(text):
    """What holds for every report, browser or not."""
    assert text.startswith("<!DOCTYPE html>\n")
    document = Document(text)
    ids = document.values("id")
    assert len(set(ids)) == len(ids)
    assert all(name in ids for value in document.values("aria-labelledby") for name in value.split())
    for target in document.values("href"):
        assert target == "data:," or (target.startswith("#") and target[1:] in ids)
    for image in document.all("img"):
        assert image["alt"].strip() and image["src"].startswith("data:image/png;base64,")
        assert int(image["width"]) > 0 and int(image["height"]) > 0
        assert (image["loading"], image["decoding"]) == ("lazy", "async")
    assert not document.all("script") and not [name for _, found, _ in document.tags for name in found if name.startswith("on")]
    assert "url(" not in text and "@import" not in text
    levels = [int(tag[1]) for tag, _, _ in document.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert document.all("html") == [{"lang": "en-GB"}]
    assert all(cell.get("scope") in ("row", "col") for cell in document.all("th"))
    assert len(document.all("caption")) == len(document.all("table"))
    assert len(document.all("figcaption")) == len(document.all("figure")) == len(document.all("img"))
    boxes = [box for box in document.all("div") if box.get("class") == "scroll"]
    assert len(boxes) == len(document.all("table"))
    assert all(box["tabindex"] == "0" and box["role"] == "region" and box["aria-labelledby"] for box in boxes)
    # What is wider than a telephone must give way: nothing has a width of its own beyond that.
    style = document.texts["style"]
    assert not [width for width in re.findall(r"(?<![-\w])width:\s*(\d+)(?:px|rem)", style) if int(width) > 20]
    assert "figure img" in style and "max-width: 100%; height: auto" in style and "overflow: auto" in style
    return document


def browse(text, folder, width):
    """What a browser makes of the page in a window of that width, which it cannot make itself below 500 pixels: a frame can."""
    folder.mkdir(parents=True)
    (folder / "report.html").write_text(text)
    probe = """<script>addEventListener("load", async () => {
      document.querySelectorAll("details").forEach(part => part.open = true);
      const images = [...document.images];
      images.forEach(image => image.loading = "eager");
      await Promise.all(images.map(image => image.complete || new Promise(done => image.onload = image.onerror = done)));
      const root = document.documentElement;
      const wide = [...document.querySelectorAll(".scroll")].filter(box => box.scrollWidth > box.clientWidth).length;
      parent.postMessage(JSON.stringify({inner: innerWidth, scroll: root.scrollWidth, body: document.body.scrollWidth, wide,
        images: images.length, seen: images.filter(image => image.complete && image.naturalWidth > 0).length}), "*");
    })</script></body>"""
    policy = f'<meta http-equiv="Content-Security-Policy" content="{rendering._POLICY}">'
    assert text.count(policy) == 1
    (folder / "probed.html").write_text(text.replace(policy, "").replace("</body>", probe))
    wrapper = f"""<!DOCTYPE html><pre id="found"></pre><script>
      addEventListener("message", event => document.getElementById("found").textContent = event.data)
    </script><iframe src="probed.html" width="{width}" height="800" style="border:0"></iframe>"""
    (folder / "wrapper.html").write_text(wrapper)

    def dump(name):
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
        ]
        command += [f"--user-data-dir={folder / 'profile'}", "--window-size=1400,900", "--virtual-time-budget=20000"]
        command += ["--dump-dom", f"file://{folder / name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        assert "CONSOLE" not in done.stderr, done.stderr
        return done.stdout

    assert "How it was made" in dump("report.html")
    return json.loads(re.search(r'<pre id="found">(\{.*?\})</pre>', dump("wrapper.html"))[1])


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    study(folder / "b_second")
    study(folder / "a_first" / "oracle", "A deeper folder", finding="Nothing `much`.", size=(1280, 900))
    publish(folder / "b_second")
    made = {
        "revision": "abc-dirty",
        "machine": "Linux, 2 cores",
        "device": "cpu",
        "date": "2026-11-24",
        "jax": "0.10.2",
        "optax": None,
    }
    rows = [{"key": name, "job": "j", "job_rows": 1} | made for name in "ab"]
    rows[0]["revision"] = "stale"
    torn = '{"key": "c", "revision": "torn'
    (folder / "b_second" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + torn)
    return folder


def test_a_report_holds_every_study(results):
    text = make(results)
    document = check_structure(text)
    assert text == make(results)
    links = [link["href"] for link in document.all("a") if link["href"] != "#contents"]
    assert links == ["#study-1-a-first-oracle", "#study-2-b-second"]
    assert text.count("It is the dictionary.") == 2 and text.count("Nothing <code>much</code>.") == 2
    files = [results / home / name for home in ("a_first/oracle", "b_second") for name in ("stairs.png", "violins.png")]
    images = document.all("img")
    assert [base64.b64decode(image["src"].partition(",")[2], validate=True) for image in images] == [
        path.read_bytes() for path in files
    ]
    assert [image["alt"] for image in images] == ["Stairs, from the file.", "Violins."] * 2
    assert {(image["width"], image["height"]) for image in images} == {("1280", "900"), ("64", "45")}
    assert all(f'<th scope="row">{method}</th>' in text for method in METHODS)
    assert text.count('0.105 <span class="sd">± 0.007</span>') == 2 * (len(METHODS) + 1)


def test_provenance_is_that_of_the_newest_whole_row(results):
    text = make(results)
    assert "<dt>Revision</dt><dd>abc-dirty</dd>" in text and "stale" not in text and "torn" not in text
    assert "<dt>Date</dt><dd>2026-11-24</dd>" in text and "<dt>Versions</dt><dd>jax 0.10.2</dd>" in text
    assert text.count("No rows tell of the machine") == 1


def test_agreement_counts_the_close_and_folds_the_far(results):
    text = make(results)
    assert "2 of 3 numbers" in text and "The 1 that is not" in text
    folded = text.partition("<details>")[2].partition("</details>")[0]
    assert METHODS[1] in folded and METHODS[0] not in folded and METHODS[2] not in folded
    cells = re.findall(r"<td[^>]*>(.*?)</td>", folded)
    assert cells == ["50", "auc_ood", "0.500", '0.600 <span class="sd">± 0.010</span>', "−0.100", "0.040"]
    far = [
        {"method": name, "start": None, "metric": "auc_ood", "ours": 0.5, "published": 0.5 - difference, "published_sd": None}
        | {"difference": difference, "tolerance": tolerance, "relative": False, "close": False}
        for name, difference, tolerance in (("near", -0.5, 0.4), ("far", 0.1, 0.01), ("middle", 0.2, 0.1))
    ]
    tables.write_table(results / "b_second" / "published.csv", far)
    folded = make(results).partition("<details>")[2].partition("</details>")[0]
    assert re.findall(r'<th scope="row">(.*?)</th>', folded) == ["far", "middle", "near"]
    headings = ["method", "metric", "ours", "published", "difference", "tolerance"]
    assert re.findall(r'<th scope="col"[^>]*>(.*?)</th>', folded) == headings
    publish(results / "b_second", close=(True, True))
    text = make(results)
    assert "2 of 2 numbers" in text and "<details>" not in text


def test_hostile_texts_are_only_texts(tmp_path):
    table = (HOSTILE, {"method": HOSTILE}, [{"method": HOSTILE}])
    figures = [("stairs.png", f"{HOSTILE}. `{HOSTILE}`")]
    hostile = {"about": HOSTILE, "command": HOSTILE, "finding": HOSTILE, "notes": {HOSTILE: HOSTILE}}
    study(tmp_path / '"><script>' / "a", HOSTILE, figures=figures, tables=[table], **hostile)
    study(tmp_path / "script a", HOSTILE)
    row = {"machine": HOSTILE, "revision": "</dd></dl></section>"}
    (tmp_path / "script a" / "rows.jsonl").write_text(json.dumps(row) + "\n")
    tables.write_table(
        tmp_path / "script a" / "published.csv",
        [dict.fromkeys(rendering.NUMBERS, 0.5) | {"method": HOSTILE, HOSTILE: HOSTILE, "metric": HOSTILE, "close": False}],
    )
    document = check_structure(make(tmp_path))
    assert {tag for tag, _, _ in document.tags} <= {
        *(
            "html",
            "head",
            "meta",
            "link",
            "title",
            "style",
            "body",
            "header",
            "nav",
            "main",
            "section",
            "h1",
            "h2",
            "h3",
            "p",
            "ol",
        ),
        *(
            "li",
            "a",
            "div",
            "pre",
            "code",
            "span",
            "figure",
            "img",
            "figcaption",
            "b",
            "table",
            "caption",
            "thead",
            "tbody",
            "tr",
        ),
        *("th", "td", "details", "summary", "dl", "dt", "dd"),
    }
    assert HOSTILE in document.texts["h2"] and HOSTILE in document.texts["pre"] and HOSTILE in document.texts["th"]
    assert len(document.all("img")) == 3 and document.all("img")[0]["alt"].startswith(HOSTILE)


@pytest.mark.parametrize("width", [1_280, 390])
def test_the_page_fits(results, tmp_path, width):
    long = "a_word_" * 40
    study(
        results / "c",
        long,
        finding=long,
        command=f"python -m {long} --{long}",
        notes={long: long},
        figures=[("stairs.png", long)],
    )
    text = make(results)
    check_structure(text)
    if CHROMIUM is not None:
        found = browse(text, tmp_path / "browser", width)
        assert found["inner"] == width and max(found["scroll"], found["body"]) <= width
        assert found["seen"] == found["images"] == 5
        # The wide tables do scroll, so that their fitting is their boxes' merit.
        assert found["wide"] >= 2


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks.report.report", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_the_binary_writes_one_file(results, tmp_path):
    done = run(f"--results_dir={results}")
    assert done.returncode == 0, done.stderr
    assert (results / "report.html").read_text() == make(results)
    before = sorted(results.rglob("*"))
    done = run(f"--results_dir={results}", f"--output={tmp_path / 'new' / 'page.html'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new" / "page.html").read_text() == make(results) and sorted(results.rglob("*")) == before


def test_the_binary_says_what_is_wrong_in_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    for nothing in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        done = run(f"--results_dir={nothing}")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"there are no results in {nothing}; run a study first, or name its folder by --results_dir.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def call(*arguments):
    saved = flagsaver.save_flag_values(report.FLAGS)
    try:
        report.FLAGS(["report", *arguments])
        report.main()
    finally:
        flagsaver.restore_flag_values(saved, report.FLAGS)


def spoil_page(folder):
    (folder / "page.json").write_text("{")
    return r"page\.json is damaged"


def remove_figure(folder):
    (folder / "violins.png").unlink()
    return r"shows violins\.png, which is not there"


def spoil_figure(folder):
    (folder / "violins.png").write_bytes((folder / "violins.png").read_bytes()[:100])
    return r"violins\.png is not a PNG file or is damaged"


def cut_comparison(folder):
    path = folder / "published.csv"
    path.write_text(path.read_text()[:-8])
    return r"published\.csv is not a comparison"


def infinite_comparison(folder):
    path = folder / "published.csv"
    path.write_text(path.read_text().replace("-0.1", "nan"))
    return r"published\.csv is not a comparison"


def foreign_comparison(folder):
    (folder / "published.csv").write_text("a,b\n1,2\n")
    return r"published\.csv is not a comparison"


@pytest.mark.parametrize(
    "damage", [spoil_page, remove_figure, spoil_figure, cut_comparison, infinite_comparison, foreign_comparison]
)
def test_damage_is_named_and_nothing_is_written(results, damage):
    fault = damage(results / "b_second")
    with pytest.raises(cli.UsageError, match=fault) as stop:
        call(f"--results_dir={results}")
    message = str(stop.value)
    assert str(results / "b_second") in message and message.endswith(".") and "\n" not in message
    assert not (results / "report.html").exists()


def test_the_output_must_be_a_file(results):
    with pytest.raises(cli.UsageError, match="--output must name a file"):
        call(f"--results_dir={results}", f"--output={results}")
