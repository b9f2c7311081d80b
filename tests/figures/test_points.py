"""Names beside the points of a figure."""

import itertools

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sae_gap.figures.points import Points


def test_names_cover_neither_points_nor_each_other():
    figure = Figure()
    points = Points(figure.subplots())
    for name, place in {"one": (0, 0), "two": (0.02, 0), "three": (0.04, 0.01), "four": (1, 1)}.items():
        points.add(name, "black", place, 0, 0)
    points.write_names()
    FigureCanvasAgg(figure).draw()
    boxes = [text.get_window_extent() for text in points.axes.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    for place in points.axes.transData.transform([place for path in points.places.values() for place in path]):
        assert not any(box.contains(*place) for box in boxes)
