"""Two studies whole at smoke size, and of every study what it makes of rows that its declarations
promise: its files and its page, and that what is drawn is what the rows say.
"""

import math
import random
from unittest import mock

import numpy as np
import pytest
from matplotlib.figure import Figure

from benchmarks import options, studies
from benchmarks.harness import command
from benchmarks.harness.drawings import Drawing
from benchmarks.harness.outcome import write_outcome
from benchmarks.report import pages
from sae_gap.analysis import tables
from sae_gap.encoders import Lasso
from sae_gap.storage import grouped
from sae_gap.study import jobs, program
from tests.conftest import lines_of, save_picture, succeed

STUDIES = studies.found()
WHOLE = ("amortisation_gap", "warmstart_decoder")
# Studies of which every SAE has its own codes, its support and the lasso.
DECOMPOSED = ("amortisation_gap", "frozen_decoder", "support_recovery", "attribution")


def lines_to_measure(name, *flags):
    """The run of a study at smoke size, with all its methods, and its lines."""
    flags = [name, "--preset=smoke", "--methods=all", *flags]
    run = command.read(STUDIES[name], options.parse(command.options_of(STUDIES[name]), flags))
    return run, [line for job in jobs(run.study) for line in job.lines]


@pytest.fixture(scope="module")
def measured(smoke):
    """What is measured of an oracle, and what made it."""
    oracle = next(row for row in smoke.rows if row["family"] == "oracle")
    told_apart = {name for line in lines_to_measure(WHOLE[0])[1] for name in line.columns}
    return {name: value for name, value in oracle.items() if name not in told_apart}


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_left_and_drawn_is_what_the_rows_say(name, measured, tmp_path):
    one, (run, lines) = STUDIES[name], lines_to_measure(name, f"--results_dir={tmp_path}")
    assert len({line.key for line in lines}) == len(lines) and len(run.study.sources) >= 2
    by = [*tables.BY, *one.varies]
    columns = {column for names in one.tables.values() for column in names.split()} - {*by}
    rows, means, drawn, draw = [], {}, [], Drawing.draw
    for line in lines:
        rng = random.Random(line.key)
        numbers = {
            column: rng.random()
            for column, value in (measured | dict.fromkeys(sorted(columns), 0.5)).items()
            if isinstance(value, float)
        }
        rows.append(measured | numbers | line.columns)
        place = tuple(str(rows[-1].get(column, "")) for column in by)
        means.setdefault(place, []).append([numbers[column] for column in columns])

    def drawing(self, some):
        drawn.append((self, some, draw(self, some)))
        return drawn[-1][2]

    with (
        mock.patch.object(Drawing, "draw", drawing),
        mock.patch.object(Figure, "savefig", save_picture),
    ):
        printed = write_outcome(run, rows, {"seconds": "1"})
    page, names = pages.read(run.page).page, {*run.page.names()}
    pictures = {path for path in names if path.endswith(".png")}
    files = {"summary.csv", "README.md", "report.html", "page.json"} | pictures
    files |= {path.replace(".png", ".pdf") for path in pictures}
    assert names == files | ({"decomposition.csv"} if name in DECOMPOSED else set())
    assert (page.study, page.title) == (name, one.title)
    assert page.command.startswith(f"python -m sae_gap {name} ")
    # Cells have files of their own.
    assert sorted(figure.file for figure in page.figures) == sorted(pictures)
    assert bool(pictures) == bool(drawn)
    assert all(figure.caption for figure in page.figures)
    assert {"seconds", "versions"} <= {*page.notes} and all(
        title in printed for title in one.tables
    )
    summary = lines_of(f"{run.page}/summary.csv")
    assert [*summary[0]][: len(by)] == by and summary[0]["method"] == run.names[0]
    assert {tuple(line[column] for column in by) for line in summary} == {*means}
    for line in summary:
        wanted = np.mean(means[tuple(line[column] for column in by)], axis=0)
        found = [float(line[f"{column}_mean"]) for column in columns]
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    for chosen, some, figure in drawn:
        if chosen.name == "curve":
            check_curve(figure, chosen.rows(some) if chosen.rows else some, **chosen.options)


def check_curve(figure, rows, x, y, line="dictionary", dash="", panel="", **_):
    by = [name for name in (panel, line, dash, x) if name]
    groups = grouped([row for row in rows if row.get(x) is not None], by)
    wanted = [(place[-1], np.mean([row[y] for row in group])) for place, group in groups.items()]
    lines = [container.lines[0] for axes in figure.axes for container in axes.containers]
    found = [point for one in lines for point in zip(*one.get_data(), strict=True)]
    np.testing.assert_allclose(sorted(found), sorted(wanted), rtol=1e-6)


@pytest.mark.parametrize("name", WHOLE)
def test_a_row_for_every_method_seed_and_coordinate(smokes, name):
    rows, (_, lines) = {row["key"]: row for row in smokes(name).rows}, lines_to_measure(name)
    assert {*rows} == {line.key for line in lines}
    certified = 0
    for line in lines:
        row, encoder = rows[line.key], line.method.encoder
        assert line.columns.items() <= row.items()
        if isinstance(encoder, Lasso) and encoder.tol is not None:
            certified += 1
            assert row["lam"] == encoder.lam
            for split in ("id", "ood"):
                assert -1e-6 <= row[f"relative_gap_{split}"] <= 2e-6
                assert row[f"certificate_{split}"] <= 2e-6
    assert certified >= 2


def test_a_second_run_fits_nothing(smokes, monkeypatch, tmp_path):
    fitted = []
    monkeypatch.setattr(program.Program, "__init__", lambda self, one, *_: fitted.append(one))
    folders = (f"--results_dir={tmp_path}", f"--models_dir={smokes(WHOLE[1]).models}")
    # Of models along their fit and on a base.
    succeed(WHOLE[1], "--preset=smoke", "--methods=cold_dl,warm_dl_topk", *folders)
    assert not fitted


def test_a_warm_start_begins_at_the_dictionary_of_its_sae(smokes):
    own = {(row["method"], row["seed"]): row.get("cosine") for row in smokes(WHOLE[0]).rows}
    warm = [row for row in smokes(WHOLE[1]).rows if row["start"] == "warm" and "step" in row]
    for step, alike in ((0, 8), (5, 0)):
        pairs = [
            (row["cosine"], own[f"sae_{row['base']}", row["seed"]])
            for row in warm
            if row["step"] == step
        ]
        assert len(pairs) == 8 and sum(abs(one - other) < 1e-6 for one, other in pairs) == alike


def test_a_phase_has_the_dimensions_of_its_ratios():
    run, _ = lines_to_measure("phase_transition")
    wanted = {math.ceil(c * 3 * math.log(20 / 3)) for c in (1.0, 2.0, 3.0)}
    assert {source.input_dim for source in run.study.sources} == wanted


def test_a_dry_run_says_what_is_missing_and_touches_nothing(smoke, tmp_path):
    options = ("amortisation_gap", "--preset=smoke", "--dry_run")
    out = succeed(*options, f"--results_dir={tmp_path / 'empty'}")
    # The probe and the oracle take no fit.
    assert out.count("nothing to fit") == 2 and out.endswith("8 jobs, 12 models to fit\n")
    assert not (tmp_path / "empty").exists()
    there = (f"--results_dir={smoke.directory.parent}", f"--models_dir={smoke.models}")
    assert succeed(*options, *there).endswith("8 jobs, 0 models to fit\n")
