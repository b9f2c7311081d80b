"""The figures of the headline benchmark draw what the rows say, and nothing in them is clipped or
covered.
"""

import numpy as np
import pytest

from sae_gap import figures
from sae_gap.analysis import splits

from .samples import choose, make_rows


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
        assert [text.get_text() for text in axes.get_yticklabels()] == ["TopK", "MP"]
        assert [text.get_text() for text in axes.get_xticklabels()] == [
            f"{one:,}" for one in values
        ]
        shown = {text.get_position(): text.get_text() for text in axes.texts}
        base = {"num_latents": 100, "num_samples": 5_000}
        for line in lines:
            if all(line[name] == value for name, value in base.items() if name != size):
                place = values.index(line[size]), ("topk", "mp").index(line["dictionary"])
                whole = line["amortisation_part"] + line["dictionary_part"]
                assert shown[place] == f"{100 * line['amortisation_part'] / whole:.0f}"
    assert figures.encoder_shares(splits(make_rows(), ["mcc_ood"]), "mcc_ood") is None
    assert figures.encoder_shares([], "mcc_ood") is None


def test_what_the_rows_do_not_say_is_refused_or_left_out():
    draw = figures.matched_cosines
    assert draw([]) is draw([row | {"cosines": None} for row in make_rows()]) is None
    with pytest.raises(ValueError, match="mix lam"):
        draw(make_rows(seeds=(0,)) + make_rows(seeds=(1,), lam=0.2))


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
    # A fit that failed counts against its learner.
    (row,) = choose(make_rows(seeds=(0,)), dictionary="dl_fista")
    found = curves_of(figures.matched_cosines([row | {"cosines": [1.0, None, None, None]}]))
    assert found["DL-FISTA"][[0, 130, -1]].tolist() == [0, 0, 1]


def test_shares_stand_against_atoms_found_and_parts_of_nats_against_steps():
    line = {"amortisation_part": 3.0, "dictionary_part": 1.0, "rest": 2.0}
    drawn = line | {"panel": "drawn", "dictionary": "topk"}
    lines = [drawn | {"atoms_found": found} for found in (0.2, 0.8)]
    lines += [line | {"panel": "b", "dictionary": "b", "steps": steps} for steps in (10, 100)]
    left, right = figures.training_budget(lines).axes
    assert left.lines[0].get_xydata().tolist() == [[0.2, 75], [0.8, 75]]
    areas = [area.get_paths()[0].vertices for area in right.collections]
    assert [(area.min(axis=0)[1], *area.max(axis=0)) for area in areas] == [
        (0, 100, 3),
        (3, 100, 4),
        (4, 100, 6),
    ]
