"""The figures of the headline benchmark draw what the rows say, and nothing in them is clipped or
covered.
"""

import numpy as np
import pytest
from sae_gap.figures.decompose import decompositions

from sae_gap import figures

from .samples import SCORES, assert_legible, bars, choose, make_rows, mean, words

FIGURES = (figures.decomposition, figures.matched_cosines, figures.recovery)


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_no_text_is_clipped_or_covers_another(draw):
    rows = make_rows(saes=(*SCORES, "batchtopk", "matryoshka", "gated"), spread=0.15)
    scores = ("mcc_id", "mcc_ood")
    assert_legible(draw([row | {name: 0.2 + row[name] / 50 for name in scores} for row in rows]))


def test_the_stairs_climb_from_the_encoder_to_the_oracle():
    rows = make_rows()
    # A dictionary that serves better than the true one.
    rows = [row | {"mcc_ood": row["mcc_ood"] + 0.7 * (row["dictionary"] == "mp")} for row in rows]
    figure = figures.decomposition(rows)
    found = bars(figure.axes[0])
    assert len(found) == 4 * len(SCORES)
    oracle = mean(rows, dictionary="oracle")
    for place, name in enumerate(SCORES):
        own, support = (
            mean(rows, dictionary=name, inference=inference) for inference in ("own", "support")
        )
        support = max(own, support)
        starts = [mean(rows, dictionary=name, start=start) for start in ("cold", "warm")]
        frozen = max(support, *starts)
        steps = [(0, own), (own, support), (support, frozen), (frozen, oracle)]
        np.testing.assert_allclose(found[4 * place : 4 * place + 4], steps, atol=1e-12)
        differences = [f"{top - low:+z.2f}".replace("-", "−") for low, top in steps[1:]]
        written = {f"{own:.2f}", *differences}
        assert written <= set(words(figure))
    hatched = [bool(patch.get_hatch()) for patch in figure.axes[0].patches]
    assert hatched == [patch.get_height() <= -0.005 for patch in figure.axes[0].patches]
    assert any(hatched)
    assert {"values part", "support part", "dictionary part"} <= set(words(figure))
    assert "hatched part is a step down" in figure.get_label()
    assert "amortisation part" not in words(figure)
    # Without the support there are two steps.
    rows = make_rows(support=False)
    found = bars(figures.decomposition(rows).axes[0])
    own, *others = (mean(rows, dictionary="topk", start=start) for start in (None, "cold", "warm"))
    frozen = max(others)
    np.testing.assert_allclose(found[3:6], [(0, own), (own, frozen), (frozen, oracle)], atol=1e-12)


def test_shares_stack_to_the_whole_distance_along_each_size():
    sizes = ({}, {"num_latents": 50}, {"num_samples": 1_000})
    rows = [row for size in sizes for row in make_rows(saes=("topk", "mp"), **size)]
    rows = [
        row
        | {"dictionary": f"{row['dictionary']}".replace("mp", "tuned_mp")}
        | ({"mcc_ood": 0.95} if row["num_samples"] == 1_000 and row["inference"] == "lasso" else {})
        for row in rows
    ]
    figure = figures.loss_shares(rows)
    latents, samples = figure.axes
    assert "50, 100" in latents.get_title("left") and "1,000, 5,000" in samples.get_title("left")
    for axes in figure.axes:
        stacks = np.reshape(bars(axes), (4, 3, 2))
        assert np.all(stacks[:, 1:, 0] == stacks[:, :-1, 1]) and np.all(stacks[:, 0, 0] == 0)
        np.testing.assert_allclose(stacks[:, -1, 1], 100)
        assert [text.get_text() for text in axes.get_xticklabels()] == ["TopK", "tuned MP"]
    lines = decompositions(rows)
    shown = [line for line in lines if line["num_latents"] == 50 and line["dictionary"] == "topk"]
    parts = [np.mean([line[f"{part}_part"] for line in shown]) for part in ("values", "support")]
    whole = np.mean([line["oracle"] - line["encoder"] for line in shown])
    first = bars(latents)[:2]
    np.testing.assert_allclose(np.diff(first)[:, 0], 100 * np.array(parts) / whole)
    # The oracle has the same score as both dictionaries, which leaves nothing of the distance.
    assert bars(samples)[2][0] == bars(samples)[2][1] == 100
    assert figures.loss_shares(make_rows()) is None
    # Without codes on the own support the encoder's part is one.
    figure = figures.loss_shares([row for row in rows if row["inference"] != "support"])
    assert np.shape(bars(figure.axes[0])) == (8, 2) and "amortisation part" in words(figure)
    assert "values part" not in words(figure)
    assert_legible(figure)


def test_whiskers_are_of_the_paired_differences():
    rows = make_rows(saes=("topk",), spread=0)
    rows = [row | {"mcc_ood": row["mcc_ood"] + row["seed"]} for row in rows]
    figure = figures.decomposition(rows)
    lengths = [np.ptp(line.get_segments()[0][:, 1]) for line in figure.axes[0].collections]
    np.testing.assert_allclose(lengths, [2, 0, 0, 0], atol=1e-12)


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
