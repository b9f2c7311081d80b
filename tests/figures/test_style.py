"""Files are equal for equal rows and say what they show; the style stays with the figures."""

import matplotlib
import PIL.Image

from sae_gap import figures
from sae_gap.figures import style
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
