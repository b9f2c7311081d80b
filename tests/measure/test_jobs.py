"""The whole measurement on a small world: its rows against an independent computation, and that it goes on where it was."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso as SklearnLasso

from sae_gap import Store, measure
from sae_gap.core.types import Model
from sae_gap.data.activations import open_activations
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.topk import TopK
from sae_gap.measure import jobs as module

LAM = 0.25


@pytest.fixture(scope="module")
def model(task):
    rng = np.random.default_rng(0)
    atoms = np.asarray(task.dictionary) + 0.2 * rng.normal(size=task.dictionary.shape)
    bias = jnp.asarray(0.3 * rng.normal(size=len(atoms)), jnp.float32)
    weight = Affine(jnp.asarray(0.13 * atoms, jnp.float32), jnp.zeros(atoms.shape[1]))
    return Model(jnp.asarray(2 * atoms, jnp.float32), bias, weight, TopK(2))


@pytest.fixture(scope="module")
def activations(task, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("activations") / "x.npz"
    x = np.concatenate([task.train.signals, task.id.signals, task.ood.signals]) + np.asarray(model.bias)
    np.savez(path, activations=x.astype(np.float32), documents=np.repeat(np.arange(30), 10))
    return open_activations(path)


@pytest.fixture(scope="module")
def plan(model, activations):
    return measure.Plan([measure.of_model("mine", model)], activations, lam=LAM)


@pytest.fixture(scope="module")
def rows(plan, tmp_path_factory):
    return measure.run(plan, Store(tmp_path_factory.mktemp("rows")))


def kinds(rows):
    return [row["kind"] for row in rows]


def test_the_gap_is_that_of_scikit_learn_over_all_samples(rows, model, activations):
    x = np.asarray(activations.take(np.arange(300)), float)
    dictionary, target = np.asarray(model.dictionary, float), x - np.asarray(model.bias, float)
    unit, norms = dictionary / np.linalg.norm(dictionary, axis=0), np.linalg.norm(dictionary, axis=0)
    codes = np.asarray(model.encode(model, jnp.asarray(x, jnp.float32)), float) * norms
    peer = SklearnLasso(alpha=LAM / len(unit), positive=True, fit_intercept=False, tol=1e-12, max_iter=100_000)
    best = np.array([peer.fit(unit, y).coef_ for y in target])

    def objective(z):
        return 0.5 * np.square(target - z @ unit.T).sum(axis=1) + LAM * z.sum(axis=1)

    (line,) = measure.gap_lines(rows)
    gaps, variance = objective(codes) - objective(best), np.square(x - x.mean(axis=0)).sum()
    assert line["samples"] == 300 and line["lam"] == LAM
    assert line["gap"] == pytest.approx(gaps.mean(), rel=1e-4)
    assert line["relative_gap"] == pytest.approx(gaps.mean() / objective(best).mean(), rel=1e-4)
    shares = (line["scale_share"], line["values_share"], line["support_share"])
    assert sum(shares) == pytest.approx(line["relative_gap"]) and min(shares) > 0
    assert line["l0"] == (codes > 0).sum() / 300 and line["optimum_l0"] == pytest.approx((best > 0).sum() / 300)
    assert line["fvu"] == pytest.approx(np.square(target - codes @ unit.T).sum() / variance, rel=1e-4)
    assert line["optimum_fvu"] == pytest.approx(np.square(target - best @ unit.T).sum() / variance, rel=1e-3)
    fired, used = (codes > 0).any(axis=0), (best > 0).any(axis=0)
    assert (line["fired_only"], line["used_only"]) == ((fired & ~used).sum(), (used & ~fired).sum())
    assert line["unused"] == (~fired & ~used).sum() and line["certificate"] <= 1.1e-6 and line["unconverged"] == 0
    both = ((codes > 0) & (best > 0)).sum(axis=1)
    assert line["jaccard"] == pytest.approx((both / ((codes > 0) | (best > 0)).sum(axis=1)).mean())
    worst = measure.worst_lines(rows, most=4)
    order = np.argsort(-gaps)[:4]
    assert [one["index"] for one in worst] == list(order) and [one["document"] for one in worst] == list(order // 10)
    assert [one["gap"] for one in worst] == pytest.approx(gaps[order], rel=1e-4)
    assert [one["relative_gap"] for one in worst] == pytest.approx((gaps / objective(best))[order], rel=1e-4)


def test_the_front_is_about_whole_documents_held_out(rows, plan):
    _, held = plan.activations.split(seed=0)
    x = held.take(np.arange(held.num_samples))
    expected = measure.measure_front(plan.subjects[0], x, [LAM * share for share in (2, 1.4, 1, 0.7, 0.5)])
    points = [row for row in rows if row["kind"] == "front" and row["codes"] == "lasso"]
    assert [row["fvu"] for row in points] == pytest.approx([point.fvu for point in expected.points], rel=1e-5)
    (line,) = measure.front_lines(rows)
    assert (line["fvu"], line["refit_fvu"]) == pytest.approx((expected.own.fvu, expected.own.refit_fvu), rel=1e-5)
    fitted = [(point.refit_l0, point.refit_fvu) for point in expected.points]
    assert line["fvu_ratio"] == pytest.approx(measure.distances(fitted, line["l0"], line["fvu"]).fvu_ratio, rel=1e-4)
    assert line["samples"] == held.num_samples and line["fvu_ratio"] > 1


def test_the_gap_of_an_sae_trained_on_the_others_is_over_held_out_documents_alone(plan, model, activations, tmp_path):
    store = Store(tmp_path)
    found = measure.run(dataclasses.replace(plan, held_out=True), store)
    _, held = activations.split(seed=0)
    x = held.take(np.arange(held.num_samples))
    (line,) = measure.gap_lines(found)
    codes = model.encode(model, jnp.asarray(x))
    rest = x - np.asarray(codes @ model.dictionary.T + model.bias)
    assert line["samples"] == held.num_samples < activations.num_samples
    assert line["fvu"] == pytest.approx(np.square(rest).sum() / np.square(x - x.mean(axis=0)).sum(), rel=1e-4)
    assert {one["document"] for one in measure.worst_lines(found)} <= set(held.documents.tolist())
    # Over all samples it is another measurement, though its front is the same.
    (whole,) = measure.gap_lines(measure.run(plan, store))
    assert whole["samples"] == activations.num_samples and whole["fvu"] != line["fvu"]


def test_chunks_change_nothing(rows, plan, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CODES", 2_000)
    chunked = measure.run(plan, Store(tmp_path))
    assert kinds(chunked).count("gap") == 3 and kinds(rows).count("gap") == 1
    (one,), (whole,) = measure.gap_lines(chunked), measure.gap_lines(rows)
    assert {name: value for name, value in one.items() if name != "dictionary"} == pytest.approx(
        {name: value for name, value in whole.items() if name != "dictionary"}, rel=1e-4, abs=1e-6
    )
    assert [line["index"] for line in measure.worst_lines(chunked)] == [line["index"] for line in measure.worst_lines(rows)]


def test_a_run_that_was_stopped_goes_on_to_the_same_rows(plan, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CODES", 2_000)
    measured, measure_chunk = [], module.measure_chunk

    def stopping(*given, **told):
        if measured:
            raise KeyboardInterrupt
        measured.append(given)
        return measure_chunk(*given, **told)

    monkeypatch.setattr(module, "measure_chunk", stopping)
    with pytest.raises(KeyboardInterrupt):
        measure.run(plan, Store(tmp_path))
    before = Store(tmp_path).keys()
    assert len(before) == 7 + 1 + 1
    monkeypatch.setattr(module, "measure_chunk", measure_chunk)
    whole = measure.run(plan, Store(tmp_path))
    assert before < Store(tmp_path).keys() and kinds(whole).count("gap") == 3
    monkeypatch.setattr(module, "measure_chunk", None)
    assert measure.run(plan, Store(tmp_path)) == whole


def test_another_sae_other_activations_or_another_weight_are_measured_anew(plan, model, tmp_path):
    store = Store(tmp_path)
    measure.run(plan, store)
    count = len(store.rows())
    other = dataclasses.replace(model, encode=TopK(3))
    x = plan.activations.take(np.arange(300))
    np.save(tmp_path / "y.npy", 2 * x)
    np.savez(tmp_path / "other_documents.npz", activations=x, documents=np.repeat(np.arange(10), 30))
    for change in (
        {"activations": open_activations(tmp_path / "other_documents.npz")},
        {"activations": open_activations(tmp_path / "y.npy")},
        {"subjects": [measure.of_model("mine", other)]},
        {"lam": 2 * LAM},
        {"seed": 1},
    ):
        measure.run(dataclasses.replace(plan, **change), store)
        assert len(store.rows()) > count
        count = len(store.rows())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("one", "one")}, "called 'one'"),
        ({"names": ("random",), "controls": ["random"]}, "called 'random'"),
        ({"controls": ["pca"]}, "choose from"),
        ({"l0": 4.0}, "at most 3"),
        ({"lam": 1e3}, "lam is 1000, which is not below .* λ_max of the samples on 'mine'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(plan, model, tmp_path, change, message):
    names = change.pop("names", ("mine",))
    subjects = [measure.of_model(name, model) for name in names]
    with pytest.raises(ValueError, match=message):
        measure.run(dataclasses.replace(plan, subjects=subjects, **change), Store(tmp_path))
    assert not any(tmp_path.iterdir())


def test_a_sample_of_which_nothing_is_left_has_no_gap(model, activations, tmp_path):
    x = activations.take(np.arange(8))
    x[:3] = np.asarray(model.bias)
    np.savez(tmp_path / "x.npz", activations=x, documents=np.arange(8) // 2)
    plan = measure.Plan([measure.of_model("mine", model)], open_activations(tmp_path / "x.npz"), lam=LAM)
    found = measure.worst_lines(measure.run(plan, Store(tmp_path / "rows")))
    assert len(found) == 8 and [line["relative_gap"] for line in found if line["index"] < 3] == [0, 0, 0]


def test_the_weight_makes_the_best_codes_as_sparse_as_the_encoders(plan, tmp_path):
    found = measure.run(dataclasses.replace(plan, lam=None, max_samples=100), Store(tmp_path))
    (line,) = measure.gap_lines(found)
    (weight,) = (row for row in found if row["kind"] == "weight")
    assert line["samples"] == 100 and line["l0"] == 2 and weight["wanted_l0"] == 2
    assert abs(weight["l0"] - 2) < 0.1 and abs(line["optimum_l0"] - 2) < 0.4 and line["lam"] == weight["lam"]
    found = measure.run(dataclasses.replace(plan, lam=None, l0=1.0, max_samples=100), Store(tmp_path))
    assert abs(measure.gap_lines(found)[0]["optimum_l0"] - 1) < 0.3


def test_where_codes_are_never_as_many_as_wanted_half_of_them_are():
    """Signals of three orthonormal atoms each have no more codes than three, which a weight only takes from."""
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.standard_normal((8, 6)))[0]
    codes = rng.uniform(1, 2, (100, 6)) * (rng.random((100, 6)).argsort(axis=1) < 3)
    subject = measure.of_model("frame", Model(jnp.asarray(frame, jnp.float32), jnp.zeros(8)))
    found = module.find_weight(subject, jnp.asarray(codes @ frame.T, jnp.float32), 4.0)
    assert found["wanted_l0"] == 4 and found["l0"] == pytest.approx(2, rel=0.03)
    assert found["l0"] == pytest.approx((codes > found["lam"]).sum(axis=1).mean(), abs=0.02)


def test_a_decoder_alone_and_its_controls(model, activations, tmp_path):
    alone = measure.of_model("atoms", Model(model.dictionary, model.bias))
    plan = measure.Plan([alone], activations, l0=2.0, controls=("random", "samples"))
    found = measure.run(plan, Store(tmp_path))
    (line,) = measure.gap_lines(found)
    assert line["samples"] == 300 and "gap" not in line and line["optimum_fvu"] < 0.5 and measure.worst_lines(found) == []
    fronts = {line["dictionary"]: line for line in measure.front_lines(found)}
    assert list(fronts) == ["atoms", "random", "samples"]
    assert fronts["random"]["role"] == "control" and "fvu_ratio" not in fronts["atoms"]
    assert fronts["atoms"]["front_refit_fvu"] < fronts["random"]["front_refit_fvu"]
    lines = {line["dictionary"]: line for line in measure.atom_lines(found)}
    assert lines["atoms"]["agreement"] is None and 0 < lines["random"]["agreement"] < 1
    weights = {row["dictionary"]: row["wanted_l0"] for row in found if row["kind"] == "weight"}
    assert weights["random"] == weights["samples"] == pytest.approx(2, abs=0.2)


def test_an_encoder_that_fires_nearly_everything_is_held_to_what_a_sparse_code_can_be(model, activations, tmp_path):
    dense = measure.of_model("dense", dataclasses.replace(model, encode=TopK(19)))
    found = measure.run(measure.Plan([dense], activations, max_samples=100), Store(tmp_path))
    (weight,) = (row for row in found if row["kind"] == "weight")
    assert weight["wanted_l0"] == pytest.approx(model.dictionary.shape[0] / 4) and weight["own_l0"] > weight["wanted_l0"]
