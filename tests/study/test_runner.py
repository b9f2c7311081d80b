"""One row a result, each model fitted and encoded once, and any sequence of kills and shards ends
in the same rows.
"""

import itertools
import random
from collections import Counter
from dataclasses import replace

import numpy as np
from numpy import asarray
from numpy.linalg import norm
from numpy.testing import assert_allclose
from pytest import approx, fixture, mark, raises

from sae_gap import Method, Models, Recording, Setting, Store, run
from sae_gap.catalogue import default_metrics
from sae_gap.core import evenly_spaced
from sae_gap.encoders import FISTA, Encoder, Lasso, Linear, MatchingPursuit, TopK
from sae_gap.learners import Oracle, SparseAutoencoder
from sae_gap.metrics import Metric, gap, recovery
from sae_gap.solvers import sparse_code
from sae_gap.storage import Checkpoint, Folder
from sae_gap.study import Inference, inference, jobs, models, runner, scoring
from tests.study.test_fitting import KilledError
from tests.tiny import METHODS, NAMES, SAE, SETTING, make, timeless


@fixture(scope="module")
def finished(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("finished"))
    return run(make(), store), store


def test_a_row_says_what_it_is_of(finished, task):
    rows, store = finished
    assert [(row["method"], row["seed"]) for row in rows] == [
        *itertools.product(NAMES, (0, 1))
    ]
    stored = {row["key"]: row for row in store.rows()}
    said = {"study": "tiny", "protocol": "strict", "lam": 0.1, "precision": "float32"}
    for row, method in zip(rows, np.repeat(METHODS, 2), strict=True):
        assert row.items() <= stored.pop(row["key"]).items()
        settings = SETTING.asdict() | {"seed": row["seed"], "family": method.family}
        assert (said | settings | method.coordinates).items() <= row.items()
        assert {"python", "jax", "numpy", "revision", "machine", "device"} <= row.keys()
        assert min(row[f"{part}_seconds"] for part in ("encode", "fit", "compile")) > 0
        assert row["fit_steps"] == method.learner.num_steps and "step" not in row
        assert row.get("reference") == (
            None if method is METHODS[0] else "non-negative"
        )
        for part in ("learner", "encoder"):
            assert (
                row[part]["class"] == f"sae_gap.{type(getattr(method, part)).__name__}"
            )
        assert 0 <= row.get("own_certificate_id", 0) <= 1e-6
        assert ("own_certificate_ood" in row) == isinstance(
            method.encoder, Lasso | FISTA
        )
    assert not stored and store.folder.folders() == ["models", "rows"]
    codes = sparse_code(task.ood.signals, task.dictionary, 0.1)
    # Of that of one sample alone it is twice as much or more.
    worst = approx(float(np.max(codes.gap / codes.objective)), rel=0.5, abs=0)
    assert rows[-2]["own_certificate_ood"] == worst


def objective(task, model, codes, lam, split):
    """Mean over a split of ½‖y - b - D z‖² + λ‖z‖₁ on unit atoms, by hand."""
    dictionary = asarray(model.dictionary, np.float64)
    codes = asarray(codes)
    residual = getattr(task, split).signals - asarray(model.bias) - codes @ dictionary.T
    weights = np.abs(codes) @ norm(dictionary, axis=0)
    return float(np.mean(0.5 * np.sum(residual**2, axis=1) + lam * weights))


def test_the_gap_is_at_the_weight_that_the_codes_minimise_at_and_at_the_step_of_the_row(
    tmp_path, task
):
    pursuit = SparseAutoencoder(MatchingPursuit(3), num_steps=1)
    methods = [
        Method("frozen", "frozen", SAE, Lasso(0.2)),
        Method("refined", "refined", SAE, Lasso(0.05, start=TopK(3))),
        Method("few", "frozen", SAE, FISTA(0.3, iterations=3)),
        Method("mp", "sae", pursuit, MatchingPursuit(3)),
        Method("sae", "sae", SAE, TopK(3), at=(0, 1, 2)),
    ]
    rows = run(make(SETTING, methods=methods, metrics=(gap.METRIC,)), Store(tmp_path))
    ends = [(None, 2, 0.2), (None, 2, 0.05), (None, 2, 0.3), (None, 1, 0.1)]
    assert [(row.get("step"), row["fit_steps"], row["lam"]) for row in rows] == [
        *ends,
        *((step, step, 0.1) for step in (0, 1, 2)),
    ]
    methods = {method.name: method for method in methods}
    signed = {"mp": "signed"}
    for row in rows:
        method = methods[row["method"]]
        lam = row["lam"]
        (outcome,) = Models().fit(method.learner, [SETTING], [task], (0, 1))
        model = outcome.at(row.get("step")).model
        assert row["reference"] == signed.get(method.name, "non-negative")
        for split in ("id", "ood"):
            signals = getattr(task, split).signals
            achieved = row[f"objective_{split}"]
            best = Lasso(lam, tol=1e-7, nonneg=method.name != "mp")(model, signals)
            for codes, value in (
                (method.encoder(model, signals), achieved),
                (best, achieved - row[f"gap_{split}"]),
            ):
                expected = objective(task, model, codes, lam, split)
                assert value == approx(expected, rel=1e-4)
            assert 0 <= row[f"certificate_{split}"] <= 1e-6
    seconds = [row["fit_seconds"] for row in rows[4:]]
    assert (
        seconds == sorted(seconds)
        and seconds[-1] == rows[0]["fit_seconds"] > seconds[1]
    )


class Reading(Encoder):
    """Says which rows it finds its parameters on."""

    def prepared(self, model, split, task):
        READ.append(asarray(split.signals))
        return self

    def __call__(self, model, signals):
        return signals @ model.dictionary


READ = []


def test_parameters_are_found_on_the_rows_that_a_study_names(
    tmp_path, task, monkeypatch
):
    monkeypatch.setattr(inference, "CALIBRATED", 3)
    method = Method("oracle", "oracle", Oracle(), Reading())
    few = task.train.signals[evenly_spaced(len(task.train.signals), 3)]
    for calibrate_on, rows in (("scored", task.id.signals), ("train", few)):
        READ.clear()
        options = {"metrics": (), "calibrate_on": calibrate_on}
        run(make(SETTING, methods=[method], lam=None, **options), Store(tmp_path))
        assert_allclose(READ[0], rows, atol=1e-6)


def test_each_model_is_fitted_and_encoded_once(tmp_path, task, monkeypatch):
    based = replace(SAE, base=SAE)
    calls = Counter()
    fits = []
    inner = Inference.code
    fit = models.fit

    def counting(self, encoder, *rest):
        calls[type(encoder).__name__] += 1
        return inner(self, encoder, *rest)

    def fitting(learner, tasks, keys, **options):
        fits.append((learner, len(tasks)))
        return fit(learner, tasks, keys, **options)

    monkeypatch.setattr(Inference, "code", counting)
    monkeypatch.setattr(models, "fit", fitting)
    methods = (
        *METHODS[1:3],
        Method("again", "sae", SAE, TopK(3), {"depth": 1}),
        Method("warm", "sae", SAE, Lasso(start=TopK(3))),
        Method("based", "sae", based, TopK(3)),
    )
    kept = Models(tmp_path / "models")
    options = {"metrics": (gap.METRIC,), "seconds": False}
    rows = run(make(methods=methods, **options), Store(tmp_path / "store"), models=kept)
    # Of two seeds; the lasso from zero is the reference of all on a model, on two splits, and the
    # warm one is another.
    assert calls == {"TopK": 12, "Lasso": 16}
    assert fits == [(SAE, 2), (based, 2)] and len(kept.directory.folders()) == 4
    (found,) = kept.fit(based, [SETTING], [task])
    assert rows[-2]["fit_seconds"] == found.end.seconds + rows[0]["fit_seconds"]


@mark.parametrize("name", ["mse_id", "seed"])
def test_a_metric_overwrites_nothing(tmp_path, name):
    metrics = (*default_metrics(), Metric("mine", lambda inferred: {name: 7.0}))
    with raises(ValueError, match=f"'mine' gives '{name}'"):
        run(make(SETTING, methods=METHODS[3:], metrics=metrics), Store(tmp_path))
    assert not (tmp_path / "rows").exists()


def test_a_metric_that_fails_costs_its_own_columns_unless_a_study_asks_for_it(
    tmp_path, caplog
):
    broken = ["oracle"]
    calls = []

    def measure(inferred):
        calls.append(inferred.learner.name)
        if inferred.learner.name in broken:
            raise ZeroDivisionError("out of luck")
        return {"mine": 1.0}

    mine = Metric("mine", measure)
    other = Metric("other", lambda _: {"b": 2.0})
    for value in (None, None, 1.0):
        broken[:] = ["oracle"] if value is None else []
        rows = run(
            make(SETTING, methods=METHODS[::3], metrics=(mine, other)), Store(tmp_path)
        )
        assert [(row.get("mine"), row["b"]) for row in rows] == [
            (1.0, 2.0),
            (value, 2.0),
        ]
    assert (
        caplog.text.count(
            "mine of the codes of lasso on oracle failed, and is left out"
        )
        == 2
    )
    assert calls == ["linear_probe", *["oracle"] * 3]
    broken[:] = ["oracle"]
    asked = replace(mine, version=2, everywhere=False)
    with raises(ZeroDivisionError, match="out of luck"):
        run(make(SETTING, methods=METHODS[3:], metrics=(asked,)), Store(tmp_path))


def fail(*_, **__):
    raise AssertionError("nothing is left to do")


# What a model without a dictionary lacks, no optimum brings.
NEEDY = Metric(
    "needy",
    lambda _: {"needy": 1.0},
    needs=lambda found: "a dictionary" if found.model.dictionary is None else None,
)


@mark.parametrize("metrics", [(), (gap.METRIC,), (gap.METRIC, recovery.METRIC, NEEDY)])
def test_what_a_study_did_not_ask_for_is_added_where_another_does(
    tmp_path, monkeypatch, metrics
):
    measure = scoring._measure
    measured = []

    def counted(study, line, inference, lacking):
        measured.append((line.method.name, *(metric.name for metric in lacking)))
        return measure(study, line, inference, lacking)

    monkeypatch.setattr(scoring, "_measure", counted)
    # The probe has no dictionary, and so no optimum to ask for.
    options = {"methods": METHODS[:2], "metrics": metrics}
    names = [metric.name for metric in metrics]
    whole = run(make(SETTING, **options), Store(tmp_path / "whole"))
    gaps = ["sae"] if "gap" in names else []
    for number, without in enumerate(itertools.product((False, True), repeat=2)):
        few = make(
            SETTING,
            **options,
            **dict(zip(("optimum", "seconds"), without, strict=True)),
        )
        store = Store(tmp_path / str(number))
        for study, timed in (
            (few, without[1]),
            (make(SETTING, **options), True),
            (few, True),
        ):
            rows = run(study, store)
            again = run(study, store)
            assert rows == again and len(rows) == 2
            assert ["encode_seconds" in row for row in rows] == [timed] * 2
            if study is few and not timed:
                assert ["gap_id" in row for row in rows] == [
                    False,
                    bool(gaps) and without[0],
                ]
        assert timeless(rows, "reference") == timeless(whole, "reference")
        # Each metric once, and what only times codes beside none.
        added = ["gap"] * (bool(gaps) and not without[0])
        sae = [("sae", *names)] + [("sae", *added)] * (without != (True, True))
        probe = [("linear_probe", *names)] + [("linear_probe",)] * (not without[1])
        if not added and without[1]:
            sae = sae[:1]
        assert sorted(measured[2:]) == sorted(probe + sae)
        del measured[2:]


def test_rows_of_another_study_are_refused(finished):
    with raises(ValueError, match="rows of the study 'tiny', where 'other'"):
        run(replace(make(), name="other"), finished[1])


def test_shards_partition_the_jobs(tmp_path, monkeypatch):
    run_of = []
    monkeypatch.setattr(
        runner._Group, "run", lambda group: run_of.extend(map(str, group.jobs))
    )
    for index in range(4):
        run(make(), Store(tmp_path), (index, 4))
    assert run_of == [*map(str, jobs(make()))]
    for shard in ((2, 2), (-1, 2), (0, 0), (True, 2)):
        with raises(ValueError, match=r"shard must be .* 0 <= index < count"):
            run(make(), Store(tmp_path), shard)


@mark.parametrize("seed", range(2))
def test_rows_are_the_same_whatever_was_killed_when(tmp_path, monkeypatch, seed):
    """Shards die before or after any of their writes, and go on in any order: no row is lost, and
    none that is there is measured again.
    """
    longer = replace(SAE, base=SAE, num_steps=3)
    study = make(methods=(*METHODS, Method("later", "sae", longer, TopK(3), at=(1, 3))))
    whole = run(study, Store(tmp_path / "whole"))
    rng = random.Random(seed)
    left = [0]
    measured = []
    deaths = 0
    write = Folder.write
    measure = scoring._measure

    def age():
        left[0] -= 1
        if left[0] <= 0:
            raise KilledError

    def mortal(self, name, content):
        age()
        write(self, name, content)
        age()

    def counted(study, line, *rest):
        measured.append(line.key)
        return measure(study, line, *rest)

    monkeypatch.setattr(Folder, "write", mortal)
    monkeypatch.setattr(scoring, "_measure", counted)
    # After every step.
    monkeypatch.setitem(Checkpoint.__init__.__kwdefaults__, "every", 0)
    store = Store(tmp_path / "killed")
    there = set()
    while len(there) < len(whole):
        measured.clear()
        left[0] = rng.randrange(2, 60)
        try:
            run(study, store, rng.choice([None, (0, 2), (1, 2), (2, 3)]))
        except KilledError:
            deaths += 1
        before = there
        there = {row["key"] for row in Store(store.folder).rows()}
        assert (
            before <= there
            and not before & {*measured}
            and len({*measured}) == len(measured)
        )
    left[0] = 1
    assert timeless(run(study, Store(store.folder))) == timeless(whole) and deaths > 1
    assert not [*(tmp_path / "killed").rglob("state*")]


def test_rows_come_in_the_order_of_their_sizes_methods_and_what_these_vary(tmp_path):
    def few(lam, count):
        encoder = FISTA(lam, iterations=count)
        return Method("b", "oracle", Oracle(), encoder, {"weight": lam})

    methods = [
        few(0.2, 1),
        few(0.1, 2),
        few(0.1, 1),
        Method("a", "sae", SAE, Linear(), at=(2, 0)),
    ]
    cells = {"num_samples": 202, "noise_db": 5.0, "seed": 1}
    sources = [*(replace(SETTING, **{name: cells[name]}) for name in cells), SETTING]
    rows = run(make(*sources, methods=methods, metrics=()), Store(tmp_path))
    columns = ("num_samples", "noise_db", "method", "lam", "iterations", "step", "seed")
    lines = [("b", lam, count, None) for lam, count in ((0.1, 1), (0.1, 2), (0.2, 1))]
    lines += [("a", 0.1, None, step) for step in (0, 2)]
    assert [tuple(map(row.get, columns)) for row in rows] == [
        (*cell, *line, seed)
        for cell, seeds in (
            ((200, None), (0, 1)),
            ((200, 5.0), (0,)),
            ((202, None), (0,)),
        )
        for line in lines
        for seed in seeds
    ]


NEED_TRUTH = (
    "mcc",
    "cosine",
    "close",
    "angle",
    "norm_ratio",
    "support",
    "accuracy",
    "auc",
)
# Of a stream the codes of training samples are unknown.
LACKING = {
    "Y": (
        NAMES[1:3],
        NEED_TRUTH,
        {"mse_id", "mse_ood", "l0_above_id", "relative_gap_ood"},
    ),
    "YZ": (NAMES[:3], ("cosine",), {"mcc_id"}),
    "YA": (NAMES[1:], ("mcc_id",), {"cosine"}),
    "stream": (
        NAMES[1:],
        ("auc",),
        {"mcc_id", "cosine", "support_f1_ood", "relative_gap_id"},
    ),
}


@mark.parametrize("kept", LACKING)
def test_what_the_truth_lacks_leaves_methods_and_metrics_out(
    tmp_path, arrays, caplog, kept
):
    def splits(inferred):
        assert inferred.lam == 0.1 and inferred.protocol == "strict"
        return {"seen": [*inferred.codes], "optima": [*inferred.optimum]}

    methods, absent, present = LACKING[kept]
    source = Setting(20, 3, 200, stream=True)
    if kept != "stream":
        given = {name: array for name, array in arrays.items() if name[0] in kept}
        np.savez(tmp_path / "some.npz", **given)
        source = Recording(tmp_path / "some.npz", width=20, sparsity=3)
    metrics = (*default_metrics(), Metric("splits", splits))
    rows = run(make(source, metrics=metrics), Store(tmp_path / "store"))
    assert [row["method"] for row in rows] == methods and present <= rows[-1].keys()
    assert not [name for row in rows for name in row if name.startswith(absent)]
    assert {*rows[-1]["seen"]} - {"train"} == {*rows[-1]["optima"]} == {"id", "ood"}
    assert ("train" in rows[-1]["seen"]) == ("Z" in kept)
    left_out = "left out linear_probe: the data lack the true codes" in caplog.text
    assert left_out == (NAMES[0] not in methods)


def test_a_diverged_model_is_a_row_and_not_a_crash(tmp_path, monkeypatch):
    hot = replace(SAE, learning_rate=1e30)
    metrics = default_metrics()
    methods = [
        Method("sae", "sae", hot, TopK(3)),
        Method("frozen", "frozen", hot, Lasso()),
    ]
    for more in ((), (Metric("more", lambda _: {}),)):
        study = make(SETTING, methods=methods, metrics=(*metrics, *more))
        rows = run(study, Store(tmp_path))
        assert [row["diverged"] for row in rows] == [True] * 2 and "mcc_id" not in rows[
            0
        ]
        # Nor is it measured again.
        monkeypatch.setattr(runner, "score", fail)
