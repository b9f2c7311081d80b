"""A curve draws the means of its rows, where they belong."""

import itertools

import numpy as np
import pytest

from sae_gap import figures
from sae_gap.figures import labels

from .samples import SETTING, choose, curves, words

ITERATIONS = (0, 1, 2, 5, 10, 100)
DICTIONARIES = ("relu", "topk", "mp")


def make_warm(widths=(50, 100), seeds=(0, 1, 2), iterations=ITERATIONS):
    rows = []
    for (place, name), start, width, count, seed in itertools.product(
        enumerate(DICTIONARIES), ("cold", "warm"), widths, iterations, seeds
    ):
        value = 0.2 + 0.2 * place + 0.1 * (start == "warm") + 0.01 * seed**2
        value += count / 1_000 - width / 10_000
        row = SETTING | {"method": f"m{place}", "dictionary": name, "inference": "fista"}
        row |= {"start": start, "num_latents": width, "iterations": count, "seed": seed}
        gap = 10.0 ** (-place - count / 20) * (1 + seed)
        rows.append(row | {"mcc_ood": value, "gap_ood": gap})
    for width, seed in itertools.product(widths, seeds):
        row = SETTING | {"method": "m9", "dictionary": "oracle", "inference": "lasso"}
        row |= {"start": "cold", "num_latents": width, "seed": seed}
        rows.append(row | {"mcc_ood": 0.98, "gap_ood": 1e-9})
    return rows


WARM = {"x": "iterations", "y": "mcc_ood", "dash": "start"}


@pytest.mark.parametrize("metric", ["mcc_ood", "gap_ood"])
def test_lines_are_the_means_and_whiskers_the_deviations_of_the_rows(metric):
    rows = make_warm()
    figure = figures.curve(rows, "iterations", metric, dash="start", panel="num_latents")
    assert [axes.get_title("left") for axes in figure.axes] == ["50 latents", "100 latents"]
    for axes, width in zip(figure.axes, (50, 100), strict=True):
        drawn = curves(axes)
        assert len(drawn) == 6
        for (colour, x, y, low, high), (name, start) in zip(
            drawn, itertools.product(("relu", "topk", "mp"), ("cold", "warm")), strict=True
        ):
            assert colour == labels.colour(name) and tuple(x) == ITERATIONS
            for place, count in enumerate(ITERATIONS):
                cell = {"dictionary": name, "start": start, "num_latents": width}
                values = [row[metric] for row in choose(rows, iterations=count, **cell)]
                sd = pytest.approx(np.std(values, ddof=1))
                assert y[place] == pytest.approx(np.mean(values))
                assert high[place] - y[place] == sd and y[place] - low[place] == sd
        level = [line for line in axes.lines if line.get_color() == labels.colour("oracle")]
        assert [line.get_ydata()[0] for line in level] == [0.98 if metric == "mcc_ood" else 1e-9]


def test_zero_has_its_place_on_a_log_axis():
    axes = figures.curve(make_warm((100,)), **WARM).axes[0]
    axes.figure.draw_without_rendering()
    places = axes.transData.transform([(count, 0.5) for count in ITERATIONS])[:, 0]
    assert np.all(np.diff(places) > 5) and places[0] > axes.bbox.x0
    shown = [label.get_text() for label in axes.get_xticklabels()]
    ticks = dict(zip(axes.get_xticks(), shown, strict=True))
    assert ticks[0] == "0" and ticks[1] == "1" and ticks[100] == "100"
    # From 1 on it is a log axis: factors of ten have one length.
    one, ten, hundred = axes.transData.transform([(count, 0.5) for count in (1, 10, 100)])[:, 0]
    assert ten - one == pytest.approx(hundred - ten)


def test_what_the_rows_do_not_say_is_refused_or_left_out():
    assert figures.curve([], **WARM) is None
    assert figures.curve(make_warm(), "depth", "mcc_ood") is None
    assert figures.curve([row | {"mcc_ood": None} for row in make_warm((100,))], **WARM) is None
    with pytest.raises(ValueError, match="mix num_latents"):
        figures.curve(make_warm(), **WARM)
    with pytest.raises(ValueError, match="twice"):
        figures.curve(make_warm((100,)), "iterations", "mcc_ood")


def test_many_points_have_a_band_and_no_markers():
    rows = choose(make_warm((100,), iterations=range(0, 60, 2)), start="warm")
    figure = figures.curve(rows, "iterations", "mcc_ood")
    bands = [band.get_paths()[0].get_extents() for band in figure.axes[0].collections]
    assert len(bands) == 3 and curves(figure.axes[0]) == []
    sd = np.std([0, 0.01, 0.04], ddof=1)
    low = 0.2 + 0.1 - 0.01 + 0.05 / 3 - sd
    np.testing.assert_allclose([bands[0].y0, bands[0].y1], [low, low + 2 * sd + 0.058])
    assert any("intervals: ± 1 sd" in text for text in words(figure))


def test_a_column_of_the_panel_leaves_the_colour_to_another():
    options = {"x": "iterations", "y": "mcc_ood", "line": "start", "panel": "dictionary"}
    figure = figures.curve(make_warm((100,)), **options)
    assert [axes.get_title("left") for axes in figure.axes] == ["ReLU SAE", "TopK SAE", "MP SAE"]
    colours = [labels.colour(start, "start") for start in ("cold", "warm")]
    assert all([colour for colour, *_ in curves(axes)] == colours for axes in figure.axes)
    shown = [text for text in words(figure) if text in ("cold start", "warm start", "ReLU SAE")]
    assert sorted(shown) == ["ReLU SAE", "cold start", "warm start"]


def test_a_level_goes_by_the_name_of_its_dictionary_where_its_line_has_none():
    drawn = make_warm((100,))
    rows = [row | {"base": row["dictionary"]} for row in choose(drawn, start="warm")]
    rows += [row | {"base": None} for row in choose(drawn, dictionary="oracle")]
    figure = figures.curve(rows, "iterations", "mcc_ood", line="base")
    assert {"ReLU SAE", "oracle"} <= set(words(figure)) and "None" not in words(figure)
