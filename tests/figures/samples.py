"""Rows to draw, and how to read a drawing."""

import itertools

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.container import ErrorbarContainer
from matplotlib.patches import Rectangle

# Own codes, then the lasso on the same dictionary, in and out of distribution: of the size that the
# paper publishes.
SCORES = {
    "relu": ((0.40, 0.41), (0.39, 0.39)),
    "topk": ((0.81, 0.70), (0.92, 0.87)),
    "jumprelu": ((0.25, 0.32), (0.24, 0.30)),
    "mp": ((0.43, 0.35), (0.41, 0.39)),
}
SETTING = {"num_latents": 100, "sparsity": 10, "num_samples": 5_000, "input_dim": 47}
SETTING |= {"lam": 0.1, "protocol": "strict"}


def make_rows(seeds=(0, 1, 2), saes=tuple(SCORES), spread=0.02, support=True, **setting):
    """Rows of the headline. The names of the methods say nothing, so that nothing can be read out
    of them.
    """
    table = [("probe", "linear_probe", "own", None, 0.67, 0.41)]
    for name in saes:
        (own_id, own), (frozen_id, frozen) = SCORES.get(name, ((0.6, 0.5), (0.7, 0.6)))
        table.append(("sae", name, "own", None, own_id, own))
        if support:
            table.append(("support", name, "support", None, own_id + 0.01, own + 0.04))
        table.append(("frozen", name, "lasso", "cold", frozen_id, frozen))
        table.append(("refined", name, "lasso", "warm", frozen_id, frozen))
    table.append(("dictionary_learning", "dl_fista", "lasso", "cold", 0.95, 0.945))
    table.append(("oracle", "oracle", "lasso", "cold", 0.986, 0.985))
    rows = []
    for (place, (family, dictionary, inference, start, ident, ood)), seed in itertools.product(
        enumerate(table), seeds
    ):
        shift = spread * np.sin(7 * seed + place) * (family != "oracle")
        row = {"method": f"m{place}", "family": family, "dictionary": dictionary}
        row |= {"inference": inference, "start": start}
        row |= {"seed": seed, "mcc_id": ident + shift, "mcc_ood": ood + shift, **SETTING, **setting}
        cosines = np.linspace(max(0, 2 * ident - 1.0), min(1, ident + 0.1), 50)
        row["cosines"] = None if family == "probe" else [*cosines]
        rows.append(row)
    return rows


def row(dictionary, inference=None, **values):
    """A row of a method that is named after its dictionary and inference."""
    told = {"method": f"{dictionary} {inference}", "seed": 0}
    return SETTING | told | {"dictionary": dictionary, "inference": inference} | values


def choose(rows, **values):
    return [row for row in rows if all(row.get(name) == value for name, value in values.items())]


def mean(rows, metric="mcc_ood", **values):
    return np.mean([row[metric] for row in choose(rows, **values)])


def bars(axes):
    """Bottom and top of the bars, in the order drawn."""
    rectangles = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [(patch.get_y(), patch.get_y() + patch.get_height()) for patch in rectangles]


def words(figure):
    # A title that is too long for its line wraps.
    return [text.get_text().replace("\n", " ") for text in figure.findobj(matplotlib.text.Text)]


def curves(axes):
    """x, y, lower and upper ends of the whiskers of each line of an axes with its colour."""
    found = []
    for container in (one for one in axes.containers if isinstance(one, ErrorbarContainer)):
        line, _, whiskers = container.lines
        if line.get_linestyle() != "None" and whiskers:
            ends = np.array(whiskers[-1].get_segments())[:, :, 1]
            found.append((line.get_color(), *line.get_data(), ends[:, 0], ends[:, 1]))
    return found


def assert_legible(figure):
    FigureCanvasAgg(figure).draw()
    texts = figure.findobj(matplotlib.text.Text)
    beyond = [
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        # An axis that shares its ticks with another has no labels of its own.
        for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
        if not min(axis.get_view_interval()) <= place <= max(axis.get_view_interval())
    ]
    texts = [text for text in texts if text.get_text().strip() and text.get_visible()]
    boxes = {
        text.get_text() + str(id(text)): text.get_window_extent()
        for text in texts
        if text not in beyond
    }
    assert len(boxes) > 8
    assert min(text.get_fontsize() for text in texts) >= 7 and figure.get_figwidth() <= 6.4
    for name, box in boxes.items():
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, name
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, name
    clashes = [
        (one, two)
        for one, two in itertools.combinations(boxes, 2)
        if boxes[one].padded(-0.5).overlaps(boxes[two].padded(-0.5))
    ]
    assert clashes == []
