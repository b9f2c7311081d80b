"""The figures of the challenge and of the encoder budget: heat maps, seconds and operations."""

import itertools

import numpy as np
import pytest

from sae_gap import figures
from sae_gap.figures import labels

from .samples import SCORES, SETTING, choose, words

CHALLENGE = ("online_dl", "dl_fista", "spams", "sklearn", *SCORES, "oracle")


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


RATIOS = (0.5, 1, 1.5, 2, 3, 4, 6)


def make_phase():
    rows = []
    methods = (("relu", "own"), ("dl_fista", "lasso"))
    for (name, inference), width, sparsity, ratio, seed in itertools.product(
        methods, (50, 100, 200), (3, 10), RATIOS, (0, 1)
    ):
        row = {"method": name, "dictionary": name, "inference": inference, "ratio": ratio}
        row |= {"num_latents": width, "sparsity": sparsity, "seed": seed}
        row |= {"input_dim": int(np.ceil(ratio * sparsity * np.log(width / sparsity)))}
        rows.append(row | {"mcc_ood": min(1.0, ratio * sparsity / 40)})
    return rows


PANEL = ("dictionary", "inference", "sparsity")
BOUND = {"bound": lambda row: 2.0, "bound_label": "the bound"}


def cells(axes):
    """The score and the height of each cell of a heat map, by its place along x."""
    found = {}
    (shown,) = axes.collections
    for (place, level), score in zip(shown.get_offsets(), shown.get_array(), strict=True):
        found.setdefault(place, []).append((score, level))
    return found


def test_a_cell_of_the_heat_map_is_a_score_over_its_samples():
    rows = make_challenge(("online_dl", "oracle"))
    figure = figures.recovery_by_samples(rows)
    axes = figure.axes[0]
    # The oracle has nothing to learn, so there is one panel, and the bar of colours.
    assert len(figure.axes) == 2
    for (place, column), width in zip(cells(axes).items(), (1_000, 2_000, 5_000), strict=True):
        for (score, level), samples in zip(column, (5_000, 20_000, 200_000), strict=True):
            assert score == pytest.approx(1 / (1 + width / samples))
            assert level == samples / 2 / width
            written = [(text.get_position()[0], text.get_text()) for text in axes.texts]
            assert (place, f"{score:.2f}") in written
    np.testing.assert_allclose([line.get_ydata()[0] for line in axes.lines], 92 / 83)
    assert "counting bound" in words(figure)


def test_the_counting_bound_has_as_many_equations_as_unknowns():
    row = {"input_dim": 93, "sparsity": 10}
    num_latents, least = 1_000, figures.counting_bound(row) * 1_000
    # n samples of 93 numbers; 92 free numbers to an atom of unit length, and 10 codes to a sample.
    assert least * 93 == pytest.approx(num_latents * 92 + least * 10) and round(least) == 1_108


def test_a_bound_that_does_not_exist_is_not_drawn():
    rows = [row | {"input_dim": 10} for row in make_challenge(("spams",))]
    figure = figures.recovery_by_samples(rows)
    assert figure.axes[0].lines[:] == [] and "counting bound" not in words(figure)


def test_a_heat_map_needs_two_cells():
    assert figures.recovery_by_samples(cell()) is None and figures.recovery_by_samples([]) is None
    assert figures.recovery_by_samples(make_challenge(("oracle",))) is None
    assert figures.recovery_by_samples(make_challenge(cosine=None)) is None
    with pytest.raises(ValueError, match="mix noise_db"):
        figures.recovery_by_samples(make_challenge() + make_challenge(noise_db=20.0))


def test_a_heat_map_has_a_panel_a_value_and_writes_its_means():
    rows = make_phase()
    figure = figures.heat_map(rows, "num_latents", "ratio", "mcc_ood", panel=PANEL, **BOUND)
    panels = {axes.get_title("left"): axes for axes in figure.axes[:-1]}
    assert list(panels) == [
        f"{name}, k = {sparsity}"
        for name in ("ReLU SAE, own codes", "DL-FISTA, certified lasso")
        for sparsity in (3, 10)
    ]
    for title, axes in panels.items():
        sparsity = int(title.rpartition(" ")[2])
        assert [*cells(axes)] == [0, 1, 2]
        for column in cells(axes).values():
            scores = [min(1, ratio * sparsity / 40) for ratio in RATIOS]
            assert [score for score, *_ in column] == pytest.approx(scores)
            assert [level for _, level in column] == list(RATIOS)
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert ticks == ["0.5", "1", "1.5", "2", "3", "4", "6"]


def test_a_bound_is_a_line_at_its_value_over_each_size():
    limits = {50: 1.0, 100: 3**0.5, 200: None}
    options = {"bound": lambda row: limits[row["num_latents"]], "bound_label": "a bound"}
    given = (make_phase(), "num_latents", "ratio", "mcc_ood")
    figure = figures.heat_map(*given, panel=PANEL, **options)
    lines = [(tuple(line.get_xdata()), tuple(line.get_ydata())) for line in figure.axes[0].lines]
    assert lines == [((-0.5, 0.5), (1.0, 1.0)), ((0.5, 1.5), (3**0.5, 3**0.5))]
    assert "a bound" in words(figure)


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


def test_a_learner_without_scores_has_no_marker():
    assert figures.recovery_by_seconds([]) is None
    assert figures.recovery_by_seconds(cell("oracle")) is None
    unscored = [row | {"method": "other"} for row in cell("spams", mcc_ood=None)]
    figure = figures.recovery_by_seconds(cell("online_dl") + unscored)
    assert "SPAMS" not in words(figure) and "online DL" in words(figure)


def make_budget(seeds=(0, 1, 2)):
    products = 2 * 47 * 100
    table = [
        ("relu", {}, products, 0.3, 0.8),
        ("topk", {}, products, 0.2, 0.85),
        ("lasso", {"start": "cold"}, None, 0.0, 0.985),
    ]
    table += [
        ("lista", {"depth": n}, products * (2 * n - 1), 0.4 / n, 1 - 0.2 / n)
        for n in (1, 2, 4, 8, 16)
    ]
    table += [
        ("fista", {"iterations": n}, products * (2 * n - 1), 2 / n, 1 - 0.5 / n)
        for n in (1, 2, 5, 10, 20, 50, 100)
    ]
    rows = []
    for (place, (inference, varied, flops, gap, score)), seed in itertools.product(
        enumerate(table), seeds
    ):
        row = SETTING | {"method": f"m{place}", "dictionary": "oracle", "inference": inference}
        row |= {"seed": seed, "flops": flops, "mcc_ood": score - 0.01 * seed}
        rows.append(row | {"relative_gap_ood": gap * (1 + 0.1 * seed)} | varied)
    return rows


def test_the_budget_draws_each_inference_against_its_cost():
    rows = make_budget()
    figure = figures.budget(rows)
    for axes, metric in zip(figure.axes, ("relative_gap_ood", "mcc_ood"), strict=True):
        drawn = {container.get_label(): container.lines[0] for container in axes.containers}
        assert {*drawn} == {"ReLU", "TopK", "LISTA", "FISTA"}
        names = {"lista": "LISTA", "fista": "FISTA", "relu": "ReLU"}
        for name, label in names.items():
            mine = [row for row in rows if row["inference"] == name]
            expected = {
                cost: np.mean([row[metric] for row in mine if row["flops"] == cost])
                for cost in {row["flops"] for row in mine}
            }
            assert dict(zip(*drawn[label].get_data(), strict=True)) == pytest.approx(expected)
            assert drawn[label].get_color() == labels.colour(name, "inference")
    lines = figure.axes[1].lines
    level = [line.get_ydata()[0] for line in lines if line.get_label() == "certified lasso"]
    assert level == pytest.approx([0.975])
    assert {"1", "2", "4", "8", "16", "100"} <= set(words(figure)) and "None" not in words(figure)


def test_a_budget_without_costs_is_none_and_two_dictionaries_are_refused():
    rows = make_budget()
    assert figures.budget([]) is None
    assert figures.budget([row | {"flops": None} for row in rows]) is None
    with pytest.raises(ValueError, match="twice"):
        figures.budget(rows + [row | {"dictionary": "dl_fista"} for row in rows])
