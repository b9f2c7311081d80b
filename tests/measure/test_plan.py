"""The whole measurement on a small world: its rows against an independent computation, and that it
goes on where it was.
"""

from dataclasses import replace

import idea
import jax.numpy as jnp
import numpy as np
from numpy.linalg import norm
from numpy.testing import assert_array_equal
from pytest import approx, fixture, mark, raises
from scipy.optimize import lsq_linear
from sklearn.linear_model import Lasso as SklearnLasso

from sae_gap import Store, measure
from sae_gap.analysis import at, by_dictionary
from sae_gap.core import Model
from sae_gap.data import open_activations
from sae_gap.encoders import (
    TopK,
)
from sae_gap.measure import learner_at, methods_of
from sae_gap.saes import SAE
from tests import tiny


@fixture(scope="module")
def model(task):
    return tiny.noisy_model(task)


@fixture(scope="module")
def activations(task, model):
    x = tiny.signals(task) + np.asarray(model.bias)
    return open_activations(x, documents=np.repeat(np.arange(30), 10))


@fixture(scope="module")
def plan(model, activations):
    return measure.Plan(
        [SAE.of_model(model, name="mine")], measure.HeldOut(activations)
    )


@fixture(scope="module")
def rows(plan, tmp_path_factory):
    return measure.run(plan, Store(tmp_path_factory.mktemp("rows")))


def of_source(plan, **options):
    """The plan on another source."""
    return replace(plan, source=replace(plan.source, **options))


def changed(plan, folder, **options):
    """The rows of a plan that is another, by the names of dictionaries."""
    return by_dictionary(measure.run(replace(plan, **options), Store(folder)))


def test_gaps_and_curves_are_those_of_scikit_learn_on_held_out_documents(
    rows, model, activations
):
    held = activations.split(seed=0)[1]
    x = np.asarray(held.take(np.arange(held.num_samples)), float)
    dictionary = np.asarray(model.dictionary, float)
    target = x - np.asarray(model.bias, float)
    norms = norm(dictionary, axis=0)
    unit = dictionary / norms
    codes = np.asarray(model.encode(model, jnp.asarray(x, jnp.float32)), float) * norms
    (line,) = measure.gap_lines(rows)
    lam = line["lam"]
    peer = SklearnLasso(
        alpha=lam / len(unit),
        positive=True,
        fit_intercept=False,
        tol=1e-12,
        max_iter=100_000,
    )
    best = np.array([peer.fit(unit, y).coef_ for y in target])

    def objective(z):
        return 0.5 * np.square(target - z @ unit.T).sum(axis=1) + lam * z.sum(axis=1)

    def errors(z):
        return np.square(target - z @ unit.T).sum(axis=1).reshape(3, 10).sum(axis=1)

    def refitted(z):
        again = np.zeros_like(z)
        for row, y, on in zip(again, target, z > 0, strict=True):
            row[on] = (
                lsq_linear(unit[:, on], y, (0, np.inf), tol=1e-12).x if on.any() else 0
            )
        return again

    gaps = objective(codes) - objective(best)
    variance = np.square(x - x.mean(axis=0)).sum()
    assert line["samples"] == len(x) == 30
    assert line["gap"] == approx(gaps.mean(), rel=1e-4)
    assert line["relative_gap"] == approx(
        gaps.mean() / objective(best).mean(), rel=1e-4
    )
    assert line["certificate"] <= 1.1e-6 and line["unconverged"] == 0
    fired = (codes > 0).any(axis=0)
    used = (best > 0).any(axis=0)
    wanted = {
        "fired_only": fired & ~used,
        "used_only": used & ~fired,
        "unused": ~fired & ~used,
    }
    assert {name: line[name] for name in wanted} == {
        k: v.sum() for k, v in wanted.items()
    }
    kinds = {
        "own": codes,
        "own_refit": refitted(codes),
        "lasso": best,
        "lasso_refit": refitted(best),
    }
    for name, values in kinds.items():
        place = name, None if name.startswith("own") else "own"
        row = next(
            row
            for row in rows
            if (row["codes"], row.get("level")) == place and "times" not in row
        )
        assert row["errors"] == approx(errors(values), rel=1e-3)
        assert row["fvu"] == approx(errors(values).sum() / variance, rel=1e-3)
        assert name.endswith("refit") or row["l0"] == approx(
            (values > 0).sum() / len(x)
        )
    scores = {
        codes: at(rows, [codes]) for codes in ("lasso_refit", "screened", "proposed")
    }
    (verdict,) = measure.verdict(rows)
    assert verdict.best["fvu"] == min(
        scores[codes]["fvu"] for codes in ("lasso_refit", "screened")
    )
    assert all(row["l0"] == approx(2, abs=0.07) for row in scores.values())
    assert sorted({row["times"] for row in rows if "times" in row}) == [0.7, 1.4, 2.0]
    worst = measure.worst_lines(rows, measure.HeldOut(activations))
    order = np.argsort(-gaps)[:10]
    # By their numbers among all.
    assert [one["index"] for one in worst] == held.numbers[order].tolist()
    assert [one["document"] for one in worst] == held.documents[order].tolist()
    shares = (gaps / objective(best))[order]
    assert [one["relative_gap"] for one in worst] == approx(shares, rel=1e-4)


@mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("one", "one")}, "called 'one'"),
        ({"names": ("random",), "controls": ["random"]}, "called 'random'"),
        ({"codes": "own"}, "codes must be of class list or tuple, but it is 'own'"),
        ({"controls": ["pcb"]}, "a control must be one of"),
        (
            {"codes": ["their:omp"]},
            "a dictionary of codes must be one of mine, but it is 'their'",
        ),
        ({"codes": ["pcb"]}, r"codes must be one of (?!.*\b(lasso|omp), .*\b\1,)"),
        ({"names": ()}, "at least one entry"),
        ({"source": {"samples": 9}}, "9 held-out activations are too few"),
        ({"l0": 4.0}, "at most 3"),
        ({"l0": float("nan")}, "l0 must be a finite number above 0"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(
    plan, model, tmp_path, change, message
):
    plan = of_source(plan, **change.pop("source", {}))
    saes = [SAE.of_model(model, name=name) for name in change.pop("names", ("mine",))]
    with raises((ValueError, TypeError), match=message):
        measure.run(replace(plan, saes=saes, **change), Store(tmp_path))
    assert not any(tmp_path.iterdir())


def test_levels_are_the_encoders_own_l0_and_one_for_all(plan, model, tmp_path):
    alone = SAE.of_model(Model(model.dictionary, model.bias), name="atoms")
    dense = SAE.of_model(replace(model, encode=TopK(19)), name="dense")
    options = {"saes": [*plan.saes, alone, dense], "controls": ("random", "samples")}
    found = changed(plan, tmp_path, **options)
    assert [*found] == ["mine", "atoms", "dense", "random", "samples"]
    levels = {
        name: {row["level"] for row in each if "level" in row}
        for name, each in found.items()
    }
    # The first sets the level of all.
    common = {name: {"common"} for name in ("atoms", "random", "samples")}
    assert levels == common | {"mine": {"own"}, "dense": {"own", "common"}}
    every = [row for each in found.values() for row in each]
    lines, gaps, atoms = (
        {line["dictionary"]: line for line in read(every)}
        for read in (measure.curve_lines, measure.gap_lines, measure.atom_lines)
    )
    for name in ("mine", "atoms", "random", "samples"):
        assert lines[name]["at_l0"] == approx(2, abs=0.05)
    assert [*gaps] == ["mine", "atoms", "dense"] and "gap" not in gaps["atoms"]
    assert lines["random"]["family"] == "control" and "fvu_ratio" not in lines["atoms"]
    assert lines["atoms"]["curve_refit_fvu"] < lines["random"]["curve_refit_fvu"]
    assert atoms["mine"]["agreement"] is None and atoms["atoms"]["agreement"] > 1 - 1e-5
    assert atoms["random"]["agreement"] < 0.9
    # An encoder that fires nearly everything is held to what a sparse code can be.
    assert lines["dense"]["at_l0"] == approx(model.dictionary.shape[0] / 4, abs=0.05)
    # An L0 that is given is that of the gap and of dictionaries, and not of the encoder.
    (found,) = changed(plan, tmp_path, l0=1.0).values()
    assert measure.gap_lines(found)[0]["optimum_l0"] == approx(1, abs=0.05)
    assert [at(found, ["lasso"], level)["l0"] for level in ("own", "common")] == approx(
        [2, 1], abs=0.05
    )


def test_signed_codes_are_held_against_signed_controls(plan, tmp_path):
    signed = [replace(plan.saes[0], signed=True)]
    found = changed(plan, tmp_path, saes=signed, controls=("random",))
    assert not {"screened", "proposed"} & {
        row["codes"] for each in found.values() for row in each
    }
    lasso, again = (
        at(found["random"], [codes])["encoder"] for codes in ("lasso", "lasso_refit")
    )
    assert not lasso["nonneg"] and not again["encoder"]["nonneg"]


def test_the_seed_draws_the_rows_that_are_scored_unless_nothing_learns(
    plan, activations
):
    one = plan.source
    other = of_source(plan, seed=1).source
    assert learner_at("topk", 9, 3.4, 20).encoder.k == 3
    assert not np.array_equal(other.scored, one.scored)
    for controls, codes in ((("random", "samples"), ()), (("random",), ("retrained",))):
        tenth = measure.Plan((), activations, controls=controls, codes=codes).source
        assert_array_equal(tenth.scored, one.scored)
    # Random atoms learn nothing.
    for controls in ((), ("random",)):
        every = measure.Plan((), activations, controls=controls, codes=("omp",)).source
        assert len(every.scored) == 300 and max(every.members) == 29


def test_the_whole_idea_in_one_file_has_the_numbers_of_measure(plan, model, tmp_path):
    (sae,) = plan.saes
    methods = [*methods_of(sae.given, ("own", "own_refit", "omp"), 2.0)]
    rows = measure.Stages("idea", Store(tmp_path)).run(plan.source, methods)
    own, refitted, best = (row["fvu"] for row in rows)
    arrays = {
        "W_enc": np.asarray(model.encoder.weight),
        "b_enc": np.asarray(model.encoder.bias),
        "W_dec": np.asarray(model.dictionary).T,
        "b_dec": np.asarray(model.bias),
    }
    parts = idea.split(plan.source.scored, arrays, k=2)
    assert parts == approx(
        {
            "own": own,
            "values": own - refitted,
            "support": refitted - best,
            "rest": best,
        },
        rel=1e-4,
    )
