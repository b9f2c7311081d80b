"""The whole measurement on a small world: its rows against an independent computation, and that it
goes on where it was.
"""

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
from sae_gap.measure import coding
from sae_gap.measure import jobs as module
from sae_gap.saes.loaded_sae import SAE
from sae_gap.solvers import sparse_code

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
    x = np.concatenate([task.train.signals, task.id.signals, task.ood.signals]) + np.asarray(
        model.bias
    )
    np.savez(path, activations=x.astype(np.float32), documents=np.repeat(np.arange(30), 10))
    return open_activations(path)


@pytest.fixture(scope="module")
def plan(model, activations):
    return measure.Plan([SAE.of_model(model, name="mine")], activations, lam=LAM)


@pytest.fixture(scope="module")
def rows(plan, tmp_path_factory):
    return measure.run(plan, Store(tmp_path_factory.mktemp("rows")))


def test_the_gap_is_that_of_scikit_learn_on_held_out_documents(rows, model, activations):
    held = activations.split(seed=0)[1]
    x = np.asarray(held.take(np.arange(held.num_samples)), float)
    dictionary, target = np.asarray(model.dictionary, float), x - np.asarray(model.bias, float)
    unit, norms = (
        dictionary / np.linalg.norm(dictionary, axis=0),
        np.linalg.norm(dictionary, axis=0),
    )
    codes = np.asarray(model.encode(model, jnp.asarray(x, jnp.float32)), float) * norms
    peer = SklearnLasso(
        alpha=LAM / len(unit), positive=True, fit_intercept=False, tol=1e-12, max_iter=100_000
    )
    best = np.array([peer.fit(unit, y).coef_ for y in target])

    def objective(z):
        return 0.5 * np.square(target - z @ unit.T).sum(axis=1) + LAM * z.sum(axis=1)

    (line,) = measure.gap_lines(rows)
    gaps, variance = objective(codes) - objective(best), np.square(x - x.mean(axis=0)).sum()
    count = len(x)
    assert line["samples"] == count == 30 and line["lam"] == LAM
    assert line["gap"] == pytest.approx(gaps.mean(), rel=1e-4)
    assert line["relative_gap"] == pytest.approx(gaps.mean() / objective(best).mean(), rel=1e-4)
    shares = (line["scale_share"], line["values_share"], line["support_share"])
    assert sum(shares) == pytest.approx(line["relative_gap"]) and min(shares) > 0
    assert line["l0"] == (codes > 0).sum() / count and line["optimum_l0"] == pytest.approx(
        (best > 0).sum() / count
    )
    assert line["fvu"] == pytest.approx(
        np.square(target - codes @ unit.T).sum() / variance, rel=1e-4
    )
    assert line["optimum_fvu"] == pytest.approx(
        np.square(target - best @ unit.T).sum() / variance, rel=1e-3
    )
    fired, used = (codes > 0).any(axis=0), (best > 0).any(axis=0)
    assert (line["fired_only"], line["used_only"]) == ((fired & ~used).sum(), (used & ~fired).sum())
    assert (
        line["unused"] == (~fired & ~used).sum()
        and line["certificate"] <= 1.1e-6
        and line["unconverged"] == 0
    )
    worst = measure.worst_lines(rows, most=4)
    order = np.argsort(-gaps)[:4]
    # By their numbers among all.
    assert [one["index"] for one in worst] == held.numbers[order].tolist()
    assert (
        [one["document"] for one in worst]
        == held.documents[order].tolist()
        == [one["index"] // 10 for one in worst]
    )
    assert [one["gap"] for one in worst] == pytest.approx(gaps[order], rel=1e-4)
    assert [one["relative_gap"] for one in worst] == pytest.approx(
        (gaps / objective(best))[order], rel=1e-4
    )


def test_curves_gaps_and_verdicts_are_of_the_same_samples_and_have_one_fvu(rows, plan):
    _, held = plan.activations.split(seed=0)
    x, sae = held.take(np.arange(held.num_samples)), plan.saes[0]
    found = {
        row["lam"]: row["fvu"] for row in rows if row["kind"] == "curve" and row["codes"] == "lasso"
    }
    for point in measure.measure_curve(sae, x, [LAM * share for share in (2, 1.4, 1, 0.7)]).points:
        assert found[point.lam] == pytest.approx(point.fvu, rel=1e-4)
    (line,), (gap,), (verdict,) = (
        measure.curve_lines(rows),
        measure.gap_lines(rows),
        measure.verdict(rows),
    )
    own = measure.fvu(x, sae.reconstruct(x))
    assert line["fvu"] == pytest.approx(own) and gap["fvu"] == pytest.approx(own)
    assert 1 - verdict.encoder.total.other == pytest.approx(own)
    assert gap["optimum_fvu"] == pytest.approx(found[LAM], rel=1e-4)
    lost = verdict.encoder
    assert lost.total.one == pytest.approx(1 - line["best_fvu"]) and line["fvu_ratio"] > 1
    assert lost.support.other == lost.selection.other == pytest.approx(1 - line["refit_fvu"])
    # Pursuits at the L0 of the lasso, one of them among the four largest pre-activations a latent.
    (lam,) = (row["own_lam"] for row in rows if row["kind"] == "weight")
    points = {row["codes"]: row for row in rows if row["kind"] == "curve" and row["lam"] == lam}
    assert line["best_fvu"] == min(points[codes]["refit_fvu"] for codes in ("lasso", "screened"))
    assert line["best_codes"] == verdict.best_codes and "support, of it" in str(verdict)
    for codes in ("screened", "proposed"):
        coder = coding.screened(sae, x, points["lasso"]["l0"], proposed=codes == "proposed")
        guess = coding.code(sae, x, coder).guess
        assert points[codes]["fvu"] == pytest.approx(measure.fvu(x, guess), rel=1e-5)
        assert points[codes]["l0"] == pytest.approx(points["lasso"]["l0"], abs=2 / len(x))
    assert 1 - lost.screening.other == pytest.approx(points["proposed"]["fvu"])
    assert lost.selection.more + lost.screening.more == pytest.approx(lost.support.more)
    assert line["samples"] == gap["samples"] == verdict.samples == len(x) and (
        verdict.documents,
        verdict.named,
    ) == (3, True)


def test_outlier_tokens_are_left_out_unless_they_are_kept_and_said_to_be_there(
    plan, model, activations, tmp_path
):
    x = activations.take(np.arange(300))
    held = np.unique(activations.split(seed=0)[1].documents)
    outliers = np.array([50, held[0] * 10, held[1] * 10 + 3])
    x[outliers] = 300 * x[outliers] + 5
    loud = open_activations(x, documents=activations.documents)
    found = measure.run(dataclasses.replace(plan, activations=loud), Store(tmp_path))
    (verdict,), (weight,) = (
        measure.verdict(found),
        (row for row in found if row["kind"] == "weight"),
    )
    assert verdict.samples == 28 and not {one["index"] for one in measure.worst_lines(found)} & {
        *outliers.tolist()
    }
    assert "3 of 300 rows are outliers" in str(verdict) and "left out" in str(verdict)
    # Of the scored rows and those of the held-out part.
    every = np.concatenate(
        [np.delete(x.reshape(30, 10, -1)[held].reshape(30, -1), [0, 13], axis=0), x[outliers[1:]]]
    )
    sae = plan.saes[0]
    target = sae.target(every)
    best = sparse_code(target, sae.unit_dictionary, weight["own_lam"]).codes
    codes = {"its own supports": sae.encode_target(target), "the lasso's supports": best}
    for name, values in codes.items():
        again = sparse_code(target, sae.unit_dictionary, 0.0, support=values).codes
        assert verdict.with_outliers[name][1] == pytest.approx(
            measure.fvu(every, sae.decode_target(again, every)), rel=1e-3
        )
    assert verdict.with_outliers["its own supports"][0] == pytest.approx(
        1 - verdict.encoder.support.other
    )
    (kept,) = measure.verdict(
        measure.run(
            dataclasses.replace(plan, activations=loud, keep_outliers=True), Store(tmp_path)
        )
    )
    assert kept.samples == 30 and "they are kept" in str(kept) and not kept.with_outliers


def test_a_run_that_was_stopped_goes_on_and_chunks_change_nothing(
    plan, rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(coding, "LEAST", 10)
    monkeypatch.setattr(coding, "CODES", 0)
    measured, measure_chunk = [], module.measure_chunk

    def stopping(*given):
        if measured:
            raise KeyboardInterrupt
        measured.append(given)
        return measure_chunk(*given)

    monkeypatch.setattr(module, "measure_chunk", stopping)
    with pytest.raises(KeyboardInterrupt):
        measure.run(plan, Store(tmp_path))
    before = Store(tmp_path).keys()
    # The documents, the encoder, the weights, four points, one at the encoder's L0 and its own, two
    # pursuits, the atoms, and a chunk.
    assert len(before) == 1 + 1 + 1 + 6 + 2 + 1 + 1
    monkeypatch.setattr(module, "measure_chunk", measure_chunk)
    chunked = measure.run(plan, Store(tmp_path))
    assert before < Store(tmp_path).keys()
    monkeypatch.setattr(module, "measure_chunk", None)
    assert measure.run(plan, Store(tmp_path)) == chunked
    counts = [[row["kind"] for row in each].count("gap") for each in (chunked, rows)]
    (one,), (whole,) = measure.gap_lines(chunked), measure.gap_lines(rows)
    assert counts == [3, 1] and one.pop("dictionary") == whole.pop("dictionary")
    assert one == pytest.approx(whole, rel=1e-4, abs=1e-6)
    assert [line["index"] for line in measure.worst_lines(chunked)] == [
        line["index"] for line in measure.worst_lines(rows)
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("one", "one")}, "called 'one'"),
        ({"names": ("random",), "controls": ["random"]}, "called 'random'"),
        ({"controls": ["pca"]}, "choose from"),
        ({"names": ()}, "at least one entry"),
        ({"l0": 4.0}, "at most 3"),
        ({"l0": -1}, "l0 must be a finite number above 0"),
        *(({"lam": lam}, "lam must be a finite number above 0") for lam in (0, float("nan"))),
        ({"lam": 1e3}, "lam is 1000, which is not below .* λ_max of the samples on 'mine'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(
    plan, model, tmp_path, change, message
):
    names = change.pop("names", ("mine",))
    saes = [SAE.of_model(model, name=name) for name in names]
    with pytest.raises(ValueError, match=message):
        measure.run(dataclasses.replace(plan, saes=saes, **change), Store(tmp_path))
    assert not any(tmp_path.iterdir())


def test_a_sample_of_which_nothing_is_left_has_no_gap(model, activations, tmp_path):
    x = activations.take(np.arange(300))
    x[np.arange(300) % 10 < 7] = np.asarray(model.bias)
    np.savez(tmp_path / "x.npz", activations=x, documents=np.arange(300) // 10)
    plan = measure.Plan(
        [SAE.of_model(model, name="mine")], open_activations(tmp_path / "x.npz"), lam=LAM
    )
    found = measure.worst_lines(measure.run(plan, Store(tmp_path / "rows")))
    assert len(found) == 10 and all(
        line["relative_gap"] == 0 for line in found if line["index"] % 10 < 7
    )


def test_the_weight_makes_the_best_codes_as_sparse_as_the_encoders(plan, tmp_path):
    found = measure.run(dataclasses.replace(plan, lam=None), Store(tmp_path))
    (line,) = measure.gap_lines(found)
    (weight,) = (row for row in found if row["kind"] == "weight")
    assert line["l0"] == weight["own_l0"] == 2 and weight["common_l0"] == weight["l0"]
    assert line["lam"] == weight["lam"] == weight["own_lam"]
    assert line["optimum_l0"] == weight["l0"] == pytest.approx(2, abs=1 / 30 + 1e-9)
    # A weight of another L0 is that of the gap and of dictionaries; the encoder is held to its own.
    found = measure.run(dataclasses.replace(plan, lam=None, l0=1.0), Store(tmp_path))
    (weight,) = (row for row in found if row["kind"] == "weight")
    assert (
        abs(measure.gap_lines(found)[0]["optimum_l0"] - 1) < 0.05
        and weight["lam"] == weight["common_lam"]
    )
    (verdict,) = measure.verdict(found)
    assert abs(verdict.l0 - 2) < 0.05 and abs(verdict.reached_l0[0] - 1) < 0.05


def test_a_decoder_alone_and_its_controls(model, activations, tmp_path):
    alone = SAE.of_model(Model(model.dictionary, model.bias), name="atoms")
    plan = measure.Plan([alone], activations, l0=2.0, controls=("random", "samples"))
    found = measure.run(plan, Store(tmp_path))
    (line,) = measure.gap_lines(found)
    assert (
        line["samples"] == 30
        and "gap" not in line
        and line["optimum_fvu"] < 0.5
        and measure.worst_lines(found) == []
    )
    curves = {line["dictionary"]: line for line in measure.curve_lines(found)}
    assert list(curves) == ["atoms", "random", "samples"]
    assert curves["random"]["role"] == "control" and "fvu_ratio" not in curves["atoms"]
    assert curves["atoms"]["curve_refit_fvu"] < curves["random"]["curve_refit_fvu"]
    lines = {line["dictionary"]: line for line in measure.atom_lines(found)}
    assert lines["atoms"]["agreement"] is None and 0 < lines["random"]["agreement"] < 1
    assert all(line["at_l0"] == pytest.approx(2, abs=0.05) for line in curves.values())


def test_an_encoder_that_fires_nearly_everything_is_held_to_what_a_sparse_code_can_be(
    model, activations, tmp_path
):
    dense = SAE.of_model(dataclasses.replace(model, encode=TopK(19)), name="dense")
    found = measure.run(measure.Plan([dense], activations), Store(tmp_path))
    (weight,) = (row for row in found if row["kind"] == "weight")
    (verdict,) = measure.verdict(found)
    assert (
        verdict.l0 == pytest.approx(model.dictionary.shape[0] / 4, abs=0.05)
        and weight["own_l0"] > verdict.l0
    )
    # There its dictionary is compared, and its encoder is not judged.
    assert "is beyond what sparse codes have" in str(verdict) and verdict.common_l0 == verdict.l0


def test_rows_that_are_given_to_be_scored_are_scored(model, activations, tmp_path):
    """Held-out rows of two kinds in one store, and outliers among them."""
    train, held = activations.split()
    x = held.take(np.arange(held.num_samples))
    found = []
    for rows in (x, np.concatenate([x * 0.1, 300 * x[:1]])):
        plan = measure.Plan(
            [SAE.of_model(model, name="mine")], train, lam=LAM, held_out=open_activations(rows)
        )
        found.append(measure.run(plan, Store(tmp_path)))
    first, second = (measure.curve_lines(rows)[0]["fvu"] for rows in found)
    assert first != pytest.approx(second, rel=0.01)
    told = [rows[0]["outliers"] for rows in found]
    assert told[0] is None and "1 of 31 rows" in told[1]
