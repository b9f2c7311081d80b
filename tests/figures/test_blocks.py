"""What is captured by block: its lines and bands, by ascending block."""

import numpy as np
import pytest

from sae_gap import figures

from .samples import curves


def spread(codes, block, k, captured, **more):
    found = {"codes": codes, "block": block, "k": k, "captured": captured}
    return found | {"low": captured - 0.01, "high": captured + 0.02} | more


def test_each_size_and_each_control_has_a_line_and_its_intervals():
    rows = [
        spread("best", block, k, share + k / 100)
        for k in (5, 25)
        for block, share in ((7, 0.3), (0, 0.1), (2, 0.2))
    ]
    rows += [spread("orthogonal", 0, 25, 0.05), {"codes": "ceiling", "block": 0, "captured": 0.9}]
    rows += [
        spread("span", block, k, share + k / 1000, control=control)
        for block in (2, 0, 7)
        for k in (5, 25)
        for control, share in (("given", 0.4), ("isotropic", 0.5))
    ]
    figure = figures.captured_by_block(rows)
    expected = ((0.15, 0.25, 0.35), (0.35, 0.45, 0.55)), ((0.425,) * 3, (0.525,) * 3)
    for axes, shares in zip(figure.axes, expected, strict=True):
        for (_, blocks, drawn, low, high), values in zip(curves(axes), shares, strict=True):
            assert list(blocks) == [0, 2, 7]
            found = drawn, low + 0.01, high - 0.02
            np.testing.assert_allclose(found, [values] * 3)
    # An interval beyond all lines is cut off.
    wide = figures.captured_by_block([row | {"low": -3, "high": 5} for row in rows])
    assert wide.axes[0].get_ylim() == figure.axes[0].get_ylim() == (0, pytest.approx(1.1 * 0.55))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["at most 5 atoms", "at most 25 atoms", "this dictionary", "random directions"]
    # Of one document no interval is known.
    assert figures.captured_by_block([row | {"low": None, "high": None} for row in rows])
    assert figures.captured_by_block([row for row in rows if row["block"] == 7]) is None
    assert figures.captured_by_block([row | {"block": None} for row in rows]) is None
