"""A figure is read with the caption that stands in it, and to its last pixel."""

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest

from benchmarks.report import pictures


def draw(path, caption=None, *, international=False):
    """A small PNG of noise."""
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    text = PIL.PngImagePlugin.PngInfo()
    if caption is not None:
        (text.add_itxt if international else text.add_text)("Description", caption)
    PIL.Image.fromarray(pixels).save(path, pnginfo=text)


@pytest.mark.parametrize("international", [False, True])
def test_caption_is_read_from_the_file(tmp_path, international):
    caption = 'λ ≤ 0.1 – "quoted"' if international else "plain words"
    draw(tmp_path / "a.png", caption, international=international)
    assert pictures.read(tmp_path / "a.png").caption == caption
    draw(tmp_path / "b.png")
    assert pictures.read(tmp_path / "b.png").caption == ""


def test_caption_that_matplotlib_wrote(tmp_path):
    from matplotlib.figure import Figure

    Figure((1, 1)).savefig(tmp_path / "a.png", metadata={"Description": "½‖y − D z‖²"})
    assert pictures.read(tmp_path / "a.png").caption == "½‖y − D z‖²"


def test_damaged_pictures_are_refused(tmp_path):
    draw(tmp_path / "whole.png", "words")
    whole = (tmp_path / "whole.png").read_bytes()
    spoilt = bytearray(whole)
    spoilt[whole.index(b"IDAT") + 8] ^= 0xFF
    for content in (b"", b"GIF89a", whole[: len(whole) // 2], bytes(spoilt)):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.png is not a PNG file or is damaged; .*\.$"):
            pictures.read(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError):
        pictures.read(tmp_path / "none.png")
