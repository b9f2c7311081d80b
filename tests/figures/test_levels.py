"""Recovery by the level and the frequency of features."""

import numpy as np
import pytest

from sae_gap import figures

GROUPS = ("roots", "children", "free", "frequent", "rare")


def row(dictionary, seed=0, **values):
    shared = {"study": "worlds", "num_latents": 64, "seed": seed, "dictionary": dictionary}
    shared["method"] = f"sae_{dictionary}"
    return shared | {f"atom_mcc_{name}": value for name, value in values.items()}


def rows():
    found = [
        row("topk", seed, roots=0.9 + 0.02 * seed, children=0.5, free=0.8, frequent=0.7, rare=0.6)
        for seed in (0, 1)
    ]
    found += [row("random", seed, **dict.fromkeys(GROUPS, 0.3)) for seed in (0, 1)]
    return [*found, {**found[0], "method": "frozen_topk", "inference": "lasso"}]


def test_a_line_for_each_dictionary_and_a_panel_for_levels_and_frequencies():
    figure = figures.recovery_by_level(rows())
    levels, frequencies = figure.get_axes()
    assert [label.get_text() for label in levels.get_xticklabels()] == ["roots", "children", "free"]
    assert [label.get_text() for label in frequencies.get_xticklabels()] == ["frequent", "rare"]
    lines = [line.get_ydata() for line in levels.get_lines() if len(line.get_ydata()) == 3]
    heights = {tuple(np.asarray(line, float).round(6)) for line in lines}
    assert heights >= {(0.91, 0.5, 0.8), (0.3, 0.3, 0.3)}


def test_a_group_that_a_dictionary_lacks_leaves_a_gap():
    other = row("relu", roots=0.5, children=0.2, free=0.3)
    figure = figures.recovery_by_level([row("topk", roots=0.9, free=0.4), other])
    (levels,) = figure.get_axes()
    drawn = [line.get_ydata() for line in levels.get_lines() if len(line.get_ydata()) == 3]
    np.testing.assert_equal(drawn[1], [0.9, np.nan, 0.4])


def test_without_groups_there_is_no_figure():
    assert figures.recovery_by_level([]) is None
    assert figures.recovery_by_level([row("topk")]) is None
    rows = [row("topk", roots=0.9) | {"world": name} for name in ("synthsae", "synthsae depth=2")]
    with pytest.raises(ValueError, match="mix world"):
        figures.recovery_by_level(rows)
