"""What accuracy a solver buys with its time, as drawn."""

import numpy as np

from benchmarks.speed import coders
from sae_gap import figures
from sae_gap.figures import labels

CELL = {"world": "paper", "num_latents": 100, "sparsity": 5, "num_samples": 50, "input_dim": 30}
CELL |= {"lam": 0.1, "seed": 0}
POINTS = {
    "working_set": ((0.1, 1e-3), (0.2, 1e-5), (0.4, 8e-7)),
    "spams": ((0.05, 4e-6),),
    "spams_double": ((0.3, 0.0),),
}


def rows():
    lines = [
        CELL | {"method": name, "seconds": seconds, "relative_gap_max": gap}
        for name, path in POINTS.items()
        for seconds, gap in path
    ]
    return [*lines, CELL | {"method": "spams_omp", "seconds": 0.01}]


def test_every_solver_is_a_line_through_its_points_in_its_colour():
    figure = figures.gap_by_seconds(rows())
    (axes,) = figure.axes
    drawn = {line.get_color(): line.get_xydata() for line in axes.lines if line.get_marker()}
    for name, path in POINTS.items():
        expected = [(seconds, max(gap, 1e-16)) for seconds, gap in path]
        np.testing.assert_allclose(drawn.pop(labels.colour(name, "solver")), expected)
    assert drawn == {} and {axes.get_xscale(), axes.get_yscale()} == {"log"}
    level = next(line for line in axes.lines if not line.get_marker())
    np.testing.assert_allclose(level.get_ydata(), 1e-6)
    assert {"working set", "SPAMS", "SPAMS in double"} <= {
        text.get_text() for text in figure.legends[0].get_texts()
    }


def test_no_gap_is_no_figure():
    assert figures.gap_by_seconds([CELL | {"method": "spams_omp", "seconds": 0.01}]) is None


def test_solvers_have_colours_of_their_own():
    assert len({labels.colour(name, "solver") for name in coders.CODERS}) == len(coders.CODERS)
