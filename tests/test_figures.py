"""Figures say what the rows say, leave out what the rows lack, and nothing in them is clipped or covered."""

import itertools
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation

from sae_gap import figures

# Own codes, then FISTA on the same dictionary, in and out of distribution: of the size that the paper publishes.
SCORES = {
    "relu": ((0.40, 0.41), (0.39, 0.39)),
    "topk": ((0.81, 0.70), (0.92, 0.87)),
    "jumprelu": ((0.25, 0.32), (0.24, 0.30)),
    "mp": ((0.43, 0.35), (0.41, 0.39)),
}
FIGURES = (figures.decomposition, figures.matched_cosines, figures.recovery)


def make_rows(seeds=(0, 1, 2), saes=tuple(SCORES), spread=0.02, **setting):
    setting = {
        "num_latents": 100,
        "sparsity": 10,
        "num_samples": 5_000,
        "input_dim": 47,
        "lam": 0.1,
        "protocol": "strict",
    } | setting
    table = {"linear_probe": ("probe", 0.67, 0.41)}
    for name in saes:
        own, frozen = SCORES[name]
        table |= {f"sae_{name}": ("sae", *own), f"frozen_{name}": ("frozen", *frozen), f"refined_{name}": ("refined", *frozen)}
    table |= {"dl_fista": ("dictionary_learning", 0.95, 0.945), "fista_oracle": ("oracle", 0.986, 0.985)}
    rows = []
    for (place, (method, (family, ident, ood))), seed in itertools.product(enumerate(table.items()), seeds):
        shift = spread * np.sin(7 * seed + place) * (family != "oracle")
        row = {"method": method, "family": family, "seed": seed, "mcc_id": ident + shift, "mcc_ood": ood + shift, **setting}
        row["cosines"] = None if family == "probe" else list(np.linspace(max(0, 2 * ident - 1.0), min(1, ident + 0.1), 50))
        rows.append(row)
    return rows


def bars(figure):
    """Bottom and top of the bars, in the order drawn."""
    rectangles = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    return [(patch.get_y(), patch.get_y() + patch.get_height()) for patch in rectangles]


def words(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


@pytest.mark.parametrize(
    "rows",
    [
        make_rows(),
        make_rows(seeds=(0,)),
        make_rows(saes=("topk",)),
        make_rows(num_latents=1_000_000, num_samples=100_000, input_dim=231),
        make_rows(spread=0.15),
        [row | {"mcc_id": 0.2 + row["mcc_id"] / 50, "mcc_ood": 0.2 + row["mcc_ood"] / 50} for row in make_rows()],
    ],
    ids=["usual", "one seed", "one SAE", "wide numbers", "wide spread", "crowded"],
)
@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
def test_no_text_is_clipped_or_covers_another(draw, rows):
    assert_legible(draw(rows))


def assert_legible(figure):
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(matplotlib.text.Text) if text.get_text().strip() and text.get_visible()]
    beyond = [
        label
        for axes in figure.axes
        for axis in (axes.xaxis, axes.yaxis)
        # An axis that shares its ticks with another has no labels of its own.
        for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
        if not min(axis.get_view_interval()) <= place <= max(axis.get_view_interval())
    ]
    boxes = {text.get_text() + str(id(text)): text.get_window_extent() for text in texts if text not in beyond}
    assert len(boxes) > 8
    for box in boxes.values():
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1
    clashes = [
        (one, two) for one, two in itertools.combinations(boxes, 2) if boxes[one].padded(-0.5).overlaps(boxes[two].padded(-0.5))
    ]
    assert clashes == []


def test_the_stairs_climb_from_the_encoder_to_the_oracle():
    rows = make_rows()
    figure = figures.decomposition(rows)

    def mean(method):
        return np.mean([row["mcc_ood"] for row in rows if row["method"] == method])

    found = bars(figure)
    assert len(found) == 3 * len(SCORES)
    for place, name in enumerate(SCORES):
        own, frozen, oracle = (mean(method) for method in (f"sae_{name}", f"frozen_{name}", "fista_oracle"))
        np.testing.assert_allclose(found[3 * place : 3 * place + 3], [(0, own), (own, frozen), (frozen, oracle)], atol=1e-12)
        assert {f"{own:.2f}", f"{frozen - own:+.2f}".replace("-", "−"), f"{oracle - frozen:+.2f}"} <= set(words(figure))
    hatched = [bool(patch.get_hatch()) for patch in figure.axes[0].patches]
    assert hatched == [patch.get_height() <= -0.005 for patch in figure.axes[0].patches] and any(hatched)
    assert "a step down" in words(figure)


def test_the_title_says_which_part_is_the_larger():
    assert "The dictionary holds most of the distance to the oracle in 3 of 4 SAEs" in words(figures.decomposition(make_rows()))
    assert "The encoder holds most of the distance to the oracle in 1 of 1 SAEs" in words(
        figures.decomposition(make_rows(saes=("topk",)))
    )


def test_whiskers_are_of_the_paired_differences():
    rows = [row | {"mcc_ood": row["mcc_ood"] + row["seed"]} for row in make_rows(saes=("topk",), spread=0)]
    figure = figures.decomposition(rows)
    lengths = [np.ptp(line.get_segments()[0][:, 1]) for line in figure.axes[0].collections]
    np.testing.assert_allclose(lengths, [2, 0, 0], atol=1e-12)


@pytest.mark.parametrize("missing", ["fista_oracle", "frozen_topk", "sae_topk"])
def test_an_incomplete_decomposition_is_left_out(missing):
    rows = make_rows(saes=("relu", "topk"))
    figure = figures.decomposition([row for row in rows if row["method"] != missing])
    if missing == "fista_oracle":
        assert figure is None
    else:
        assert len(bars(figure)) == 3 and "ReLU SAE" in words(figure) and "TopK SAE" not in words(figure)


@pytest.mark.parametrize("draw", FIGURES)
def test_without_the_truth_there_is_no_figure(draw):
    assert draw([]) is None
    assert draw([row | {"mcc_id": None, "mcc_ood": None, "cosines": None} for row in make_rows()]) is None


@pytest.mark.parametrize("draw", FIGURES)
@pytest.mark.parametrize("change", [{"num_latents": 50}, {"lam": 0.2}, {"protocol": "paper"}])
def test_rows_of_two_settings_are_refused(draw, change):
    with pytest.raises(ValueError, match="mix"):
        draw(make_rows(seeds=(0,)) + make_rows(seeds=(1,), **change))
    with pytest.raises(ValueError, match="twice"):
        draw(make_rows() * 2)


def test_each_dictionary_is_drawn_once_and_pooled_over_seeds():
    figure = figures.matched_cosines(make_rows())
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["ReLU SAE", "TopK SAE", "JumpReLU SAE", "MP SAE", "DL-FISTA"]
    cosines = np.linspace(0.9, 1, 50)
    assert f"{np.mean(cosines > 0.9):.0%} > 0.9" in words(figure)


def test_a_failed_dictionary_counts_against_its_learner():
    rows = [row for row in make_rows(seeds=(0,)) if row["method"] == "dl_fista"]
    figure = figures.matched_cosines([rows[0] | {"cosines": [1.0, None, None, None]}])
    assert "DL-FISTA finds 25% of the true atoms" in words(figure)


def test_recovery_marks_every_method_and_names_every_dictionary():
    rows = make_rows(spread=0)
    figure = figures.recovery(rows)
    markers = [line for line in figure.axes[0].lines if line.get_marker() in "osD" and len(line.get_xdata()) == 1]
    assert len(markers) == 15
    names = [text.get_text() for text in figure.axes[0].texts if isinstance(text, Annotation)]
    assert sorted(names[1:]) == sorted(["linear probe", "ReLU SAE", "TopK SAE", "JumpReLU SAE", "MP SAE", "DL-FISTA", "oracle"])
    assert figure.axes[0].get_xlim() == figure.axes[0].get_ylim()
    below = sum(row["mcc_ood"] < row["mcc_id"] for row in rows) // 3
    assert f"{below} of 15 methods recover less out of distribution" in words(figure)


def test_recovery_keeps_its_labels_off_the_points():
    figure = figures.recovery(make_rows())
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    spots = [
        axes.transData.transform((line.get_xdata()[0], line.get_ydata()[0]))
        for line in axes.lines
        if line.get_marker() in "osD"
    ]
    for text in axes.texts[1:]:
        box = text.get_window_extent()
        assert not any(box.contains(*spot) for spot in spots)


def test_another_metric_and_an_unknown_learner_are_named():
    rows = [
        row | {"accuracy_id": 0.9, "accuracy_ood": 0.8, "method": row["method"].replace("mp", "new_idea")}
        for row in make_rows()
    ]
    figure = figures.recovery(rows, metric="accuracy")
    assert "new idea" in words(figure) and "accuracy out of distribution (1 is perfect)" in words(figure)


@pytest.mark.parametrize("draw", FIGURES)
def test_files_are_equal_for_equal_rows_and_carry_no_date(draw, tmp_path):
    paths = [figures.save(draw(make_rows()), tmp_path / stem) for stem in ("one.5", "two")]
    assert [path.name for path in paths[0]] == ["one.5.png", "one.5.pdf"]
    for one, two in zip(*paths, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert b"Date" not in one.read_bytes()
    assert paths[0][0].read_bytes().startswith(b"\x89PNG") and paths[0][1].read_bytes().startswith(b"%PDF")
    assert len(list(tmp_path.iterdir())) == 4


def test_an_interrupted_save_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="missing"):
        figures.save(figures.recovery(make_rows()), tmp_path / "missing" / "stem")
    assert list(tmp_path.iterdir()) == []


CHALLENGE = ("online_dl", "dl_fista", "spams", "sklearn", *(f"sae_{name}" for name in SCORES), "fista_oracle")
FAMILIES = {"online_dl": "dictionary_learning", "dl_fista": "dictionary_learning", "fista_oracle": "oracle"}
FAMILIES |= {"spams": "peer", "sklearn": "peer"}


def make_challenge(methods=CHALLENGE, widths=(1_000, 2_000, 5_000), samples=(5_000, 20_000, 200_000), seeds=(0, 1), **values):
    rows = []
    for (place, method), width, size, seed in itertools.product(enumerate(methods), widths, samples, seeds):
        score = 1 / (1 + place / 4 + width / size) if method != "fista_oracle" else 1.0
        row = {"method": method, "family": FAMILIES.get(method, "sae"), "seed": seed, "num_latents": width, "sparsity": 10}
        row |= {
            "num_samples": size,
            "samples_seen": size // 2,
            "input_dim": 93,
            "cosine": score,
            "mcc_ood": score - 0.01 * seed,
        }
        rows.append(row | {"fit_seconds": (1 + place + seed) * width / 10} | values)
    return rows


def cell(*methods, **values):
    return make_challenge(methods or CHALLENGE, (1_000,), (5_000,), **values)


@pytest.mark.parametrize(
    "figure",
    [
        lambda: figures.recovery_by_samples(make_challenge()),
        lambda: figures.recovery_by_samples(make_challenge(("sae_topk",), (1_000,))),
        lambda: figures.recovery_by_samples(make_challenge(CHALLENGE[:2], (50, 100, 500, 1_000, 5_000, 10_000), (5_000,))),
        lambda: figures.recovery_by_seconds(cell()),
        lambda: figures.recovery_by_seconds(cell(seeds=(0,))),
        lambda: figures.recovery_by_seconds(cell("spams", fit_seconds=0.002)),
    ],
    ids=["samples", "one column", "one row", "seconds", "one seed", "one learner"],
)
def test_the_figures_of_the_challenge_are_legible(figure):
    assert_legible(figure())


def test_a_cell_of_the_heat_map_is_a_score_over_its_samples():
    rows = make_challenge(("online_dl", "fista_oracle"))
    figure = figures.recovery_by_samples(rows)
    axes = figure.axes[0]
    # The oracle has nothing to learn, so there is one panel, and the bar of colours.
    assert len(figure.axes) == 2 and axes.get_title(loc="left") == "online DL"
    scores = {(text.get_position()[0], text.get_text()) for text in axes.texts}
    assert {(0, "0.83"), (2, "0.50"), (2, "0.98")} <= scores and len(axes.texts) == 9
    for patch, text in zip(axes.patches, axes.texts, strict=True):
        low, high = patch.get_y(), patch.get_y() + patch.get_height()
        assert low < text.get_position()[1] < high and patch.get_x() + 0.5 == pytest.approx(text.get_position()[0])
    for place, width in enumerate((1_000, 2_000, 5_000)):
        column = [(patch.get_y(), patch.get_y() + patch.get_height()) for patch in axes.patches[3 * place : 3 * place + 3]]
        for (low, high), samples in zip(column, (2_500, 10_000, 100_000), strict=True):
            assert low < samples / width < high
    bounds = [line.get_ydata()[0] for line in axes.lines]
    np.testing.assert_allclose(bounds, 92 / 82)
    assert "online DL recovers the most: cosine above 0.9 in 5 of 9 cells" in words(figure)


def test_a_bound_that_does_not_exist_is_not_drawn():
    rows = [row | {"input_dim": 11} for row in make_challenge(("spams",))]
    assert figures.recovery_by_samples(rows).axes[0].lines[:] == []


def test_a_heat_map_needs_two_cells():
    assert figures.recovery_by_samples(cell()) is None and figures.recovery_by_samples([]) is None
    assert figures.recovery_by_samples(make_challenge(("fista_oracle",))) is None
    assert figures.recovery_by_samples(make_challenge(cosine=None)) is None
    with pytest.raises(ValueError, match="mix noise_db"):
        figures.recovery_by_samples(make_challenge() + make_challenge(noise_db=20.0))


def test_seconds_are_on_the_axis_and_the_oracle_is_a_level():
    figure = figures.recovery_by_seconds(cell("online_dl", "sae_topk", "fista_oracle"))
    for axes in figure.axes:
        points = [(line.get_xdata()[0], line.get_marker()) for line in axes.lines if line.get_marker() in ("s", "o")]
        assert points == [(150.0, "s"), (250.0, "o")]
    assert [text for text in words(figure) if text.startswith("oracle")] == ["oracle 1.00", "oracle 0.99"]
    assert "online DL recovers the most of the dictionary, in 150 s" in words(figure)


def test_a_learner_without_scores_has_no_marker():
    assert figures.recovery_by_seconds([]) is None and figures.recovery_by_seconds(cell("fista_oracle")) is None
    figure = figures.recovery_by_seconds(cell("online_dl") + cell("spams", mcc_ood=None))
    assert "SPAMS" not in words(figure) and "online DL" in words(figure)


def test_the_style_stays_with_the_figures_and_pyplot_is_not_touched():
    code = """
import sys, matplotlib
from sae_gap import figures
before = {name: matplotlib.rcParams[name] for name in figures._STYLE}
from tests.test_figures import make_rows
for draw in (figures.decomposition, figures.matched_cosines, figures.recovery):
    draw(make_rows())
assert {name: matplotlib.rcParams[name] for name in before} == before != figures._STYLE
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])
