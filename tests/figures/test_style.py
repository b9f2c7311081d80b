"""Files are equal for equal rows and say what they show; the style stays with the figures; labels
and their order. The figures of the challenge, of the encoder budget and of codes by what they cost.
"""

import matplotlib
import numpy as np
import PIL.Image
from numpy.testing import assert_allclose
from pytest import approx, mark

from sae_gap import figures
from sae_gap.figures import labels, loss_by_cost, recovery_by_seconds, style
from sae_gap.figures.labels import colour
from tests.conftest import FONTS

from .samples import SETTING, choose, row, said, words


def test_files_are_equal_for_equal_rows_and_carry_their_caption_and_no_date(tmp_path):
    def draw():
        return recovery_by_seconds(cell("spams", "topk"))

    names = figures.save(draw(), tmp_path / "one", "a.5")
    assert (
        [*names]
        == [*figures.save(draw(), tmp_path / "two", "a.5")]
        == ["a.5.png", "a.5.pdf"]
    )
    png, pdf = ((tmp_path / "one" / name).read_bytes() for name in names)
    assert [png, pdf] == [(tmp_path / "two" / name).read_bytes() for name in names]
    assert b"Date" not in png + pdf and pdf.startswith(b"%PDF")
    with PIL.Image.open(tmp_path / "one" / names[0]) as image:
        assert image.format == "PNG"
        assert image.width == round(style.WIDTH * style.STYLE["savefig.dpi"])
        assert image.text["Description"] == draw().get_label()


def test_the_text_of_a_pdf_is_in_fonts_that_journals_take(tmp_path, monkeypatch):
    monkeypatch.setitem(style.STYLE, "pdf.fonttype", FONTS)
    figures.save(recovery_by_seconds(cell("spams")), tmp_path, "stem")
    assert b"/FontFile2" in (tmp_path / "stem.pdf").read_bytes()


def test_a_callers_style_neither_changes_nor_is_changed(tmp_path):
    def png(stem):
        figures.save(recovery_by_seconds(cell("spams")), tmp_path, stem)
        return (tmp_path / f"{stem}.png").read_bytes()

    plain = png("plain")
    with matplotlib.rc_context(
        {"font.size": 20, "lines.linewidth": 9, "figure.dpi": 30}
    ):
        before = dict(matplotlib.rcParams)
        assert png("other") == plain and dict(matplotlib.rcParams) == before


@mark.parametrize(
    ("given", "label"),
    [
        (("topk",), "TopK SAE"),
        (("topk", "inference"), "TopK"),
        (("mp",), "MP SAE"),
        (("lasso", "inference"), "certified lasso"),
        (("relu", "start"), "ReLU SAE"),
        (("warm", "start"), "warm start"),
        (("new_idea",), "new idea"),
        ((1_000, "num_latents"), "1,000 latents"),
        ((0.05, "lam"), "λ = 0.05"),
        ((3, "no_column"), "no column 3"),
    ],
)
def test_a_name_is_looked_up_in_its_column_and_then_in_the_others(given, label):
    assert labels.label(*given) == label


@mark.parametrize(
    ("metric", "label", "perfect"),
    [
        ("mcc_ood", "MCC out of distribution", 1.0),
        ("mcc_paper_id", "MCC (published form) in distribution", 1.0),
        ("relative_gap_ood", "relative amortisation gap out of distribution", None),
        ("new_score_id", "new score in distribution", None),
        ("l0_above_id", "latents above 0.01 in distribution", None),
    ],
)
def test_metrics_are_named_with_their_split(metric, label, perfect):
    assert (labels.metric_label(metric), labels.perfect(metric)) == (label, perfect)


def test_names_are_in_the_order_of_their_families():
    mixed = [None, "zeta", 10, "oracle", 2, "alpha", "dl_fista", "relu", "raw"]
    ordered = ["raw", "relu", "dl_fista", "oracle", 2, 10, "alpha", "zeta", None]
    assert sorted(mixed, key=labels.rank) == ordered
    ordered = ["own", "relu", "omp", "lasso"]
    assert (
        sorted(sorted(ordered), key=lambda name: labels.rank(name, "inference"))
        == ordered
    )


def test_a_name_that_is_nowhere_has_a_spare_colour_of_its_own():
    known = {colour(name) for name in labels._dictionaries()}
    assert colour("new_idea") == "#66A61E" and colour("new_idea") not in known


def cell(*names, **values):
    return [
        row(
            name,
            "lasso",
            seed=seed,
            cosine=0.9 - place / 10,
            fit_seconds=10 + place + seed,
        )
        | {"mcc_ood": 0.8 - place / 20 + seed / 100}
        | values
        for place, name in enumerate(names)
        for seed in (0, 1)
    ]


def test_seconds_are_on_the_axis_and_the_oracle_is_a_level():
    rows = cell("online_dl", "topk", "oracle")
    for axes, metric in zip(
        recovery_by_seconds(rows).axes, ("cosine", "mcc_ood"), strict=True
    ):
        drawn = {
            line.get_color(): line.get_xydata()[0]
            for line in axes.lines
            if line.get_marker() in ("s", "o")
        }
        for name in ("online_dl", "topk"):
            mine = choose(rows, dictionary=name)
            means = [
                np.mean([row[column] for row in mine])
                for column in ("fit_seconds", metric)
            ]
            assert drawn[colour(name)] == approx(means)
        black = colour("oracle")
        levels = [
            line.get_ydata()[0] for line in axes.lines if line.get_color() == black
        ]
        oracle = [row[metric] for row in choose(rows, dictionary="oracle")]
        assert levels == approx([np.mean(oracle)])
    assert recovery_by_seconds(cell("oracle")) is None
    unscored = [row | {"method": "other"} for row in cell("spams", mcc_ood=None)]
    figure = recovery_by_seconds(cell("online_dl") + unscored)
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
        | {
            "method": str(place),
            "dictionary": "oracle",
            "inference": inference,
            "seed": seed,
        }
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
            assert_allclose(drawn.pop(label).get_xydata(), points)
        assert not drawn
    lines = figure.axes[1].lines
    level = [
        line.get_ydata()[0] for line in lines if line.get_label() == "certified lasso"
    ]
    assert level == approx([0.485])
    assert {"1", "2", "100"} <= set(words(figure)) and "None" not in words(figure)
    assert figures.budget([row | {"flops": None} for row in rows]) is None


ABOUT = {"dictionary": "mine", "level": 32, "num_latents": 64, "input_dim": 16}
TABLE = [
    ("own", "own", None, 1.0, 35.6, 0.2, 0.4),
    ("screened_pursuit_2x4", "screened_pursuit", 2, 4.0, 32.0, 0.14, 0.2),
    ("screened_pursuit_2x2", "screened_pursuit", 2, 3.0, 31.8, 0.15, 0.25),
    ("fista_1", "fista", None, 1.0, 33.0, 0.9, 3.0),
    ("nearest_atoms", "nearest_atoms", None, 1.5, 32.5, 0.17, 0.3),
    ("lasso_refit", "lasso", None, None, 20.0, 0.16, 0.22),
]
NAMES = "codes family screens products l0 fvu kl"
ROWS = [ABOUT | dict(zip(NAMES.split(), values, strict=True)) for values in TABLE]
# A pursuit's product takes longer than an encoder's.
for line in ROWS:
    line["breadth"] = 4 if line["codes"].endswith("4") else 2
    line["processor"] = (line["products"] or 9) ** 1.5


def test_codes_are_drawn_by_their_cost_and_the_optimum_as_a_level():
    figure = loss_by_cost(ROWS)
    assert {"2×4", "2×2", "nearest atoms"} <= {*said(figure.axes[0].texts)}
    assert any("L0 32 to 36" in text for text in words(figure))
    for axes, cost in zip(figure.axes, ("products", "processor"), strict=True):
        drawn = {
            one.get_label(): one.lines[0].get_xydata().tolist()
            for one in axes.containers
        }
        levels = {line.get_label(): line.get_ydata()[0] for line in axes.get_lines()}
        own, four, two, _, near, level = ROWS
        wanted = {
            "two screens": [two, four],
            "the SAE's encoder": [own],
            "nearest atoms": [near],
        }
        for name, rows in wanted.items():
            assert drawn[name] == [[row[cost], row["kl"]] for row in rows]
        assert levels["the lasso, refitted"] == level["kl"]
        # A single iteration of FISTA does not set the scale.
        assert axes.get_ylim() == (0, approx(1.1 * own["kl"]))
    named = loss_by_cost([row | {"dictionary": "topk_from_online_dl"} for row in ROWS])
    assert any("codes on TopK from online_dl lose" in text for text in words(named))
    # A decoder alone, or a GPU, has no processor time.
    assert len(loss_by_cost([row | {"processor": None} for row in ROWS]).axes) == 1
    assert loss_by_cost([row for row in ROWS if row["family"] == "fista"])
    assert loss_by_cost(ROWS[-1:]) is None
