"""A study as data: one row a result, each learner fitted once, and any sequence of kills and shards ends in the same rows."""

import collections
import dataclasses
import json
import signal
import time

import jax
import numpy as np
import pytest

from sae_gap import Method, Recording, Setting, Store, Study, data, results, run, study
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.linear import Linear
from sae_gap.encoders.topk import TopK
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.probe import LinearProbe
from sae_gap.learners.sae import SparseAutoencoder
from sae_gap.metrics import METRICS

SAE = SparseAutoencoder(encoder=TopK(3), num_steps=2)
METHODS = (
    Method("linear_probe", "probe", LinearProbe(), Linear()),
    Method("sae", "sae", SAE, TopK(3)),
    Method("frozen", "frozen", SAE, Lasso()),
    Method("oracle", "oracle", Oracle(), Lasso()),
)
NAMES = [method.name for method in METHODS]


def make(*sources, methods=METHODS, **options):
    return Study("tiny", sources or (Setting(20, 3, 200), Setting(20, 3, 200, seed=1)), lambda _: methods, **options)


def timeless(rows):
    """Rows without what no two runs share."""
    return [{name: value for name, value in row.items() if not name.endswith("_seconds")} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("finished"))
    return run(make(), store), store


@pytest.fixture(scope="module")
def tasks():
    return [data.draw(Setting(20, 3, 200, seed=seed)) for seed in (0, 1)]


def test_a_row_for_each_method_and_seed_in_order(finished):
    rows, store = finished
    assert [(row["method"], row["seed"]) for row in rows] == [(name, seed) for name in NAMES for seed in (0, 1)]
    assert {row["key"]: row for row in store.rows()} == {row["key"]: row for row in rows}
    assert len({row["key"] for row in rows}) == 8


def test_a_row_says_what_it_is_of(finished):
    rows, _ = finished
    said = {"study": "tiny", "protocol": "strict", "lam": 0.1} | Setting(20, 3, 200).asdict()
    for row in rows:
        assert said.items() <= (row | {"seed": 0}).items()
        assert {"python", "jax", "numpy", "revision", "machine", "device"} <= row.keys()
        assert row["encode_seconds"] > 0 and row["fit_seconds"] > 0 and row["compile_seconds"] > 0
        assert row["fit_steps"] == (2 if row["method"] in ("sae", "frozen") else 0)
    assert [row["family"] for row in rows[::2]] == [method.family for method in METHODS]


def test_a_row_measures_its_own_method(finished, tasks):
    rows, _ = finished
    fitted = study.fit_seeds(SAE, tasks)
    for seed, (task, model) in enumerate(zip(tasks, fitted.models, strict=True)):
        for name, encoder in {"sae": TopK(3), "frozen": Lasso()}.items():
            (row,) = (row for row in rows if (row["method"], row["seed"]) == (name, seed))
            for split in ("id", "ood"):
                signals = getattr(task, split).signals
                codes = np.asarray(encoder(model, signals))
                error = np.mean((np.asarray(signals) - codes @ np.asarray(model.dictionary).T - np.asarray(model.bias)) ** 2)
                assert row[f"mse_{split}"] == pytest.approx(error, rel=1e-4)
                assert row[f"l0_{split}"] == pytest.approx((np.abs(codes) > 0.01).sum(axis=1).mean())


def test_the_gap_is_measured_from_the_optimum_on_the_same_dictionary(finished):
    rows, _ = finished
    gaps = collections.defaultdict(list)
    for row in rows:
        gaps[row["method"]].append(row.get("relative_gap_id"))
        assert "certificate_id" not in row or 0 <= row["certificate_id"] <= 1e-6
    assert gaps["linear_probe"] == [None, None]
    assert min(gaps["sae"]) > 0.01
    np.testing.assert_allclose(gaps["frozen"] + gaps["oracle"], 0, atol=2e-6)


def test_metrics_are_the_studys(tmp_path):
    def third(inferred):
        assert inferred.lam == 0.1 and inferred.protocol == "strict"
        return {"seen": sorted(inferred.codes), "optima": sorted(inferred.optimum)}

    oracle = METHODS[3:]
    rows = run(make(Setting(20, 3, 200), methods=oracle, metrics=(third,)), Store(tmp_path))
    assert rows[0]["seen"] == ["id", "ood", "train"] and rows[0]["optima"] == ["id", "ood"] and "mse_id" not in rows[0]


def test_a_stream_is_scored_on_held_out_samples_alone(tmp_path, caplog):
    def splits(inferred):
        return {"seen": sorted(inferred.codes)}

    rows = run(make(Setting(20, 3, 200, stream=True), metrics=(*METRICS, splits)), Store(tmp_path))
    assert [row["method"] for row in rows] == ["sae", "frozen", "oracle"]
    assert "left out linear_probe: the data lack the true codes of the training split" in caplog.text
    for row in rows:
        assert row["seen"] == ["id", "ood"] and row["stream"] is True and row["num_samples"] == 200
        assert {"mcc_id", "mcc_ood", "cosine", "support_f1_ood", "relative_gap_id"} <= row.keys() and "auc_id" not in row


def test_a_learner_is_fitted_once_for_all_seeds_and_methods(tmp_path, monkeypatch):
    fitted = []

    def counting(learner, tasks, keys, **options):
        fitted.append((type(learner).__name__, len(tasks)))
        return fit(learner, tasks, keys, **options)

    fit = study.fit
    monkeypatch.setattr(study, "fit", counting)
    rows = run(make(), Store(tmp_path))
    assert fitted == [("LinearProbe", 2), ("SparseAutoencoder", 2), ("Oracle", 2)]
    assert len({row["job"] for row in rows}) == 3
    assert all(row["job_rows"] == (4 if row["method"] in ("sae", "frozen") else 2) for row in rows)


def test_two_runs_agree(finished, tmp_path):
    assert timeless(run(make(), Store(tmp_path))) == timeless(finished[0])


def test_seeds_have_keys_of_their_own(tasks):
    assert not np.array_equal(*(model.dictionary for model in study.fit_seeds(SAE, tasks).models))
    same = [tasks[0], dataclasses.replace(tasks[0], seed=1)]
    assert not np.array_equal(*(model.dictionary for model in study.fit_seeds(SAE, same).models))


def fail(*_, **__):
    raise AssertionError("nothing is left to fit")


def test_a_second_run_adds_nothing_and_fits_nothing(finished, monkeypatch):
    rows, store = finished
    content = store.path.read_bytes()
    monkeypatch.setattr(study, "fit", fail)
    assert run(make(), Store(store.directory)) == rows
    assert store.path.read_bytes() == content


def keys_of(a_study):
    return {key for job in study._jobs(a_study) for key in job.keys.values()}


@pytest.mark.parametrize(
    "other",
    [
        make(lam=0.2),
        make(protocol="paper"),
        make(Setting(20, 3, 200, seed=2)),
        make(Setting(20, 3, 202)),
        make(Setting(20, 3, 200, noise_db=20.0)),
        make(Setting(20, 3, 200, input_dim=13)),
        make(Setting(20, 3, 200, stream=True)),
        make(methods=[Method("sae", "sae", SparseAutoencoder(encoder=TopK(3), num_steps=3), TopK(3))]),
        make(methods=[Method("sae", "sae", SparseAutoencoder(encoder=TopK(3), num_steps=2, learning_rate=1e-3), TopK(3))]),
        make(methods=[Method("frozen", "frozen", SAE, Lasso(0.2))]),
        make(methods=[Method("frozen", "frozen", SAE, Lasso(start=TopK(3)))]),
        make(methods=[Method("frozen", "frozen", SAE, Lasso(nonneg=False))]),
        dataclasses.replace(make(), name="other"),
    ],
)
def test_whatever_changes_a_result_changes_its_key(other):
    assert not keys_of(other) & keys_of(make())


def test_what_else_is_run_does_not_change_a_key():
    assert keys_of(make(Setting(20, 3, 200), methods=METHODS[1:2])) < keys_of(make())
    assert keys_of(make(Setting(20, 3, 200, seed=1), Setting(30, 3, 200))) & keys_of(make())


def test_a_new_metric_asks_for_new_rows():
    assert not keys_of(make(metrics=METRICS[:-1])) & keys_of(make())


def test_a_new_meaning_of_rows_changes_every_key(monkeypatch):
    before = keys_of(make())
    monkeypatch.setattr(study, "SCHEMA", study.SCHEMA + 1)
    assert not keys_of(make()) & before


def test_more_seeds_are_added_to_those_there(finished, tmp_path):
    probe = METHODS[:1]
    store = Store(tmp_path)
    first = run(make(Setting(20, 3, 200, seed=1), methods=probe), store)
    both = run(make(methods=probe), store)
    assert [row["seed"] for row in both] == [0, 1] and both[1] == first[0]
    assert timeless(both)[0]["mcc_id"] == finished[0][0]["mcc_id"]


@pytest.mark.parametrize("keep", ["nothing", "a torn line", "a torn job", "a job and a half"])
def test_a_torn_store_is_completed(finished, tmp_path, keep):
    rows, store = finished
    lines = store.path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 8
    kept = {
        "nothing": b"",
        "a torn line": lines[0][:50],
        "a torn job": b"".join(lines[:1]),
        "a job and a half": b"".join(lines[:4]) + lines[4][:-1],
    }
    (tmp_path / "rows.jsonl").write_bytes(kept[keep])
    found = run(make(), Store(tmp_path))
    assert timeless(found) == timeless(rows)
    whole = 2 if keep == "a job and a half" else 0
    assert [row["encode_seconds"] == other["encode_seconds"] for row, other in zip(found, rows, strict=True)].count(
        True
    ) == whole


def test_shards_partition_the_whole(finished, tmp_path):
    rows, _ = finished
    written, last = [], []
    for index in range(3):
        store = Store(tmp_path, (index, 3))
        last = run(make(), store, (index, 3))
        written.append([json.loads(line)["key"] for line in store.path.read_text().splitlines()])
    assert all(written) and sorted(key for shard in written for key in shard) == sorted(row["key"] for row in rows)
    without_blocks = [{name: value for name, value in row.items() if name != "job_rows"} for row in timeless(last)]
    assert without_blocks == [{name: value for name, value in row.items() if name != "job_rows"} for row in timeless(rows)]


def test_a_shard_beyond_the_jobs_does_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "fit", fail)
    assert run(make(), Store(tmp_path, (5, 6)), (5, 6)) == []


def test_a_run_goes_on_with_another_number_of_shards(finished, tmp_path, monkeypatch):
    first = run(make(methods=METHODS[:1]), Store(tmp_path, (0, 2)), (0, 2))
    found = run(make(methods=METHODS[:1] + METHODS[3:]), Store(tmp_path))
    assert timeless(first) == timeless(found[:2]) and [row["encode_seconds"] for row in found[:2]] == [
        row["encode_seconds"] for row in first
    ]
    assert [row["method"] for row in found] == ["linear_probe"] * 2 + ["oracle"] * 2


def test_cells_of_a_grid_come_in_order(tmp_path):
    cells = [Setting(20, 3, 300), Setting(20, 3, 200), Setting(20, 2, 200, input_dim=12)]
    rows = run(make(*cells, methods=METHODS[:1]), Store(tmp_path))
    assert [(row["sparsity"], row["num_samples"]) for row in rows] == [(2, 200), (3, 200), (3, 300)]


@pytest.fixture
def recording(tmp_path, arrays):
    np.savez(tmp_path / "with_truth.npz", **arrays)
    return Recording(tmp_path / "with_truth.npz", sparsity=3)


def test_a_recording_of_a_setting_has_its_results(finished, tmp_path, recording):
    rows = run(make(recording), Store(tmp_path / "store"))
    expected = [row for row in finished[0] if row["seed"] == 0]
    told_apart = {"key", "job", "job_rows", "data", "noise_db"}
    for row, other in zip(timeless(rows), timeless(expected), strict=True):
        assert {k: v for k, v in row.items() if k not in told_apart} == {k: v for k, v in other.items() if k not in told_apart}
    assert not {row["key"] for row in rows} & {row["key"] for row in expected}


def test_a_recording_is_known_by_its_content(tmp_path, recording, arrays):
    before = keys_of(make(recording))
    moved = Recording(recording.path.rename(tmp_path / "moved.npz"), sparsity=3)
    assert keys_of(make(moved)) == before
    np.savez(moved.path, **arrays | {"Y_val": arrays["Y_val"] + 1})
    assert not keys_of(make(moved)) & before


NEED_TRUTH = ("mcc", "cosine", "close", "angle", "norm_ratio", "support", "accuracy", "auc")


def test_without_truth_what_needs_it_is_left_out(tmp_path, arrays, caplog):
    np.savez(tmp_path / "bare.npz", **{name: array for name, array in arrays.items() if name.startswith("Y")})
    source = Recording(tmp_path / "bare.npz", num_latents=20, sparsity=3)
    rows = run(make(source), Store(tmp_path / "store"))
    assert [row["method"] for row in rows] == ["sae", "frozen"]
    for row in rows:
        assert not [name for name in row if name.startswith(NEED_TRUTH)]
        assert {"mse_id", "mse_ood", "l0_id", "gap_id", "relative_gap_ood", "certificate_id"} <= row.keys()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        "left out linear_probe: the data lack the true codes of the training split",
        "left out oracle: the data lack the true dictionary",
    ]


@pytest.mark.parametrize(("kept", "methods", "absent"), [("Z", NAMES[:3], "cosine"), ("A", NAMES[1:], "mcc_id")])
def test_half_of_the_truth_gives_half_of_the_metrics(tmp_path, arrays, kept, methods, absent):
    np.savez(tmp_path / "half.npz", **{name: array for name, array in arrays.items() if name[0] in ("Y", kept)})
    rows = run(make(Recording(tmp_path / "half.npz", sparsity=3)), Store(tmp_path / "store"))
    assert [row["method"] for row in rows] == methods
    assert not any(absent in row for row in rows)
    assert ({"mcc_id", "cosine"} - {absent}) <= rows[-1].keys()


# Whole jobs, so that their rows are those of a run of every method.
KILLED = ("linear_probe", "sae_topk", "frozen_topk", "refined_topk", "fista_oracle")


def test_a_killed_run_ends_with_the_rows_of_one_left_alone(tmp_path, smoke, start):
    whole = {row["key"]: row for row in timeless(smoke.rows) if row["method"] in KILLED}
    flags = ["--preset=smoke", f"--methods={','.join(KILLED)}", f"--results_dir={tmp_path}"]
    path = tmp_path / "amortisation_gap" / "rows.jsonl"
    for wanted in (1, 3):
        process = start(*flags)
        while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < wanted):
            time.sleep(0.005)
        process.kill()
        _, logged = process.communicate()
        assert process.returncode == -signal.SIGKILL, logged
        assert path.read_bytes().count(b"\n") < len(whole)
        # What a machine that loses power may leave of a block.
        with path.open("ab") as file:
            file.write(b'{"key": "torn')
    process = start(*flags)
    _, logged = process.communicate()
    assert process.returncode == 0, logged
    found = Store(path.parent).rows()
    assert len(found) == len(whole) == 10
    assert {row["key"]: row for row in timeless(found)} == whole


def test_keys_are_the_same_in_every_process():
    described = study._identity(make(), Setting(20, 3, 200).asdict(), METHODS[2])
    assert json.loads(json.dumps(described)) == described
    assert results.key(described) in keys_of(make())
    assert jax.tree.leaves(described["encoder"]) and described["encoder"]["class"] == "sae_gap.encoders.lasso.Lasso"


def test_a_diverged_model_is_a_row_and_not_a_crash(tmp_path):
    hot = dataclasses.replace(SAE, learning_rate=1e30)
    methods = (Method("sae", "sae", hot, TopK(3)), Method("frozen", "frozen", hot, Lasso()), METHODS[3])
    rows = run(make(Setting(20, 3, 200), methods=methods), Store(tmp_path))
    assert [row.get("diverged") for row in rows] == [True, True, None]
    assert "mcc_id" in rows[2] and "mcc_id" not in rows[0]


def test_the_sign_of_the_reference_is_the_encoders_and_not_the_datas(finished):
    rows, _ = finished
    assert {row["method"]: row.get("reference") for row in rows} == {
        "linear_probe": None,
        "sae": "non-negative",
        "frozen": "non-negative",
        "oracle": "non-negative",
    }


def test_what_a_solver_certifies_of_its_own_codes_is_in_the_row(finished):
    rows, _ = finished
    for row in rows:
        assert (0 <= row.get("own_certificate_id", 0) <= 1e-6) and ("own_certificate_ood" in row) == (
            row["family"] in ("frozen", "oracle")
        )
        assert row.get("unconverged_id", 0) == 0


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"protocol": "Paper"}, "protocol must be one of strict, paper"),
        ({"lam": -1.0}, "lam must be"),
        ({"methods": METHODS[:1] * 2}, "methods must have different names"),
    ],
)
def test_a_study_is_checked_at_its_boundary(options, fault):
    with pytest.raises(ValueError, match=fault):
        make(**options)


def test_sources_must_differ_and_encoders_be_encoders():
    with pytest.raises(ValueError, match="sources must be different"):
        make(Setting(20, 3, 200), Setting(20, 3, 200))
    with pytest.raises(ValueError, match="must have a Learner and an Encoder"):
        Method("mine", "sae", SAE, lambda model, signals: signals)


def test_one_compilation_serves_every_weight_and_every_sae(tmp_path):
    tasks = [data.draw(Setting(20, 3, 200))]
    model = study.fit_seeds(SAE, tasks).models[0]
    Lasso(0.1).infer(model, tasks[0].id.signals)
    counted = []
    jax.monitoring.register_event_duration_secs_listener(lambda name, *_, **__: counted.append(name))
    try:
        for lam in (0.2, 0.3):
            Lasso(lam).infer(dataclasses.replace(model, encode=None), tasks[0].id.signals)
    finally:
        jax.monitoring.clear_event_listeners()
    assert [name for name in counted if "backend_compile" in name] == []
