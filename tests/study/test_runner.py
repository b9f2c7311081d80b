"""One row a result, each learner fitted once, and any sequence of kills and shards ends in the same
rows.
"""

import collections
import contextlib
import dataclasses
import io
import itertools
import logging
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest
from tqdm import tqdm

from sae_gap import Method, Models, Recording, Setting, Store, draw, run
from sae_gap.catalogue import default_metrics
from sae_gap.core.types import Model
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.linear import Linear
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.topk import TopK
from sae_gap.learners.given import Given, Held
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.sparse_autoencoder import SparseAutoencoder
from sae_gap.metrics import gap
from sae_gap.metrics.metric import Metric
from sae_gap.runtime import progress
from sae_gap.solvers import sparse_code
from sae_gap.study import models, runner
from sae_gap.study.inference import Inference
from tests.tiny import METHODS, NAMES, SAE, SETTING, make, timeless


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("finished"))
    return run(make(), store), store


@pytest.fixture(scope="module")
def tasks():
    return [draw(Setting(20, 3, 200, seed=seed)) for seed in (0, 1)]


def learned(learner, tasks, at=()):
    sources = [Setting(20, 3, 200, seed=task.seed) for task in tasks]
    return Models().fit(learner, sources, tasks, at)


def test_a_row_for_each_method_and_seed_in_order(finished):
    rows, store = finished
    assert [(row["method"], row["seed"]) for row in rows] == [
        (name, seed) for name in NAMES for seed in (0, 1)
    ]
    stored = {row["key"]: row for row in store.rows()}
    for row in rows:
        assert {name: stored[row["key"]][name] for name in row} == row
    assert len({row["key"] for row in rows}) == 8


def test_a_row_says_what_it_is_of(finished):
    rows, _ = finished
    said = {"study": "tiny", "protocol": "strict", "lam": 0.1} | SETTING.asdict()
    for row in rows:
        assert said.items() <= (row | {"seed": 0}).items()
        assert {"python", "jax", "numpy", "revision", "machine", "device"} <= row.keys()
        assert row["precision"] == "float32"
        assert row["encode_seconds"] > 0 and row["fit_seconds"] > 0 and row["compile_seconds"] > 0
        assert row["fit_steps"] == (2 if row["method"] in ("sae", "frozen") else 0)
        assert "step" not in row
    assert [row["family"] for row in rows[::2]] == [method.family for method in METHODS]
    for row, method in zip(rows[::2], METHODS, strict=True):
        assert method.coordinates.items() <= row.items()
    assert [row.get("reference") for row in rows[::2]] == [None] + ["non-negative"] * 3


def test_a_row_has_its_learner_and_its_encoder_as_plain_data(finished):
    (row,) = (row for row in finished[0] if (row["method"], row["seed"]) == ("frozen", 1))
    learner, encoder = row["learner"], row["encoder"]
    assert learner["class"] == "sae_gap.SparseAutoencoder" and learner["num_steps"] == 2
    assert learner["encoder"]["class"] == "sae_gap.TopK" and learner["encoder"]["k"] == 3
    assert learner["base"] is None and learner["learning_rate"] == SAE.learning_rate
    assert encoder["class"] == "sae_gap.Lasso" and (encoder["lam"], encoder["tol"]) == (0.1, 1e-6)


def objective(task, model, codes, lam, split="id"):
    """Mean over a split of ½‖y - b - D z‖² + λ‖z‖₁ on unit atoms, by hand."""
    dictionary = np.asarray(model.dictionary, np.float64)
    residual = (
        np.asarray(getattr(task, split).signals, np.float64)
        - np.asarray(model.bias)
        - np.asarray(codes) @ dictionary.T
    )
    weights = np.abs(np.asarray(codes)) @ np.linalg.norm(dictionary, axis=0)
    return float(np.mean(0.5 * np.sum(residual**2, axis=1) + lam * weights))


def test_the_gap_is_at_the_weight_that_the_codes_minimise_at(tmp_path, tasks):
    methods = [
        Method("frozen", "frozen", SAE, Lasso(0.2)),
        Method("refined", "refined", SAE, Lasso(0.05, start=TopK(3))),
        Method("few", "frozen", SAE, Lasso(0.3, tol=None, max_iterations=3)),
        METHODS[1],
        Method("mp", "sae", SparseAutoencoder(MatchingPursuit(3), num_steps=1), MatchingPursuit(3)),
    ]
    found = run(make(SETTING, methods=methods, metrics=(gap.METRIC,)), Store(tmp_path))
    rows = {row["method"]: row for row in found}
    for method, lam in zip(methods, (0.2, 0.05, 0.3, 0.1, 0.1), strict=True):
        row, signed = rows[method.name], method.name == "mp"
        model = learned(method.learner, tasks[:1])[0].end.model
        assert row["lam"] == lam and row["reference"] == ("signed" if signed else "non-negative")
        for split in ("id", "ood"):
            signals, achieved = getattr(tasks[0], split).signals, row[f"objective_{split}"]
            best = Lasso(lam, tol=1e-7, nonneg=not signed)(model, signals)
            for codes, value in (
                (method.encoder(model, signals), achieved),
                (best, achieved - row[f"gap_{split}"]),
            ):
                expected = objective(tasks[0], model, codes, lam, split)
                assert value == pytest.approx(expected, rel=1e-4)
            assert 0 <= row[f"certificate_{split}"] <= 1e-6
    for name in ("frozen", "refined"):
        assert abs(rows[name]["relative_gap_id"]) <= max(rows[name]["certificate_id"], 2e-6)
    assert rows["few"]["relative_gap_id"] > 1e-3 and rows["few"]["iterations"] == 3
    assert rows["refined"]["start"] == "warm" and rows["frozen"]["start"] == "cold"


def test_a_fit_is_scored_along(tmp_path, tasks):
    longer = dataclasses.replace(SAE, num_steps=4)
    methods = [
        Method("sae", "sae", longer, TopK(3), at=(0, 2, 4)),
        Method("mse", "sae", longer, Lasso(), {"inference": "x"}),
    ]
    rows = run(make(SETTING, methods=methods, metrics=(gap.METRIC,)), Store(tmp_path))
    along = [row for row in rows if row["method"] == "sae"]
    assert [row["step"] for row in along] == [row["fit_steps"] for row in along] == [0, 2, 4]
    assert "step" not in rows[-1] and rows[-1]["fit_steps"] == 4 and rows[-1]["inference"] == "x"
    (outcome,) = learned(longer, tasks[:1], (0, 2))
    for row in along:
        model = outcome.at(row["step"]).model
        codes = TopK(3)(model, tasks[0].id.signals)
        expected = objective(tasks[0], model, codes, 0.1)
        assert row["objective_id"] == pytest.approx(expected, rel=1e-4)
    assert len({row["objective_id"] for row in along}) == 3
    assert [row["fit_seconds"] for row in along] == sorted(row["fit_seconds"] for row in along)


def test_the_seconds_of_a_fit_include_those_of_its_base(tmp_path):
    learners = SAE, dataclasses.replace(SAE, base=SAE)
    methods = [Method(f"sae{i}", "sae", learner, TopK(3)) for i, learner in enumerate(learners)]
    first, later = run(make(SETTING, methods=methods), Store(tmp_path))
    (found,) = Models(tmp_path / "models").fit(learners[1], [SETTING], [draw(SETTING)])
    assert later["fit_seconds"] == found.end.seconds + first["fit_seconds"]


def test_a_weight_is_found_on_the_rows_that_a_study_names(tmp_path):
    method = Method("oracle", "oracle", Oracle(), Lasso(l0=2.0))
    scored, train = (
        run(make(SETTING, methods=[method], lam=None, calibrate_on=rows), Store(tmp_path))[0]["lam"]
        for rows in ("scored", "train")
    )
    assert scored != train


def test_each_model_is_encoded_once(tmp_path, monkeypatch):
    calls = collections.Counter()
    inner = Inference._run

    def counting(self, encoder, split):
        fresh = len(self._coded)
        found = inner(self, encoder, split)
        calls[type(encoder).__name__, split] += len(self._coded) > fresh
        return found

    monkeypatch.setattr(Inference, "_run", counting)
    methods = (
        *METHODS[1:3],
        Method("again", "sae", SAE, TopK(3), {"depth": 1}),
        Method("warm", "sae", SAE, Lasso(start=TopK(3))),
    )
    run(make(SETTING, methods=methods, metrics=(gap.METRIC,)), Store(tmp_path))
    # Lasso from zero is the reference of all four, and the warm one is another.
    runs = itertools.product({"TopK": 1, "Lasso": 2}.items(), ("train", "id", "ood"))
    assert calls == {(name, split): count for (name, count), split in runs}


@pytest.mark.parametrize(
    ("columns", "fault"),
    [({"mse_id": 1.0}, "'mine' gives 'mse_id'"), ({"seed": 7.0}, "'mine' gives 'seed'")],
)
def test_a_metric_overwrites_nothing(tmp_path, columns, fault):
    mine = Metric("mine", lambda inferred: columns, {})
    with pytest.raises(ValueError, match=fault):
        run(make(SETTING, methods=METHODS[3:], metrics=(*default_metrics(), mine)), Store(tmp_path))
    assert not (tmp_path / "rows").exists()


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_metric_that_fails_costs_its_own_columns_unless_a_study_asks_for_it(
    tmp_path, caplog, everywhere
):
    broken, calls = ["oracle"], []

    def measure(inferred):
        calls.append(inferred.learner.name)
        if inferred.learner.name in broken:
            raise ZeroDivisionError("out of luck")
        return {"mine": 1.0}

    metrics = Metric("mine", measure, everywhere=everywhere), Metric("other", lambda _: {"b": 2.0})
    study = make(SETTING, methods=METHODS[::3], metrics=metrics)
    if not everywhere:
        with pytest.raises(ZeroDivisionError, match="out of luck"):
            run(study, Store(tmp_path))
        return
    for _ in range(2):
        rows = run(study, Store(tmp_path))
        assert [(row.get("mine"), row["b"]) for row in rows] == [(1.0, 2.0), (None, 2.0)]
    said = "mine of the codes of lasso on oracle failed, and is left out: ZeroDivisionError('out of luck')"
    assert caplog.text.count(said) == 2
    broken.clear()
    rows = run(study, Store(tmp_path))
    assert [(row["mine"], row["b"]) for row in rows] == [(1.0, 2.0)] * 2
    assert calls == ["linear_probe", *["oracle"] * 3]


def test_a_stream_is_scored_on_held_out_samples_alone(tmp_path, caplog):
    def splits(inferred):
        assert inferred.lam == 0.1 and inferred.protocol == "strict"
        return {"seen": sorted(inferred.codes), "optima": sorted(inferred.optimum)}

    metrics = (*default_metrics(), Metric("splits", splits))
    rows = run(make(Setting(20, 3, 200, stream=True), metrics=metrics), Store(tmp_path))
    assert [row["method"] for row in rows] == ["sae", "frozen", "oracle"]
    assert "left out linear_probe: the data lack the true codes" in caplog.text
    for row in rows:
        assert row["seen"] == row["optima"] == ["id", "ood"]
        assert row["stream"] is True
        assert row["num_samples"] == 200
        assert {"mcc_id", "cosine", "support_f1_ood", "relative_gap_id"} <= row.keys()
        assert "auc_id" not in row


def test_a_dictionary_on_which_a_weight_is_not_found_is_named(tmp_path):
    model = Model(jnp.zeros((SETTING.input_dim, 20)), jnp.zeros(SETTING.input_dim))
    method = Method("lasso", "sae", Given(Held(model), "mine"), Lasso(l0=2.0))
    with pytest.raises(ValueError, match=r"^mine: every signal is orthogonal to the dictionary"):
        run(make(SETTING, methods=[method]), Store(tmp_path))


def test_a_learner_is_fitted_once_for_all_seeds_and_methods(tmp_path, monkeypatch):
    fitted = []
    fit = models.fit

    def counting(learner, tasks, keys, **options):
        fitted.append((type(learner).__name__, len(tasks)))
        return fit(learner, tasks, keys, **options)

    monkeypatch.setattr(models, "fit", counting)
    rows = run(make(), Store(tmp_path / "rows"), models=Models(tmp_path / "models"))
    assert sorted(fitted) == [("LinearProbe", 2), ("Oracle", 2), ("SparseAutoencoder", 2)]
    assert len(rows) == 8
    assert not (tmp_path / "rows" / "models").exists()
    assert len(list((tmp_path / "models").iterdir())) == 2


def fail(*_, **__):
    raise AssertionError("nothing is left to fit")


def rows_of(store):
    folder = store.folder.local / "rows"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_second_run_adds_nothing_and_fits_nothing(finished, monkeypatch):
    rows, store = finished
    content = rows_of(store)
    monkeypatch.setattr(runner, "score", fail)
    monkeypatch.setattr(Models, "fit", fail)
    assert run(make(), Store(store.folder)) == rows
    assert rows_of(store) == content and len(content) == 8


def test_models_are_kept_beside_the_rows_unless_one_says_otherwise(finished):
    _, store = finished
    assert store.folder.folders() == ["models", "rows"] and store.folder.names() == []
    assert len((store.folder / "models").folders()) == 2


def test_rows_of_another_study_are_refused(finished, monkeypatch):
    _, store = finished
    monkeypatch.setattr(runner, "score", fail)
    with pytest.raises(ValueError, match="rows of the study 'tiny', where 'other'"):
        run(dataclasses.replace(make(), name="other"), store)


def test_a_store_that_lost_jobs_is_completed(finished, tmp_path):
    rows, store = finished
    (tmp_path / "rows").mkdir()
    for name in sorted(rows_of(store))[:1]:
        (tmp_path / "rows" / name).write_bytes(rows_of(store)[name])
    there = {row["key"] for row in Store(tmp_path).rows()}
    found = run(make(), Store(tmp_path), models=Models(store.folder / "models"))
    assert timeless(found) == timeless(rows)
    pairs = zip(found, rows, strict=True)
    assert {one["key"] for one, other in pairs if one == other} == there


def test_an_edited_file_stops_a_run(finished, tmp_path):
    _, store = finished
    (tmp_path / "rows").mkdir()
    for name, content in rows_of(store).items():
        (tmp_path / "rows" / name).write_bytes(content.replace(b'"lam": 0.1', b'"lam": 0.3', 1))
    with pytest.raises(ValueError, match="was edited after"):
        run(make(), Store(tmp_path))


def test_shards_partition_the_whole(finished, tmp_path):
    rows, store = finished
    kept = Models(store.folder / "models")
    # One more than there are jobs.
    parts = [
        run(make(), Store(tmp_path / str(index)), (index, 4), models=kept) for index in range(4)
    ]
    written = {row["key"]: row for part in parts for row in part}
    assert sum(map(len, parts)) == len(written) and all(parts[:3]) and parts[3] == []
    assert timeless([written[row["key"]] for row in rows]) == timeless(rows)


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0), (0.0, 2)])
def test_a_shard_outside_its_count_is_refused(tmp_path, monkeypatch, shard):
    monkeypatch.setattr(runner, "score", fail)
    with pytest.raises(ValueError, match="shard must be"):
        run(make(), Store(tmp_path), shard)


def test_cells_of_a_grid_come_in_order(tmp_path):
    noisy = dataclasses.replace(SETTING, noise_db=5.0)
    cells = [Setting(20, 3, 300), SETTING, Setting(20, 2, 200, input_dim=12), noisy]
    scored = Metric("scored", lambda inferred: {"scored": len(inferred.task.id.signals)})
    rows = run(make(*cells, methods=METHODS[:1], metrics=(scored,)), Store(tmp_path))
    assert all(2 * row["scored"] == row["num_samples"] for row in rows)
    found = [(row["sparsity"], row["num_samples"], row["noise_db"]) for row in rows]
    assert found == [(2, 200, None), (3, 200, None), (3, 200, 5.0), (3, 300, None)]


def test_methods_weights_iterations_and_steps_come_in_order(tmp_path):
    def few(lam, count):
        encoder = Lasso(lam, tol=None, max_iterations=count)
        return Method("b", "oracle", Oracle(), encoder, {"weight": lam})

    methods = [few(0.2, 1), few(0.1, 2), few(0.1, 1), Method("a", "sae", SAE, Linear(), at=(2, 0))]
    rows = run(make(methods=methods, metrics=()), Store(tmp_path))
    columns = ("method", "lam", "iterations", "step", "seed")
    found = [tuple(row.get(column) for column in columns) for row in rows]
    cells = [("b", lam, count, None) for lam, count in ((0.1, 1), (0.1, 2), (0.2, 1))]
    cells += [("a", 0.1, None, step) for step in (0, 2)]
    assert found == [(*cell, seed) for cell in cells for seed in (0, 1)]


def test_a_recording_of_a_setting_has_its_results(finished, tmp_path, arrays):
    np.savez(tmp_path / "with_truth.npz", **arrays)
    source = Recording(tmp_path / "with_truth.npz", sparsity=3)
    rows = run(make(source), Store(tmp_path / "store"))
    expected = [row for row in finished[0] if row["seed"] == 0]
    told_apart = ("key", "data", "noise_db")
    assert timeless(rows, *told_apart) == timeless(expected, *told_apart)
    assert not {row["key"] for row in rows} & {row["key"] for row in expected}


NEED_TRUTH = ("mcc", "cosine", "close", "angle", "norm_ratio", "support", "accuracy", "auc")


@pytest.mark.parametrize(
    ("kept", "methods", "absent", "present"),
    [
        ("Y", NAMES[1:3], NEED_TRUTH, {"mse_id", "mse_ood", "l0_above_id", "relative_gap_ood"}),
        ("YZ", NAMES[:3], ("cosine",), {"mcc_id"}),
        ("YA", NAMES[1:], ("mcc_id",), {"cosine"}),
    ],
)
def test_what_the_truth_lacks_leaves_methods_and_metrics_out(
    tmp_path, arrays, kept, methods, absent, present
):
    given = {name: array for name, array in arrays.items() if name[0] in kept}
    np.savez(tmp_path / "some.npz", **given)
    source = Recording(tmp_path / "some.npz", width=20, sparsity=3)
    rows = run(make(source), Store(tmp_path / "store"))
    assert [row["method"] for row in rows] == methods and present <= rows[-1].keys()
    assert not [name for row in rows for name in row if name.startswith(absent)]


SCRIPT = """
import sys
from sae_gap import Store, run
from tests.tiny import make
run(make(), Store(sys.argv[1]))
"""


def test_a_killed_run_ends_with_the_rows_of_one_left_alone(finished, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, tmp_path],
        cwd=pathlib.Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(tmp_path.glob("rows/*.json")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    _, logged = process.communicate()
    assert process.returncode == -signal.SIGKILL, logged
    content = rows_of(Store(tmp_path))
    assert 0 < len([name for name in content if name.endswith(".json")]) < 3
    found = run(make(), Store(tmp_path))
    assert timeless(found) == timeless(finished[0])
    assert content.items() <= rows_of(Store(tmp_path)).items()
    # Keys are the same in every process: what the other had finished is there once.
    assert {row["key"] for row in Store(tmp_path).rows()} == {row["key"] for row in found}


def test_a_diverged_model_is_a_row_and_not_a_crash(tmp_path):
    hot = dataclasses.replace(SAE, learning_rate=1e30)
    sae, frozen = Method("sae", "sae", hot, TopK(3)), Method("frozen", "frozen", hot, Lasso())
    methods = (sae, frozen, METHODS[3])
    for _ in range(2):
        store = Store(tmp_path / f"rows{_}")
        rows = run(make(SETTING, methods=methods), store, models=Models(tmp_path / "models"))
        assert [row.get("diverged") for row in rows] == [True, True, None]
        assert "mcc_id" in rows[2] and "mcc_id" not in rows[0]


def test_what_a_solver_certifies_of_its_own_codes_is_in_the_row(finished):
    rows, _ = finished
    for row in rows:
        assert 0 <= row.get("own_certificate_id", 0) <= 1e-6
        assert ("own_certificate_ood" in row) == (row["family"] in ("frozen", "oracle"))
        assert row.get("unconverged_id", 0) == 0
    oracle = next(row for row in rows if row["method"] == "oracle")
    task = draw(dataclasses.replace(SETTING, seed=oracle["seed"]))
    codes = sparse_code(task.ood.signals, task.dictionary, oracle["lam"])
    worst = float(np.max(codes.gap / codes.objective))
    # Of that of one sample alone it is twice as much or more.
    assert oracle["own_certificate_ood"] == pytest.approx(worst, rel=0.5, abs=0)


def test_a_learner_that_fails_leaves_the_models_of_the_others(tmp_path, monkeypatch):
    fit = models.fit

    def failing(learner, *rest, **options):
        if isinstance(learner, SparseAutoencoder):
            raise RuntimeError("out of luck")
        return fit(learner, *rest, **options)

    monkeypatch.setattr(models, "fit", failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        run(make(), Store(tmp_path))
    monkeypatch.setattr(models, "fit", fit)
    assert len(run(make(), Store(tmp_path))) == 8


def test_a_line_of_progress_ends_full(finished, tmp_path, monkeypatch):
    lines = []

    @contextlib.contextmanager
    def line(total, what, *, shown, done, **options):
        line = tqdm(total=total, initial=done, file=io.StringIO(), mininterval=0)
        lines.extend([line] if shown else [])
        yield line

    monkeypatch.setattr(progress, "line", line)
    for _ in range(2):
        run(make(), Store(tmp_path), models=Models(finished[1].folder / "models"))
    assert [(line.total, round(line.n, 6)) for line in lines] == [(11, 11), (11, 11)]


@pytest.mark.parametrize("shown", [True, False])
def test_a_log_says_how_much_is_done_and_how_much_time_is_left(
    finished, tmp_path, monkeypatch, caplog, shown
):
    monkeypatch.setattr(progress, "EVERY", 0.01)
    monkeypatch.setattr("sys.stderr", stderr := io.StringIO())
    kept = Models(finished[1].folder / "models")
    with caplog.at_level(logging.INFO, "absl"):
        run(make(), Store(tmp_path), models=kept, show_progress=shown)
        # Work of an earlier run tells nothing of the time left.
        with progress.line(9, "work", unit="rows", done=4, shown=shown):
            time.sleep(0.1)
    for form in (
        r"tiny: (\d+) of 11 fits and rows in \d\d:\d\d, (\?|\d\d:\d\d) left(, \w+)*",
        r"work: 4 of 9 rows in 00:00, \? left",
    ):
        assert any(re.fullmatch(form, words) for words in caplog.messages) == shown
    assert not stderr.getvalue()
