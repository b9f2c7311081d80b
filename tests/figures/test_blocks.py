"""What is captured by block: its lines and bands, by ascending block."""

import numpy as np
import pytest

from sae_gap import figures

from .samples import curves


def spread(codes, block, k, captured, **more):
    found = {"codes": codes, "block": block, "k": k, "captured": captured}
    return found | {"low": captured - 0.01, "high": captured + 0.02} | more


def test_each_size_and_each_control_has_a_line_and_its_intervals():
    sizes, blocks = (5, 25), np.array([0, 2, 7])
    rows = [spread("best", block, k, (block + k) / 100) for k in sizes for block in (7, 0, 2)]
    rows += [
        spread("span", block, k, (block + place) / 100, control=control)
        for k in sizes
        for block in (2, 0, 7)
        for place, control in enumerate(("given", "isotropic"))
    ]
    rows += [spread("orthogonal", 0, 25, 0.05), {"codes": "ceiling", "block": 0, "captured": 0.9}]
    figure = figures.captured_by_block(rows)
    drawn = [line for axes in figure.axes for line in curves(axes)]
    for (_, x, y, low, high), place in zip(drawn, (*sizes, 0, 1), strict=True):
        expected = (blocks + place) / 100
        found = np.array([x, y, low + 0.01, high - 0.02], float)
        np.testing.assert_allclose(found, [blocks, *[expected] * 3])
    # An interval beyond all lines is cut off.
    wide = figures.captured_by_block([row | {"low": -3, "high": 5} for row in rows])
    assert wide.axes[0].get_ylim() == figure.axes[0].get_ylim() == (0, pytest.approx(1.1 * 0.32))
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["at most 5 atoms", "at most 25 atoms", "this dictionary", "random directions"]
    # Of one document no interval is known.
    assert figures.captured_by_block([row | {"low": None, "high": None} for row in rows])
    assert figures.captured_by_block([row for row in rows if row["block"] == 7]) is None
    assert figures.captured_by_block([row | {"block": None} for row in rows]) is None
