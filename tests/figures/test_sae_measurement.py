"""Figures of a measurement and of patching: what they draw, and None where there is nothing to
draw.
"""

from pytest import approx

from benchmarks.harness import outcome
from sae_gap import figures
from sae_gap.figures import fvu_curve

from .samples import said

ABOUT = {"num_latents": 64, "input_dim": 16, "seed": 0, "family": "sae"}


def points(name, shift=1.0, own=(), **about):
    scores = [
        (codes, l0, shift / l0 / size)
        for codes, size in (("lasso", 1), ("lasso_refit", 2))
        for l0 in (4.0, 8.0, 16.0)
    ]
    return [
        ABOUT
        | {"dictionary": name, "codes": codes, "l0": l0, "fvu": fvu, "dead": l0 < 1}
        | about
        for codes, l0, fvu in (*scores, *own)
    ]


OWN = ("own", 8.0, 0.2), ("own_refit", 7.9, 0.15)


def test_the_curve_draws_the_lasso_and_the_encoder_before_and_after_a_refit():
    rows = [*points("a$b$c", own=OWN), *points("random", 3.0, family="control")]
    figure = fvu_curve([*rows, *points("other", 5.0)])
    axes = figure.axes[0]
    legend = figure.legends[0].get_texts()
    wanted = {"a$b$c", "random atoms", "certified lasso", "own codes, values refitted"}
    # A name is drawn to the letter.
    assert wanted <= {*said(legend)}
    assert not any(text.get_parse_math() for text in legend)
    drawn = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]
    heights = {tuple(line.get_ydata()): line.get_color() for line in drawn}
    before = heights.pop((1 / 4, 1 / 8, 1 / 16))
    after = heights.pop((1 / 8, 1 / 16, 1 / 32))
    assert before == after and len({before, *heights.values()}) == 3
    ends = [
        line.get_xydata()[0].tolist()
        for line in axes.get_lines()
        if line.get_marker() == "D"
    ]
    assert sorted(ends) == [[7.9, 0.15], [8.0, 0.2]]
    # A dead encoder does not set the axis, and nothing has no figure.
    dead = fvu_curve([*rows, *points("two", own=[("own", 0.01, 0.2)])])
    assert dead.axes[0].get_xlim() == axes.get_xlim()
    assert fvu_curve([]) is figures.gap_parts([]) is figures.coherence([]) is None
    # Nats have a panel.
    figure = fvu_curve(points("mine", kl=0.7))
    drawn = [
        [y for line in axes.get_lines() for y in line.get_ydata()]
        for axes in figure.axes
    ]
    assert drawn[1] == [0.7] * 6 and len(drawn) == 2


def test_the_parts_of_a_gap_are_bars_that_end_at_it():
    shares = {"scale_share": 0.1, "values_share": 0.15, "support_share": 0.05}
    row = ABOUT | shares | {"dictionary": "my_sae", "samples": 500, "relative_gap": 0.3}
    (axes,) = figures.gap_parts([row, ABOUT | {"dictionary": "D"}]).axes
    assert [bar.get_width() for bar in axes.patches] == approx([10, 15, 5])
    assert [bar.get_x() for bar in axes.patches] == approx([0, 10, 25])
    assert said(axes.texts) == [" 30.0 % = 10.0 + 15.0 + 5.0"]


def test_what_an_sae_loses_is_a_bar_of_its_parts():
    parts = {
        "values_part": 0.1,
        "support_part": -0.02,
        "dictionary_part": 0.04,
        "rest": 0.08,
    }
    ends = {"values_low": 0.05, "values_high": 0.12, "support_low": float("nan")}
    costly = {
        "dictionary": "topk_skip_transcoder_from_online_dl",
        "loss": "kl",
        "l0": 8.0,
    }
    costly |= {
        "total": 0.2,
        "support_high": float("nan"),
        "amortisation_part": 0.08,
        "units": 3,
    }
    costly |= parts | ends
    lines = [
        costly,
        costly | {"dictionary": "a", "total": 0.1},
        costly | {"loss": "mcc_ood"},
    ]
    figure = figures.loss_parts(lines, where="SmolLM2, block 10")
    assert figure.get_suptitle() == "Parts of each SAE's KL (SmolLM2, block 10)"
    (axes,) = figure.axes
    # The SAE that costs least comes first, and a negative part takes no room.
    names = ["a, L0 8", "TopK skip transcoder from online_dl, L0 8"]
    assert said(axes.get_yticklabels()) == names
    assert axes.get_xlabel() == "KL, nats a token"
    assert [bar.get_width() for bar in axes.patches] == approx(2 * [0.1, 0, 0.04, 0.08])
    assert [bar.get_x() for bar in axes.patches[4:]] == approx([0, 0.1, 0.1, 0.14])
    whiskers = [list(line.get_xdata()) for line in axes.get_lines()]
    assert whiskers == 2 * [approx([0.05, 0.12])]
    assert said(axes.texts) == [
        " 0.100, 40 % encoder",
        " 0.200, 40 % encoder",
    ]
    assert figures.loss_parts([]) is None
    # Of a score, shares are of the distance to the oracle; the encoder's part may be known alone.
    unknown = {"values_part": None, "support_part": None, "dictionary": "topk"}
    (axes,) = figures.loss_parts([lines[2] | unknown], "mcc_ood").axes
    assert [bar.get_width() for bar in axes.patches] == approx([0.08, 0.04])
    # The bar and the sentence at the end of a study say one number.
    assert axes.texts[0].get_text() == " 0.120, 67 % encoder"
    answer = outcome._answer([lines[2] | {"method": "sae_topk"}])
    assert answer.endswith("- TopK SAE: 0.120, 67 % encoder, 33 % dictionary")


def test_probes_stand_where_their_codes_nats_do():
    scores = {
        ("a", "own", "k=5"): 0.8,
        ("a", "omp", "k=5"): 0.7,
        ("a", "own", "k=1"): 0.6,
    }
    scores |= {("b", "own", "k=5"): 0.65, ("raw", "activations", "k=5"): 0.9}
    lines = [
        ABOUT
        | {
            "dictionary": name,
            "codes": codes,
            "probe": probe,
            "auc_ood": auc,
            "pairs": 2,
        }
        for (name, codes, probe), auc in scores.items()
    ]
    lines = [line | {"auc_ood_half": 0.03} for line in lines]
    costs = {
        ("a", "own"): 0.3,
        ("a", "omp"): 0.2,
        ("b", "own"): 0.1,
        ("b", "lasso"): 0.4,
    }
    rows = [
        {"dictionary": name, "codes": codes, "kl": kl}
        for (name, codes), kl in costs.items()
    ]
    drawn = {
        tuple(point): line.get_color()
        for line in figures.features_and_nats(lines, rows).axes[0].get_lines()
        for point in line.get_xydata().tolist()
        if line.get_marker() not in ("", "None", None)
    }
    assert {*drawn} == {(0.3, 0.8), (0.2, 0.7), (0.1, 0.65)}
    assert drawn[0.3, 0.8] == drawn[0.2, 0.7] != drawn[0.1, 0.65]
    assert figures.features_and_nats(lines, []) is None


def test_coherence_is_drawn_from_the_least_to_the_most():
    every = {"my_sae": [0.1, 0.2, 0.4], "empty": []}
    rows = [
        ABOUT | {"dictionary": name, "coherence": each} for name, each in every.items()
    ]
    drawn = [
        line.get_xydata().tolist()
        for line in figures.coherence(rows).axes[0].get_lines()
    ]
    assert [[0, 0.1], [50, 0.2], [100, 0.4]] in drawn


def test_shares_stand_against_atoms_found_and_parts_of_nats_against_steps():
    line = {"amortisation_part": 3.0, "dictionary_part": 1.0, "rest": 2.0}
    drawn = line | {"panel": "drawn", "dictionary": "topk"}
    lines = [drawn | {"atoms_found": found} for found in (0.2, 0.8)]
    lines += [
        line | {"panel": "b", "dictionary": "b", "steps": steps} for steps in (10, 100)
    ]
    lines += [drawn | {"dictionary": "tuned_topk", "atoms_found": 0.9}]
    figure = figures.training_budget(lines)
    left, right = figure.axes
    assert left.lines[0].get_xydata().tolist() == [[0.2, 75], [0.8, 75]]
    # Both SAEs of a method have its colour, and its name stands once.
    assert len({line.get_color() for line in left.lines}) == 1
    assert said(left.texts) == ["TopK"]
    legend = {*said(figure.legends[0].get_texts())}
    assert {"tuned", "the paper's options"} <= legend
    areas = [area.get_paths()[0].vertices for area in right.collections]
    assert [(area.min(axis=0)[1], *area.max(axis=0)) for area in areas] == [
        (0, 100, 3),
        (3, 100, 4),
        (4, 100, 6),
    ]
