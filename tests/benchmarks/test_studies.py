"""Two studies whole at smoke size, and of every study what it makes of rows that its declarations
promise: its files and its page, and that what is drawn is what the rows say.
"""

import collections
import random
from unittest import mock

import numpy as np
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from pytest import approx, fixture, mark

from benchmarks.harness import outcome
from benchmarks.harness.drawings import Drawing
from benchmarks.report import pages
from benchmarks.studies import warmstart_encoder
from sae_gap import Store, catalogue
from sae_gap.analysis import tables
from sae_gap.core import Column
from sae_gap.encoders import Lasso
from sae_gap.figures import labels
from sae_gap.metrics import Metric
from sae_gap.storage import grouped
from sae_gap.study import jobs, loop
from tests.benchmarks.reference import halves, held, split
from tests.conftest import lines_of, page_of, refused, save_picture, succeed

from .test_grammar import STUDIES, read

WHOLE = ("amortisation_gap", "warmstart_decoder")
SMOKE = (WHOLE[0], "--preset=smoke")
# Ratios that are no whole numbers.
OTHER_SIZES = {"phase_transition": ("--ratios=1.5,2,2.5",)}
# Studies of which every SAE has its own codes, its support and the lasso.
DECOMPOSED = (
    "amortisation_gap frozen_decoder support_recovery attribution training_budget"
)


def lines_to_measure(name, *flags):
    """The run of a study at smoke size, with all its methods, and its lines."""
    run = read(name, "--preset=smoke", "--methods=all", *flags)
    return run, [line for job in jobs(run.study) for line in job.lines]


@fixture(scope="module")
def measured(smoke):
    """What is measured of an oracle, and what made it."""
    oracle = next(row for row in smoke.rows if row["family"] == "oracle")
    told_apart = {
        name for line in lines_to_measure(WHOLE[0])[1] for name in line.columns
    }
    return {name: value for name, value in oracle.items() if name not in told_apart}


@mark.parametrize("name", STUDIES)
def test_what_is_left_and_drawn_is_what_the_rows_say(
    name, measured, tmp_path, monkeypatch
):
    one = STUDIES[name]
    (run, lines) = lines_to_measure(
        name, f"--results_dir={tmp_path}", *OTHER_SIZES.get(name, ())
    )
    by = [*tables.BY, *one.varies]
    rows = []
    drawn = []
    draw = Drawing.draw
    columns = {column for names in one.tables.values() for column in names.split()} - {
        *by
    }
    columns |= {"close"} if one.parts else set()
    for line in lines:
        rng = random.Random(line.key)
        scores = measured | dict.fromkeys(sorted(columns), 0.5)
        numbers = {
            name: rng.random() for name, old in scores.items() if isinstance(old, float)
        }
        rows.append(measured | numbers | line.columns)

    def drawing(self, some):
        drawn.append((self, some, draw(self, some)))
        return drawn[-1][2]

    monkeypatch.setattr(Drawing, "draw", drawing)
    monkeypatch.setattr(Figure, "savefig", save_picture)
    printed = outcome.write_outcome(run, rows, {"seconds": "1"})
    assert all(title in printed for title in one.tables)
    page = pages.read(run.page).page
    names = {*run.page.names()}
    pictures = {path for path in names if path.endswith((".png", ".pdf"))}
    files = {"summary.csv", "README.md", "report.html", "page.json"}
    assert names - pictures == files | (
        {"decomposition.csv"} if name in DECOMPOSED.split() else set()
    )
    assert page.title == one.title and f" {name} " in page.command
    # Cells have files of their own.
    assert {figure.file for figure in page.figures} == {
        f for f in pictures if f[-1] == "g"
    }
    assert 2 * len(page.figures) == len(pictures) >= 2 * bool(drawn)
    summary = lines_of(f"{run.page}/summary.csv")
    assert [*summary[0]][: len(by)] == by and summary[0]["method"] == run.names[0]
    order = {name: place for place, name in enumerate(run.names)}
    groups = sorted(grouped(rows, by).items(), key=lambda item: order[item[0][0]])
    wanted = [
        dict(zip(by, place, strict=True)) | means(group, by) for place, group in groups
    ]
    held(sorted(summary, key=place_of(by)), sorted(wanted, key=place_of(by)))
    assert [line["method"] for line in summary] == [line["method"] for line in wanted]
    if one.parts:
        lines = decomposed(rows, order)
        held(lines_of(f"{run.page}/decomposition.csv"), lines)
        (*_, table) = page.tables
        lines = [line for line in lines if line["loss"] == "mcc_ood"]
        assert ("parts ± half" in table.title) and len(table.lines) == len(lines)
        for shown, line in zip(table.lines, lines, strict=True):
            cells = halves(line)
            if line["best"] == line["dictionary"]:
                del cells["dictionary_part_mean"]
            assert {name: shown[name] for name in cells} == approx(cells, rel=1e-6)
    for chosen, some, figure in drawn:
        if chosen.name == "curve":
            check_curve(figure, drawn_rows(some, **chosen.options), **chosen.options)


def place_of(by):
    return lambda line: [str("" if line[name] is None else line[name]) for name in by]


def means(group, by):
    """What a line of a summary has beside its place."""
    line = {"seeds": len(group)}
    for name, value in group[0].items():
        if type(value) in (int, float) and name not in (*by, *NO_METRICS.split()):
            values = [row[name] for row in group]
            line[f"{name}_mean"] = np.mean(values)
            line[f"{name}_sd"] = np.std(values, ddof=1) if len(group) > 1 else None
    return line


# Columns of numbers that are no scores: conditions, and what no mean is of.
NO_METRICS = (
    "lam compile_seconds seed input_dim width step iterations flops depth padded_dim"
)
SCORED = [
    f"{name}_{part}"
    for name in ("mcc", "support_f1", "accuracy", "auc")
    for part in ("id", "ood")
]


def lost(group, loss):
    return 1 - np.array([row[loss] for row in group])


def least(groups, loss):
    return min(groups, key=lambda group: lost(group, loss).mean())


def decomposed(rows, order):
    """The lines of the parts, of all codes on each dictionary, and of those on the true one."""
    lines = []
    for loss in SCORED:
        by = "num_latents", "sparsity", "num_samples", "dictionary", "method", "step"
        every = {
            place: group
            for place, group in grouped(rows, by).items()
            if loss in group[0]
        }
        owned = [place for place in every if every[place][0]["inference"] == "own"]
        for place in sorted(owned, key=lambda place: order[place[4]]):
            own = every[place]
            cell = place[:3]
            there = {at: group for at, group in every.items() if at[:4] == place[:4]}
            there = [group for at, group in there.items() if at[5] == place[5]]
            keep = [
                each
                for each in there
                if each[0]["inference"] in ("support", "least_squares")
            ]
            above = [
                group for at, group in every.items() if at[:4] == (*cell, "oracle")
            ]
            if len(there) < 2 or not above:
                continue
            top = least(there, loss)
            last = least(above, loss)
            kept = least([own, *keep], loss) if keep else None
            codes = {"own": own, "best": top, "last": last}
            if keep:
                codes["kept"] = kept
            line = split(
                np.ones(len(own)),
                **{name: lost(each, loss) for name, each in codes.items()},
            )
            about = "method dictionary num_latents sparsity num_samples input_dim noise_db width"
            about = [*about.split(), "stream", "world", "step", "level", "l0"]
            line |= {name: own[0].get(name) for name in about} | {
                "loss": loss,
                "best": "oracle",
            }
            line |= {"atoms_found": np.mean([row["close"] for row in own])}
            names = {"support_codes": kept, "own_best_codes": top, "best_codes": last}
            lines.append(
                line
                | {key: each and each[0]["inference"] for key, each in names.items()}
            )
    return lines


def drawn_rows(rows, x, line="dictionary", **_):
    """The rows of a figure, and what it computes of them."""
    if line in ("inference", "columns"):
        cold = [row for row in rows if row.get("start") != "warm"]
        kinds = collections.defaultdict(set)
        for row in cold:
            kinds[row["dictionary"]].add(row.get(line))
        return [row for row in cold if len(kinds[row["dictionary"]]) > 1]
    if x == "lam":
        return [row for row in rows if row["inference"] == "lasso"]
    if x == "per_latent":
        learned = [row for row in rows if row["dictionary"] != "oracle"]
        return [row | {x: row["samples_seen"] / row["num_latents"]} for row in learned]
    if x == "ratio":
        size = [(row["input_dim"], row["num_latents"], row["sparsity"]) for row in rows]
        ratios = [round(2 * m / (k * np.log(d / k))) / 2 for m, d, k in size]
        return [row | {x: ratio} for row, ratio in zip(rows, ratios, strict=True)]
    # Costs in products have a test of their own.
    return warmstart_encoder.by_products(rows) if x == "products" else rows


def check_curve(figure, rows, x, y, line="dictionary", dash="", panel="", **_):
    """Each line of each panel has the means and deviations of its own rows."""
    wanted = collections.defaultdict(list)
    shown = [row for row in rows if row.get(x) is not None]
    for (*place, at), group in grouped(shown, (panel, line, dash, x)).items():
        values = [row[y] for row in group]
        sd = np.std(values, ddof=1) if len(values) > 1 else 0.0
        wanted[tuple(place)].append((at, np.mean(values), sd))
    found = []
    for axes in figure.axes:
        for points, _, whiskers in axes.containers:
            x_and_y = points.get_xydata()
            # Of many points the deviations are bands, which have a test of their own.
            sds = [
                np.ptp(each[:, 1]) / 2
                for bars in whiskers
                for each in bars.get_segments()
            ]
            found.append(
                [
                    (*at, sd)
                    for at, sd in zip(
                        x_and_y, sds or [None] * len(x_and_y), strict=True
                    )
                ]
            )
    wanted = sorted(map(sorted, wanted.values()))
    if any(sd is None for path in found for *_, sd in path):
        wanted, found = (
            [[at[:2] for at in path] for path in each] for each in (wanted, found)
        )
    found = sorted(map(sorted, found))
    for mine, known in zip(found, wanted, strict=True):
        assert_allclose(mine, known, rtol=1e-6, atol=1e-12)
    title = f"{labels.metric_label(y)} by {labels.metric_label(x)}."
    assert figure.get_label().lower().startswith(title.lower())
    if panel and len({row.get(panel) for row in shown}) > 1:
        titles = {axes.get_title("left") for axes in figure.axes}
        assert titles == {labels.label(row[panel], panel) for row in shown}


@mark.parametrize("name", WHOLE)
def test_a_row_for_every_method_seed_and_coordinate(smokes, name):
    rows = {row["key"]: row for row in smokes(name).rows}
    (_, lines) = lines_to_measure(name)
    assert {*rows} == {line.key for line in lines}
    for line in lines:
        row = rows[line.key]
        encoder = line.method.encoder
        assert line.columns.items() <= row.items()
        if isinstance(encoder, Lasso):
            assert (
                row["lam"] == encoder.lam and -1e-6 <= row["relative_gap_ood"] <= 2e-6
            )
            assert row["certificate_id"] <= 2e-6


def test_a_second_run_fits_nothing(smokes, monkeypatch, tmp_path):
    fitted = []
    monkeypatch.setattr(
        loop.Program, "__init__", lambda self, one, *_: fitted.append(one)
    )
    folders = (f"--results_dir={tmp_path}", f"--models_dir={smokes(WHOLE[1]).models}")
    # Of models along their fit and on a base.
    succeed(WHOLE[1], "--preset=smoke", "--methods=cold_dl,warm_dl_topk", *folders)
    assert not fitted


def test_a_warm_start_begins_at_the_dictionary_of_its_sae(smokes):
    own = {
        (row["method"], row["seed"]): row.get("cosine") for row in smokes(WHOLE[0]).rows
    }
    warm = [
        row for row in smokes(WHOLE[1]).rows if row["start"] == "warm" and "step" in row
    ]
    for step, alike in ((0, 8), (5, 0)):
        pairs = [
            (row["cosine"], own[f"sae_{row['base']}", row["seed"]])
            for row in warm
            if row["step"] == step
        ]
        assert (
            len(pairs) == 8
            and sum(abs(one - other) < 1e-6 for one, other in pairs) == alike
        )


def test_a_dry_run_says_what_is_missing_and_touches_nothing(smoke, tmp_path):
    out = succeed(*SMOKE, "--dry_run", f"--results_dir={tmp_path / 'empty'}")
    # The probe and the oracle take no fit, and the four methods of an SAE one.
    assert out.count("nothing to fit") == 2 and out.endswith(
        "8 jobs, 12 models to fit\n"
    )
    assert not (tmp_path / "empty").exists()
    there = (f"--results_dir={smoke.directory.parent}", f"--models_dir={smoke.models}")
    assert succeed(*SMOKE, "--dry_run", *there).endswith("8 jobs, 0 models to fit\n")


def test_results_make_sense_and_end_with_the_answer(smoke):
    found = {line["method"]: line for line in lines_of(smoke.page / "summary.csv")}
    scores = {name: float(line["mcc_ood_mean"]) for name, line in found.items()}
    assert max(scores, key=scores.get) == "fista_oracle"
    for sae in ("relu", "topk", "jumprelu", "mp"):
        own, kept, frozen = (
            found[f"{kind}_{sae}"] for kind in ("sae", "support", "frozen")
        )
        assert own["cosine_mean"] == kept["cosine_mean"] == frozen["cosine_mean"]
        # Values may vanish from a support, and none can join it.
        assert float(kept["l0_above_id_mean"]) <= float(own["l0_above_id_mean"])
        # Cold and warm refinement reach the same optimum.
        assert scores[f"refined_{sae}"] == approx(scores[f"frozen_{sae}"], abs=2e-3)
    *tables, question, answer, page = smoke.printed.strip().split("\n\n")
    about = "(number of seeds: 2; the SAEs have the paper's untuned options):"
    assert question.endswith(f"to the oracle in MCC OOD {about}")
    # Of codes that score alike, tables show one.
    assert "frozen_relu" in tables[0] and "refined_relu" not in tables[0]
    assert any("refined_relu" in table for table in tables)
    assert [line.partition(":")[0] for line in answer.splitlines()] == [
        f"- {labels.label(sae)}" for sae in ("relu", "topk", "jumprelu", "mp")
    ]
    assert page == f"The page: {smoke.page / 'report.html'}"


def test_the_published_protocol(tmp_path, smoke):
    methods = "--methods=dl_fista,fista_oracle"
    succeed(*SMOKE, "--protocol=paper", f"--results_dir={tmp_path}", methods)
    strict = {(row["method"], row["seed"]): row for row in smoke.rows}
    for row in Store(tmp_path / WHOLE[0]).rows():
        other = strict[row["method"], row["seed"]]
        assert row["protocol"] == "paper" and row["key"] != other["key"]
        if row["method"] == "dl_fista":
            # Fitted on the very samples that it is scored on.
            assert row["mse_id"] < other["mse_id"]
        else:
            # Hardly converged, and never below the optimum.
            assert (
                -1e-6 < row["relative_gap_id"] < 0.05 and row["certificate_id"] <= 1e-6
            )


def test_data_without_the_truth_have_no_parts(tmp_path, arrays):
    np.savez(
        tmp_path / "x.npz", **{name: arrays[name] for name in arrays if name[0] == "Y"}
    )
    flags = (f"--data={tmp_path}/x.npz", f"--results_dir={tmp_path}", "--seeds=0")
    refused("give width", *SMOKE, *flags)
    succeed(*SMOKE, *flags, "--width=20", "--methods=sae_topk")
    files = {"summary.csv", "README.md", "page.json", "report.html"}
    assert {path.name for path in page_of(tmp_path).iterdir()} == files
    # Models stand beside the study by default.
    assert [
        path.name.partition("-")[0] for path in (tmp_path / "models").iterdir()
    ] == ["topk"]
    # The probe needs the truth, and nothing else is to run.
    refused("linear_probe", *SMOKE, *flags, "--width=20", "--methods=linear_probe")


def test_folders_that_cannot_be_used_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "blocked").write_text("mine")
    results = f"--results_dir={tmp_path / 'results'}"
    models = tmp_path / "blocked"
    refused("results cannot be written to", *SMOKE, f"--results_dir={models / 'deep'}")
    refused(
        f"models cannot be kept in {models} (",
        *SMOKE,
        results,
        f"--models_dir={models}",
    )
    # What takes no fit needs no place for it.
    succeed(*SMOKE, results, f"--models_dir={models}", "--methods=fista_oracle")


def test_a_metric_that_is_dropped_in_brings_its_label_to_tables_and_figures():
    column = Column("effective number of latents", heading="effective L0")
    metric = Metric("effective", lambda inferred: {}, {"effective": column})
    known = catalogue.metrics() | {"effective": metric}
    row = {
        "method": "sae_topk",
        "dictionary": "topk",
        "inference": "own",
        "sparsity": 3,
        "seed": 0,
    }
    rows = [
        row | {"num_latents": size, "num_samples": 9, "effective_id": 2.0}
        for size in (2, 3)
    ]
    with mock.patch.object(catalogue, "metrics", lambda: known):
        labels._metrics.cache_clear()
        summary = tables.summarise(rows)
        assert outcome._unlisted(summary) == "effective_id"
        assert outcome._headings(["effective_id"], summary) == {
            "effective_id": "effective L0"
        }
        figure = Drawing("curve", {"x": "num_latents", "y": "effective_id"}).draw(rows)
        assert "effective number of latents" in figure.axes[0].get_title("left")
    labels._metrics.cache_clear()


def test_a_crossing_of_a_shared_dictionary_is_drawn_apart():
    rows = [
        dict(zip(("method", "dictionary", "inference"), words.split(), strict=True))
        for words in ("sae_topk topk own", "topk:omp topk omp", "oracle:omp oracle omp")
    ]
    found = outcome._told_apart(rows, {"sae_topk"})
    assert [row["dictionary"] for row in found] == ["topk", "topk:omp", "oracle"]
