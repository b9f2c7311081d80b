"""Figures of a measurement and of patching: what they draw, and None where there is nothing to
draw.
"""

import pytest

from sae_gap import figures

SIZES = {"num_latents": 64, "input_dim": 16, "seed": 0}


def points(name, family, shift=1.0, own=()):
    told = {"dictionary": name, "family": family, "num_scored": 500, **SIZES}
    scores = [
        (codes, l0, shift * part / size)
        for codes, size in (("lasso", 2), ("lasso_refit", 4))
        for l0, part in ((4.0, 1.0), (8.0, 0.5), (16.0, 0.25))
    ]
    return [
        told | {"codes": codes, "l0": l0, "fvu": fvu, "dead": codes == "own" and l0 < 1}
        for codes, l0, fvu in (*scores, *own)
    ]


OWN = ("own", 8.0, 0.2), ("own_refit", 7.9, 0.15)


def test_the_curve_draws_the_lasso_and_the_encoder_before_and_after_a_refit():
    rows = [*points("my_sae", "sae", own=OWN), *points("random", "control", 3.0)]
    rows += points("other", "sae", 5.0)
    figure = figures.fvu_curve(rows)
    axes = figure.axes[0]
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"my_sae", "random atoms", "certified lasso", "encoder, values refitted"} <= legend
    drawn = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]
    heights = {tuple(line.get_ydata()): line.get_color() for line in drawn}
    before, after = heights.pop((0.5, 0.25, 0.125)), heights.pop((0.25, 0.125, 0.0625))
    assert before == after and len({before, *heights.values()}) == 3
    ends = [line.get_xydata()[0].tolist() for line in axes.get_lines() if line.get_marker() == "D"]
    assert sorted(ends) == [[7.9, 0.15], [8.0, 0.2]]
    # A dead encoder does not set the axis, and nothing has no figure.
    dead = points("two", "sae", own=[("own", 0.01, 0.2)])
    assert figures.fvu_curve([*rows, *dead]).axes[0].get_xlim() == axes.get_xlim()
    assert figures.fvu_curve([]) is figures.gap_parts([]) is figures.coherence([]) is None


@pytest.mark.parametrize("name", ["$\\frac$", "a$b$c", "_mine"])
def test_a_name_is_drawn_to_the_letter(name):
    legend = figures.fvu_curve(points(name, "sae", own=OWN)).legends[0]
    assert name in {text.get_text() for text in legend.get_texts()}
    assert not any(text.get_parse_math() for text in legend.get_texts())


def test_patching_has_a_panel_for_the_divergence():
    told = {"dictionary": "my_sae", "family": "sae", **SIZES}
    scores = {("lasso_refit", 4.0): (0.3, 0.9), ("lasso_refit", 8.0): (0.2, 0.5)}
    scores |= {("own", 8.0): (0.4, 0.7)}
    rows = [
        told | {"codes": codes, "l0": l0, "fvu": fvu, "kl": kl}
        for (codes, l0), (fvu, kl) in scores.items()
    ]
    figure = figures.fvu_curve(rows)
    drawn = [[y for line in axes.get_lines() for y in line.get_ydata()] for axes in figure.axes]
    assert drawn == [[0.3, 0.2, 0.4], [0.9, 0.5, 0.7]]


def test_the_parts_of_a_gap_are_bars_that_end_at_it():
    shares = {"scale_share": 0.1, "values_share": 0.15, "support_share": 0.05}
    row = SIZES | shares | {"dictionary": "my_sae", "samples": 500, "relative_gap": 0.3}
    (axes,) = figures.gap_parts([row, SIZES | {"dictionary": "D"}]).axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([10, 15, 5])
    assert [bar.get_x() for bar in axes.patches] == pytest.approx([0, 10, 25])
    assert [text.get_text() for text in axes.texts] == [" 30.0 % = 10.0 + 15.0 + 5.0"]
    assert figures.gap_parts([{"dictionary": "D"}]) is None


def test_what_an_sae_loses_is_a_bar_of_its_parts():
    parts = {"values_part": 0.1, "support_part": -0.02, "dictionary_part": 0.04, "rest": 0.08}
    ends = {"values_low": 0.05, "values_high": 0.12, "support_low": float("nan")}
    costly = {"dictionary": "topk_from_online_dl", "loss": "kl", "l0": 8.0, "total": 0.2}
    costly |= parts | ends | {"support_high": float("nan"), "amortisation_part": 0.08, "units": 3}
    lines = [costly, costly | {"dictionary": "a", "total": 0.1}, costly | {"loss": "mcc_ood"}]
    (axes,) = figures.loss_parts(lines).axes
    # The SAE that costs least comes first, and a negative part takes no room.
    names = ["a, L0 8", "TopK from online_dl, L0 8"]
    assert [text.get_text() for text in axes.get_yticklabels()] == names
    widths = [bar.get_width() for bar in axes.patches]
    assert widths == pytest.approx(2 * [0.1, 0, 0.04, 0.08])
    assert [bar.get_x() for bar in axes.patches[4:]] == pytest.approx([0, 0.1, 0.1, 0.14])
    whiskers = [list(line.get_xdata()) for line in axes.get_lines()]
    assert whiskers == 2 * [pytest.approx([0.05, 0.12])]
    words = [text.get_text() for text in axes.texts]
    assert words == [" 0.10, 40 % encoder", " 0.20, 40 % encoder"]
    assert figures.loss_parts([]) is None
    (axes,) = figures.loss_parts([costly | {"dictionary": "topk_skip_transcoder"}]).axes
    assert axes.get_yticklabels()[0].get_text() == "TopK skip transcoder, L0 8"
    # Of a score, shares are of the distance to the oracle; the encoder's part may be known alone.
    unknown = {"values_part": None, "support_part": None, "dictionary": "topk"}
    (axes,) = figures.loss_parts([lines[2] | unknown], "mcc_ood").axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.08, 0.04, 0.08])
    assert axes.texts[0].get_text() == " 0.20, 67 % encoder"


def test_probes_stand_where_their_codes_nats_do():
    told = {"family": "sae", "pairs": 14, "auc_ood_half": 0.03, **SIZES}
    scores = {("a", "own", "k=5"): 0.8, ("a", "omp", "k=5"): 0.7, ("a", "own", "k=1"): 0.6}
    scores |= {("b", "own", "k=5"): 0.65, ("raw", "activations", "k=5"): 0.9}
    lines = [
        told | {"dictionary": name, "codes": codes, "probe": probe, "auc_ood": auc}
        for (name, codes, probe), auc in scores.items()
    ]
    costs = {("a", "own"): 0.3, ("a", "omp"): 0.2, ("b", "own"): 0.1, ("b", "lasso"): 0.4}
    rows = [{"dictionary": name, "codes": codes, "kl": kl} for (name, codes), kl in costs.items()]
    figure = figures.features_and_nats(lines, rows)
    drawn = {
        tuple(point): line.get_color()
        for line in figure.axes[0].get_lines()
        for point in line.get_xydata().tolist()
        if line.get_marker() not in ("", "None", None)
    }
    assert {*drawn} == {(0.3, 0.8), (0.2, 0.7), (0.1, 0.65)}
    assert drawn[0.3, 0.8] == drawn[0.2, 0.7] != drawn[0.1, 0.65]
    assert figures.features_and_nats(lines, []) is None


def test_coherence_is_drawn_from_the_least_to_the_most():
    told = {"family": "sae", **SIZES}
    rows = [
        told | {"dictionary": "my_sae", "coherence": [0.1, 0.2, 0.4]},
        told | {"dictionary": "empty", "coherence": []},
    ]
    figure = figures.coherence(rows)
    (line,) = (line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 3)
    assert list(line.get_xdata()) == [0, 50, 100] and list(line.get_ydata()) == [0.1, 0.2, 0.4]
