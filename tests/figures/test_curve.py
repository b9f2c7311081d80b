"""A curve draws the means of its rows, where they belong; the figures of the headline benchmark draw
what the rows say.
"""

import itertools

import numpy as np
from numpy.testing import assert_allclose
from pytest import approx, mark, raises

from sae_gap import figures
from sae_gap.analysis import splits
from sae_gap.figures import curve, labels, recovery_by_level

from .samples import choose, curves, make_rows, row, said, words

ITERATIONS = (0, 1, 2, 5, 10, 100)
DICTIONARIES = ("relu", "topk", "mp")


def make_warm(widths=(50, 100), iterations=ITERATIONS):
    rows = []
    for (place, name), start, width, count, seed in itertools.product(
        enumerate(DICTIONARIES), ("cold", "warm"), widths, iterations, (0, 1, 2)
    ):
        value = (
            0.2 + 0.2 * place + 0.1 * (start == "warm") + 0.01 * seed**2 + count / 1_000
        )
        scores = {
            "mcc_ood": value - width / 10_000,
            "gap_ood": 10.0 ** (-place - count / 20),
        }
        method = {
            "method": f"m{place}",
            "start": start,
            "iterations": count,
            "seed": seed,
        }
        rows.append(row(name, "fista", num_latents=width, **method, **scores))
    oracle = {"start": "cold", "mcc_ood": 0.98, "gap_ood": 1e-9}
    return rows + [
        row("oracle", "lasso", num_latents=width, **oracle) for width in widths
    ]


WARM = {"x": "iterations", "y": "mcc_ood", "dash": "start"}


@mark.parametrize("metric", ["mcc_ood", "gap_ood"])
def test_lines_are_the_means_and_whiskers_the_deviations_of_the_rows(metric):
    rows = make_warm()
    figure = curve(rows, "iterations", metric, dash="start", panel="num_latents")
    assert [axes.get_title("left") for axes in figure.axes] == [
        "50 latents",
        "100 latents",
    ]
    for axes, width in zip(figure.axes, (50, 100), strict=True):
        places = itertools.product(DICTIONARIES, ("cold", "warm"))
        for (colour, x, *drawn), (name, start) in zip(
            curves(axes), places, strict=True
        ):
            assert colour == labels.colour(name) and tuple(x) == ITERATIONS
            cell = {"dictionary": name, "start": start, "num_latents": width}
            values = [
                [row[metric] for row in choose(rows, iterations=count, **cell)]
                for count in ITERATIONS
            ]
            mean = np.mean(values, axis=1)
            sd = np.std(values, axis=1, ddof=1)
            assert_allclose(drawn, [mean, mean - sd, mean + sd])
        level = [
            line for line in axes.lines if line.get_color() == labels.colour("oracle")
        ]
        assert [line.get_ydata()[0] for line in level] == [
            0.98 if metric == "mcc_ood" else 1e-9
        ]


def test_zero_has_its_place_on_a_log_axis():
    axes = curve(make_warm((100,)), **WARM).axes[0]
    axes.figure.draw_without_rendering()
    places = axes.transData.transform([(count, 0.5) for count in ITERATIONS])[:, 0]
    assert np.all(np.diff(places) > 5) and places[0] > axes.bbox.x0
    assert said(axes.get_xticklabels())[:2] == ["0", "1"]
    # From 1 on it is a log axis: factors of ten have one length.
    assert places[4] - places[1] == approx(places[5] - places[4])


def test_what_the_rows_do_not_say_is_refused_or_left_out():
    assert curve([], **WARM) is None
    assert curve([row | {"mcc_ood": None} for row in make_warm((100,))], **WARM) is None
    with raises(ValueError, match="mix num_latents"):
        curve(make_warm(), **WARM)


def test_many_points_have_a_band_and_no_markers():
    rows = choose(make_warm((100,), range(0, 60, 2)), start="warm")
    (axes,) = curve(rows, "iterations", "mcc_ood").axes
    bands = [band.get_paths()[0].get_extents() for band in axes.collections]
    assert len(bands) == 3 and curves(axes) == []
    sd = np.std([0, 0.01, 0.04], ddof=1)
    low = 0.2 + 0.1 - 0.01 + 0.05 / 3 - sd
    assert_allclose([bands[0].y0, bands[0].y1], [low, low + 2 * sd + 0.058])


def test_a_level_goes_by_the_name_of_its_dictionary_where_its_line_has_none():
    drawn = make_warm((100,))
    rows = [row | {"base": row["dictionary"]} for row in choose(drawn, start="warm")]
    rows += [row | {"base": None} for row in choose(drawn, dictionary="oracle")]
    figure = curve(rows, "iterations", "mcc_ood", line="base")
    assert {"ReLU SAE", "oracle"} <= set(words(figure)) and "None" not in words(figure)


def test_levels_and_frequencies_have_a_panel_each_and_a_dictionary_a_line():
    def level(dictionary, **values):
        scores = {f"atom_mcc_{name}": value for name, value in values.items()}
        return row(dictionary, world="synthsae", **scores)

    topk = level("topk", roots=0.9, free=0.4, rare=0.6)
    rows = [
        topk,
        topk | {"atom_mcc_roots": 0.94, "seed": 1},
        topk | {"method": "frozen_topk"},
    ]
    rows += [level("relu", roots=0.5, children=0.2, free=0.3, frequent=0.1)]
    levels, frequencies = recovery_by_level(rows).axes
    for axes, names in (
        (levels, "roots children free"),
        (frequencies, "frequent rare"),
    ):
        assert said(axes.get_xticklabels()) == names.split()
    drawn = [one.lines[0].get_xydata().ravel() for one in levels.containers]
    # A dictionary is drawn once, with the groups that it has.
    for found, wanted in zip(
        drawn, ([0, 0.5, 1, 0.2, 2, 0.3], [0, 0.92, 2, 0.4]), strict=True
    ):
        assert_allclose(found, wanted)
    assert recovery_by_level([]) is recovery_by_level([row("topk")]) is None
    with raises(ValueError, match="mix world"):
        recovery_by_level([topk, topk | {"world": "other", "seed": 1}])


def test_the_encoders_shares_are_cells_of_a_table_along_each_size():
    sizes = ({}, {"num_latents": 50}, {"num_samples": 1_000, "spread": 0.01})
    rows = [row for size in sizes for row in make_rows(saes=("topk", "mp"), **size)]
    lines = splits(rows, ["mcc_ood"])
    figure = figures.encoder_shares(lines, "mcc_ood")
    latents, samples = figure.axes
    for axes, size, values in (
        (latents, "num_latents", (50, 100)),
        (samples, "num_samples", (1_000, 5_000)),
    ):
        assert said(axes.get_yticklabels()) == ["TopK", "MP"]
        # Half of the samples are for training.
        half = 2 if axes is samples else 1
        assert said(axes.get_xticklabels()) == [f"{one // half:,}" for one in values]
        shown = {text.get_position(): text.get_text() for text in axes.texts}
        assert "training samples" in axes.get_title("left")
        base = {"num_latents": 100, "num_samples": 5_000}
        for line in lines:
            if all(line[name] == value for name, value in base.items() if name != size):
                place = (
                    values.index(line[size]),
                    ("topk", "mp").index(line["dictionary"]),
                )
                whole = line["amortisation_part"] + line["dictionary_part"]
                assert shown[place] == f"{100 * line['amortisation_part'] / whole:.0f}"
    assert figures.encoder_shares(splits(make_rows(), ["mcc_ood"]), "mcc_ood") is None
    assert figures.encoder_shares([], "mcc_ood") is None


def test_cosines_of_no_rows_or_of_two_weights_are_not_drawn():
    draw = figures.matched_cosines
    assert draw([]) is draw([row | {"cosines": None} for row in make_rows()]) is None
    with raises(ValueError, match="mix lam"):
        draw(make_rows(seeds=(0,)) + make_rows(seeds=(1,), lam=0.2))


def curves_of(figure):
    """The heights of each line, by what the legend calls its colour."""
    names = {
        line.get_color(): line.get_label() for line in figure.legends[0].get_lines()
    }
    drawn = [
        line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 201
    ]
    return {names[line.get_color()]: line.get_ydata() for line in drawn}


def test_each_dictionary_is_drawn_once_and_pooled_over_seeds():
    found = curves_of(figures.matched_cosines(make_rows()))
    assert [*found] == ["ReLU SAE", "TopK SAE", "JumpReLU SAE", "MP SAE", "DL-FISTA"]
    pooled = np.concatenate(
        [row["cosines"] for row in choose(make_rows(), dictionary="dl_fista")]
    )
    quantiles = np.percentile(pooled, np.linspace(0, 100, 201))
    assert_allclose(found["DL-FISTA"], quantiles)
    # A fit that failed counts against its learner.
    (row,) = choose(make_rows(seeds=(0,)), dictionary="dl_fista")
    found = curves_of(
        figures.matched_cosines([row | {"cosines": [1.0, None, None, None]}])
    )
    assert found["DL-FISTA"][[0, 130, -1]].tolist() == [0, 0, 1]
