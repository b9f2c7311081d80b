"""The figures of the challenge and of the encoder budget: seconds and operations."""

import numpy as np
import pytest

from sae_gap import figures
from sae_gap.figures import labels

from .samples import SAES, SETTING, choose, row, words

CHALLENGE = ("online_dl", "dl_fista", "spams", "sklearn", *SAES, "oracle")


def cell(*names, **values):
    return [
        row(name, "lasso", seed=seed, cosine=0.9 - place / 10, fit_seconds=10 + place + seed)
        | {"mcc_ood": 0.8 - place / 20 + seed / 100}
        | values
        for place, name in enumerate(names or CHALLENGE)
        for seed in (0, 1)
    ]


def test_seconds_are_on_the_axis_and_the_oracle_is_a_level():
    figure = figures.recovery_by_seconds(cell("online_dl", "topk", "oracle"))
    rows = cell("online_dl", "topk", "oracle")
    for axes, metric in zip(figure.axes, ("cosine", "mcc_ood"), strict=True):
        drawn = {
            line.get_color(): line.get_xydata()[0]
            for line in axes.lines
            if line.get_marker() in ("s", "o")
        }
        for name in ("online_dl", "topk"):
            mine = choose(rows, dictionary=name)
            means = [np.mean([row[column] for row in mine]) for column in ("fit_seconds", metric)]
            assert drawn[labels.colour(name)] == pytest.approx(means)
        black = labels.colour("oracle")
        levels = [line.get_ydata()[0] for line in axes.lines if line.get_color() == black]
        oracle = [row[metric] for row in choose(rows, dictionary="oracle")]
        assert levels == pytest.approx([np.mean(oracle)])
    assert figures.recovery_by_seconds(cell("oracle")) is None
    unscored = [row | {"method": "other"} for row in cell("spams", mcc_ood=None)]
    figure = figures.recovery_by_seconds(cell("online_dl") + unscored)
    assert "SPAMS" not in words(figure) and "online DL" in words(figure)


# Of an inference: what it varies, its operations, gap and score.
BUDGET = [
    ("relu", {}, 9, 0.3, 0.8),
    ("lista", {"depth": 1}, 9, 0.4, 0.7),
    ("lista", {"depth": 2}, 27, 0.2, 0.9),
    ("fista", {"iterations": 100}, 1_791, 0.02, 0.99),
    ("lasso", {"start": "cold"}, None, 0.0, 0.985),
]


def test_the_budget_draws_each_inference_against_its_cost():
    rows = [
        SETTING
        | {"method": str(place), "dictionary": "oracle", "inference": inference, "seed": seed}
        | {"flops": flops, "relative_gap_ood": gap + seed, "mcc_ood": score - seed}
        | varied
        for seed in (0, 1)
        for place, (inference, varied, flops, gap, score) in enumerate(BUDGET)
    ]
    figure = figures.budget(rows)
    for axes, column, shift in zip(figure.axes, (3, 4), (0.5, -0.5), strict=True):
        drawn = {one.get_label(): one.lines[0] for one in axes.containers}
        for label, lines in {
            "ReLU": BUDGET[:1],
            "LISTA": BUDGET[1:3],
            "FISTA": BUDGET[3:4],
        }.items():
            points = [[line[2], line[column] + shift] for line in lines]
            np.testing.assert_allclose(drawn.pop(label).get_xydata(), points)
        assert not drawn
    lines = figure.axes[1].lines
    level = [line.get_ydata()[0] for line in lines if line.get_label() == "certified lasso"]
    assert level == pytest.approx([0.485])
    assert {"1", "2", "100"} <= set(words(figure)) and "None" not in words(figure)
    assert figures.budget([row | {"flops": None} for row in rows]) is None
    with pytest.raises(ValueError, match="twice"):
        figures.budget(rows + [row | {"dictionary": "dl_fista"} for row in rows])
