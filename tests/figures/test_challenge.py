"""The figures of the challenge and of the encoder budget: heat maps, seconds and operations."""

import itertools

import numpy as np
import pytest

from sae_gap import figures
from sae_gap.figures import labels

from .samples import SAES, SETTING, choose, words

CHALLENGE = ("online_dl", "dl_fista", "spams", "sklearn", *SAES, "oracle")


def make_challenge(
    names=CHALLENGE,
    widths=(1_000, 2_000, 5_000),
    samples=(5_000, 20_000, 200_000),
    seeds=(0, 1),
    **values,
):
    rows = []
    for (place, name), width, size, seed in itertools.product(
        enumerate(names), widths, samples, seeds
    ):
        score = 1 / (1 + place / 4 + width / size) if name != "oracle" else 1.0
        row = {"method": f"m{place}", "seed": seed, "num_latents": width, "sparsity": 10}
        row |= {"dictionary": name, "inference": "lasso", "start": "cold"}
        row |= {"num_samples": size, "samples_seen": size // 2}
        row |= {"input_dim": 93, "cosine": score, "mcc_ood": score - 0.01 * seed}
        rows.append(row | {"fit_seconds": (1 + place + seed) * width / 10} | values)
    return rows


def cell(*chosen, **values):
    return make_challenge(chosen or CHALLENGE, (1_000,), (5_000,), **values)


def test_a_cell_of_the_heat_map_is_a_score_over_its_samples():
    """A panel for each learner, and over each size a bound of its own, where there is one."""
    dims = {1_000: 93, 2_000: 50, 5_000: 10}
    rows = make_challenge(("online_dl", "spams", "oracle"))
    rows = [row | {"input_dim": dims[row["num_latents"]]} for row in rows]
    *panels, _ = figures.recovery_by_samples(rows).axes
    # The oracle has nothing to learn; behind the panels is the bar of colours.
    for learner, axes in enumerate(panels):
        assert axes.get_title("left").startswith(("online DL", "SPAMS")[learner])
        (shown,) = axes.collections
        wanted = [
            (place, samples / 2 / width, 1 / (1 + learner / 4 + width / samples))
            for place, width in enumerate(dims)
            for samples in (5_000, 20_000, 200_000)
        ]
        found = np.column_stack([shown.get_offsets(), shown.get_array()])
        np.testing.assert_allclose(found, wanted)
        assert [text.get_text() for text in axes.texts] == [f"{one:.2f}" for *_, one in wanted]
        # n samples of 93 numbers give n 93 equations; 92 numbers to an atom and 10 to a code.
        lines = [(*line.get_xdata(), *line.get_ydata()) for line in axes.lines]
        np.testing.assert_allclose(lines, [(-0.5, 0.5, *[92 / 83] * 2), (0.5, 1.5, *[49 / 40] * 2)])
    for nothing in ([], cell(), make_challenge(("oracle",)), make_challenge(cosine=None)):
        assert figures.recovery_by_samples(nothing) is None
    with pytest.raises(ValueError, match="mix noise_db"):
        figures.recovery_by_samples(make_challenge() + make_challenge(noise_db=20.0))


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
