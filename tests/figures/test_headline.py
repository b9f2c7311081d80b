"""The figures of the headline benchmark draw what the rows say, and nothing in them is clipped or
covered.
"""

import numpy as np
import pytest

from sae_gap import figures
from sae_gap.analysis import splits

from .samples import SCORES, assert_legible, choose, make_rows

FIGURES = (figures.matched_cosines, figures.recovery)


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_no_text_is_clipped_or_covers_another(draw):
    rows = make_rows(saes=(*SCORES, "batchtopk", "matryoshka", "gated"), spread=0.15)
    scores = ("mcc_id", "mcc_ood")
    assert_legible(draw([row | {name: 0.2 + row[name] / 50 for name in scores} for row in rows]))


def test_the_encoders_shares_are_cells_of_a_table_along_each_size():
    sizes = ({}, {"num_latents": 50}, {"num_samples": 1_000, "spread": 0.15})
    rows = [row for size in sizes for row in make_rows(saes=("topk", "mp"), **size)]
    lines = splits(rows, ["mcc_ood"])
    figure = figures.encoder_shares(lines, "mcc_ood")
    latents, samples = figure.axes
    for axes, size, other in (
        (latents, "num_latents", {"num_samples": 5_000}),
        (samples, "num_samples", {"num_latents": 100}),
    ):
        drawn = {tuple(point) for line in axes.get_lines() for point in line.get_xydata().tolist()}
        wanted = {
            (line[size], 100 * part / (part + line["dictionary_part"]))
            for line in lines
            if other.items() <= line.items()
            for part in [line["amortisation_part"]]
        }
        assert len(drawn) == 4 and drawn == wanted
    assert_legible(figure)
    assert figures.encoder_shares(splits(make_rows(), ["mcc_ood"]), "mcc_ood") is None
    assert figures.encoder_shares([], "mcc_ood") is None


@pytest.mark.parametrize("draw", FIGURES)
def test_without_the_truth_there_is_no_figure(draw):
    assert draw([]) is None
    nothing = dict.fromkeys(("mcc_id", "mcc_ood", "cosines"))
    assert draw([row | nothing for row in make_rows()]) is None


@pytest.mark.parametrize("draw", FIGURES)
def test_rows_of_two_settings_are_refused(draw):
    with pytest.raises(ValueError, match="mix lam"):
        draw(make_rows(seeds=(0,)) + make_rows(seeds=(1,), lam=0.2))
    with pytest.raises(ValueError, match="twice"):
        draw(make_rows() * 2)


def curves_of(figure):
    """The heights of each line, by what the legend calls its colour."""
    names = {line.get_color(): line.get_label() for line in figure.legends[0].get_lines()}
    drawn = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 201]
    return {names[line.get_color()]: line.get_ydata() for line in drawn}


def test_each_dictionary_is_drawn_once_and_pooled_over_seeds():
    found = curves_of(figures.matched_cosines(make_rows()))
    assert [*found] == ["ReLU SAE", "TopK SAE", "JumpReLU SAE", "MP SAE", "DL-FISTA"]
    pooled = np.concatenate([row["cosines"] for row in choose(make_rows(), dictionary="dl_fista")])
    quantiles = np.percentile(pooled, np.linspace(0, 100, 201))
    np.testing.assert_allclose(found["DL-FISTA"], quantiles)
    # A fit that failed counts against its learner, and another start is another dictionary.
    (row,) = choose(make_rows(seeds=(0,)), dictionary="dl_fista")
    rows = [row | {"start": "topk", "method": "other"}, row | {"cosines": [1.0, None, None, None]}]
    found = curves_of(figures.matched_cosines(rows))
    assert [*found] == ["DL-FISTA from TopK SAE", "DL-FISTA"]
    assert found["DL-FISTA"][[0, 130, -1]].tolist() == [0, 0, 1]


def test_recovery_marks_every_method_and_names_every_dictionary():
    rows = make_rows(spread=0)
    figure = figures.recovery(rows)
    single = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    drawn = sorted(
        (line.get_marker(), line.get_xdata()[0], line.get_ydata()[0])
        for line in single
        if line.get_marker() in "osD^"
    )
    shapes = {("own", None): "o", ("support", None): "s"}
    shapes |= {("lasso", "cold"): "^", ("lasso", "warm"): "D"}
    expected = [
        (shapes[row["inference"], row["start"]], row["mcc_id"], row["mcc_ood"])
        for row in choose(rows, seed=0)
    ]
    assert len(drawn) == 19
    for one, other in zip(drawn, sorted(expected), strict=True):
        assert one[0] == other[0] and one[1:] == pytest.approx(other[1:])
    assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim()
