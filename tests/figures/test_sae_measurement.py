"""Figures of a measurement: what they say, what they draw, and None where there is nothing to draw."""

import matplotlib.colors
import pytest

from sae_gap import figures

SIZES = {"num_latents": 64, "input_dim": 16, "seed": 0}


def points(name, role, shift=1.0, own=None):
    told = {"kind": "curve", "dictionary": name, "role": role, "samples": 500, **SIZES}
    found = [
        told | {"codes": "lasso", "l0": l0, "fvu": shift * 2 / l0, "refit_l0": l0, "refit_fvu": shift / l0, "lam": 1 / l0}
        for l0 in (4.0, 8.0, 16.0)
    ]
    return found + ([] if own is None else [told | {"codes": "own", "lam": None, **own}])


OWN = {"l0": 8.0, "fvu": 0.2, "refit_l0": 7.9, "refit_fvu": 0.15}


def test_the_curve_names_what_the_encoder_leaves_and_what_it_could():
    figure = figures.fvu_curve([*points("my_sae", "sae", own=OWN), *points("random", "control", 3.0)])
    assert "with 8 latents my_sae leaves 0.150" in figure.get_label().replace("With", "with")
    assert "could leave 0.125" in figure.get_label()
    axes = figure.axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    low, high = axes.get_xlim()
    assert 0 < low < 4 and high > 16
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"my_sae", "random atoms", "certified lasso", "encoder, values refitted"} <= legend
    drawn = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]
    assert [tuple(line.get_ydata()) for line in drawn[:2]] == [(0.5, 0.25, 0.125), (0.25, 0.125, 0.0625)]
    assert drawn[0].get_color() == drawn[1].get_color() != drawn[2].get_color()


@pytest.mark.parametrize("name", ["$\\frac$", "a$b$c", "_mine"])
def test_a_name_is_drawn_to_the_letter(name):
    legend = figures.fvu_curve(points(name, "sae", own=OWN)).legends[0]
    assert name in {text.get_text() for text in legend.get_texts()}
    assert not any(text.get_parse_math() for text in legend.get_texts())


def test_two_saes_have_two_colours_and_a_decoder_alone_has_no_encoder():
    figure = figures.fvu_curve([*points("one", "sae", own=OWN), *points("two", "sae", 2.0, own=OWN)])
    colours = {matplotlib.colors.to_hex(line.get_color()) for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 3}
    assert len(colours) == 2
    alone = figures.fvu_curve(points("D", "dictionary"))
    assert "encoder" not in {text.get_text() for text in alone.legends[0].get_texts()} and "D can leave" in alone.get_label()


def test_curves_that_lie_on_each_other_are_all_to_be_seen():
    def widths(*names, shift=1.0):
        rows = [row for place, name in enumerate(names) for row in points(name, "sae", shift**place, own=OWN)]
        return [line.get_linewidth() for line in figures.fvu_curve(rows).axes[0].get_lines() if len(line.get_xdata()) == 3][
            1::2
        ]

    # Drawn in their order, so that each is broader than what comes upon it.
    first, second, third = widths("one", "two", "three")
    assert first > second > third == widths("one", "two", shift=2.0)[0] == widths("one", "two", shift=2.0)[1]


SHARES = {"scale_share": 0.1, "values_share": 0.15, "support_share": 0.05}


def test_the_parts_are_bars_that_end_at_the_gap():
    figure = figures.gap_parts(
        [SIZES | SHARES | {"dictionary": "my_sae", "samples": 500, "relative_gap": 0.3}, SIZES | {"dictionary": "D"}]
    )
    bars = figure.axes[0].patches
    assert [bar.get_width() for bar in bars] == pytest.approx([10, 15, 5])
    assert bars[-1].get_x() + bars[-1].get_width() == pytest.approx(30)
    assert "cost 30.0 % more" in figure.get_label() and "values" in figure.get_label().partition(":")[0]
    assert figures.gap_parts([{"dictionary": "D"}]) is None


def test_coherence_is_drawn_from_the_least_to_the_most():
    told = {"kind": "atoms", "role": "sae", "duplicates": 3, **SIZES}
    rows = [told | {"dictionary": "my_sae", "coherence": [0.1, 0.2, 0.4]}, told | {"dictionary": "empty", "coherence": []}]
    figure = figures.coherence(rows)
    (line,) = (line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 3)
    assert list(line.get_xdata()) == [0, 50, 100] and list(line.get_ydata()) == [0.1, 0.2, 0.4]
    assert "my_sae has another at a cosine of 0.20; 3 have" in figure.get_label()


def test_nothing_gives_nothing():
    assert figures.fvu_curve([]) is None and figures.gap_parts([]) is None and figures.coherence([]) is None
