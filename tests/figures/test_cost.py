"""The figure of codes by what they cost."""

import pytest
from matplotlib.text import Text

from sae_gap import figures

ABOUT = {"dictionary": "mine", "level": 32, "num_latents": 64, "input_dim": 16}
TABLE = [
    ("own", "own", None, 1.0, 35.6, 0.2, 0.4),
    ("screened_pursuit_2x4", "screened_pursuit", 2, 4.0, 32.0, 0.14, 0.2),
    ("screened_pursuit_2x2", "screened_pursuit", 2, 3.0, 31.8, 0.15, 0.25),
    ("fista_1", "fista", None, 1.0, 33.0, 0.9, 3.0),
    ("nearest_atoms", "nearest_atoms", None, 1.5, 32.5, 0.17, 0.3),
    ("lasso_refit", "lasso", None, None, 20.0, 0.16, 0.22),
]
NAMES = ("codes", "family", "screens", "products", "l0", "fvu", "kl")
ROWS = [ABOUT | dict(zip(NAMES, values, strict=True)) for values in TABLE]
# A pursuit's product takes longer than an encoder's.
for row in ROWS:
    row["breadth"] = 4 if row["codes"].endswith("4") else 2
    row["processor"] = (row["products"] or 9) ** 1.5


def test_codes_are_drawn_by_their_cost_and_the_optimum_as_a_level():
    figure = figures.loss_by_cost(ROWS)
    named = {text.get_text() for text in figure.axes[0].texts}
    assert {"2×4", "2×2", "own", "nearest atoms"} <= named
    assert any("L0 32 to 36" in text.get_text() for text in figure.findobj(Text))
    for axes, cost in zip(figure.axes, ("products", "processor"), strict=True):
        drawn = {one.get_label(): one.lines[0].get_xydata().tolist() for one in axes.containers}
        levels = {line.get_label(): line.get_ydata()[0] for line in axes.get_lines()}
        own, four, two, _, near, level = ROWS
        wanted = {"two screens": [two, four], "the SAE's encoder": [own], "nearest atoms": [near]}
        for name, rows in wanted.items():
            assert drawn[name] == [[row[cost], row["kl"]] for row in rows]
        assert levels["certified lasso"] == level["kl"]
        # A single iteration of FISTA does not set the scale.
        assert axes.get_ylim() == (0, pytest.approx(1.1 * own["kl"]))
    # A decoder alone, or a GPU, has no processor time.
    assert len(figures.loss_by_cost([row | {"processor": None} for row in ROWS]).axes) == 1
    assert figures.loss_by_cost([row for row in ROWS if row["family"] == "fista"])
    assert figures.loss_by_cost(ROWS[-1:]) is None
