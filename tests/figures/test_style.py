"""Files are equal for equal rows and say what they show; the style stays with the figures; labels
and their order.
"""

import matplotlib
import PIL.Image
import pytest

from sae_gap import figures
from sae_gap.figures import labels, style
from tests.conftest import FONTS

from .test_challenge import cell


def test_files_are_equal_for_equal_rows_and_carry_their_caption_and_no_date(tmp_path):
    def draw():
        return figures.recovery_by_seconds(cell("spams", "topk"))

    names = figures.save(draw(), tmp_path / "one", "a.5")
    assert [*names] == [*figures.save(draw(), tmp_path / "two", "a.5")] == ["a.5.png", "a.5.pdf"]
    png, pdf = ((tmp_path / "one" / name).read_bytes() for name in names)
    assert [png, pdf] == [(tmp_path / "two" / name).read_bytes() for name in names]
    assert b"Date" not in png + pdf and pdf.startswith(b"%PDF")
    with PIL.Image.open(tmp_path / "one" / names[0]) as image:
        assert image.format == "PNG"
        assert image.width == round(style.WIDTH * style.STYLE["savefig.dpi"])
        assert image.text["Description"] == draw().get_label()


def test_the_text_of_a_pdf_is_in_fonts_that_journals_take(tmp_path, monkeypatch):
    monkeypatch.setitem(style.STYLE, "pdf.fonttype", FONTS)
    figures.save(figures.recovery_by_seconds(cell("spams")), tmp_path, "stem")
    assert b"/FontFile2" in (tmp_path / "stem.pdf").read_bytes()


def test_a_callers_style_neither_changes_nor_is_changed(tmp_path):
    def png(stem):
        figures.save(figures.recovery_by_seconds(cell("spams")), tmp_path, stem)
        return (tmp_path / f"{stem}.png").read_bytes()

    plain = png("plain")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "figure.dpi": 30}):
        before = dict(matplotlib.rcParams)
        assert png("other") == plain and dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("given", "label"),
    [
        (("topk",), "TopK SAE"),
        (("topk", "inference"), "TopK"),
        (("mp",), "MP SAE"),
        (("lasso", "inference"), "certified lasso"),
        (("relu", "start"), "ReLU SAE"),
        (("warm", "start"), "warm start"),
        (("new_idea",), "new idea"),
        ((1_000, "num_latents"), "1,000 latents"),
        ((0.05, "lam"), "λ = 0.05"),
        ((3, "no_column"), "no column 3"),
    ],
)
def test_a_name_is_looked_up_in_its_column_and_then_in_the_others(given, label):
    assert labels.label(*given) == label


@pytest.mark.parametrize(
    ("metric", "label", "perfect"),
    [
        ("mcc_ood", "MCC out of distribution", 1.0),
        ("mcc_paper_id", "MCC (published form) in distribution", 1.0),
        ("relative_gap_ood", "relative amortisation gap out of distribution", None),
        ("new_score_id", "new score in distribution", None),
        ("l0_above_id", "latents above 0.01 in distribution", None),
    ],
)
def test_metrics_are_named_with_their_split(metric, label, perfect):
    assert (labels.metric_label(metric), labels.perfect(metric)) == (label, perfect)


def test_names_are_in_the_order_of_their_families():
    mixed = [None, "zeta", 10, "oracle", 2, "alpha", "dl_fista", "relu", "raw"]
    ordered = ["raw", "relu", "dl_fista", "oracle", 2, 10, "alpha", "zeta", None]
    assert sorted(mixed, key=labels.rank) == ordered
    ordered = ["own", "relu", "omp", "lasso"]
    assert sorted(sorted(ordered), key=lambda name: labels.rank(name, "inference")) == ordered


def test_a_name_that_is_nowhere_has_a_spare_colour_of_its_own():
    known = {labels.colour(name) for name in labels._dictionaries()}
    assert labels.colour("new_idea") == "#66A61E" and labels.colour("new_idea") not in known
