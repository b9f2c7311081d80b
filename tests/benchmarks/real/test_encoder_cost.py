"""The ways to code by their names, their costs by hand, and the binary on a tiny model."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

import sae_gap
from benchmarks.real.measure import NAMED
from sae_gap.core.types import Model, Split, Task
from sae_gap.encoders import lasso
from sae_gap.encoders.lasso import Lasso, find_weight
from sae_gap.encoders.matching_pursuit import MatchingPursuit
from sae_gap.encoders.pursuit import OMP, GradientPursuit
from sae_gap.encoders.refined import Pruned
from sae_gap.encoders.screened_pursuit import BatchPursuit, ScreenedPursuit
from sae_gap.learners.given import Given
from sae_gap.measure import plan
from sae_gap.measure.methods import refit
from sae_gap.metrics import cost
from sae_gap.metrics.cost import cost_at
from sae_gap.metrics.metric import Inferred
from sae_gap.runtime import cores
from sae_gap.saes.loaded_sae import SAE
from sae_gap.study import scoring
from sae_gap.study.inference import Inference
from sae_gap.study.study import Method
from tests import tiny
from tests.conftest import lines_of, refused, succeed

DIM, WIDTH, K = 12, 40, 3
RNG = np.random.default_rng(0)
ATOMS = RNG.normal(size=(DIM, WIDTH))
ATOMS /= np.linalg.norm(ATOMS, axis=0)
X = RNG.exponential(size=(60, WIDTH)) * (RNG.random((60, WIDTH)) < 0.1) @ ATOMS.T
# Without noise a pursuit would end on rounding errors.
X += RNG.normal(size=X.shape) / 10
LEARNED, X = X[20:].astype(np.float32), X[:20].astype(np.float32)


COUNTS = np.arange(20) != 7


@pytest.fixture(scope="module")
def on():
    """What gives codes on the dictionary, with thresholds of the rows learned from, and the λ of
    an L0 of K and of twice as many.
    """
    given = SAE.of_model(Model(jnp.asarray(ATOMS, jnp.float32), jnp.zeros(DIM)), name="atoms").given
    held, train = Split(jnp.asarray(X), counts=COUNTS), Split(jnp.asarray(LEARNED))
    task = Task(train, held, held, width=WIDTH)
    lams = [find_weight(X[COUNTS], np.float32(ATOMS), l0) for l0 in (K, 2 * K)]
    inference = Inference(task, given.ready, "train", timed=False)
    return SimpleNamespace(given=given, inference=inference, lam=lams[0], denser=lams[1], task=task)


def ways(on, learner=None):
    lams = {K: on.lam, 2 * K: on.denser}
    every = plan.ways(learner or on.given, K, lams, plan.KINDS, (*NAMED, "thresholding_pursuit"))
    return {way.name: way.encoder for way in every}


@pytest.fixture(scope="module")
def made(on):
    """Each way to code, by its name, with its codes."""
    kept = {
        "omp",
        "mp",
        "gradient_pursuit",
        "fista_10",
        "lasso",
        "lasso_refit",
        "screened_pursuit_1x16",
    }
    every = ways(on)
    return {name: (every[name], on.inference.infer(every[name], "id")) for name in kept}


def test_a_name_says_how_codes_are_made(on):
    """What the encoders compute has tests of its own; pruned ones begin with twice as many."""
    twice, nearest = refit(Lasso(on.denser)), Lasso(on.lam, tol=None, max_iterations=10)
    expected = {
        "omp": refit(OMP(K, nonneg=True)),
        "omp_pruned": Pruned(refit(OMP(2 * K, nonneg=True)), K),
        "mp": MatchingPursuit(K, nonneg=True),
        "gradient_pursuit": GradientPursuit(K, nonneg=True),
        "fista_10": Pruned(nearest, K, "magnitude"),
        "lasso": Lasso(on.lam),
        "lasso_refit": refit(Lasso(on.lam)),
        "lasso_pruned": Pruned(twice, K),
        "screened_pursuit_2x4": ScreenedPursuit(K, 4, 2),
        "batch_pursuit_2x4": BatchPursuit(K, 4, 2, l0=3.0),
    }
    every = ways(on)
    assert {name: every[name] for name in expected} == expected
    assert every["thresholding_pursuit"].lasso == Lasso(on.lam)


def scores(on, made, name, metric=None, learner=None):
    encoder, coded = made[name]
    model, prepared = on.inference.model, on.inference.prepare(encoder)
    found = Inferred(on.task, model, {"id": np.asarray(coded.codes)}, {}, 0, "strict")
    found = dataclasses.replace(
        found,
        encoder=prepared,
        method=Method("a", "", learner or on.given, encoder),
        inference=on.inference,
    )
    return (metric or cost_at(on.lam, K))(found)


def test_products_are_counted_by_hand(on, made):
    products = {name: scores(on, made, name)["products"] for name in made}
    both = DIM * WIDTH
    l0 = {
        name: np.mean((np.asarray(found.codes) != 0).sum(axis=1)[COUNTS])
        for name, (_, found) in made.items()
    }

    # The Gram matrix of a support and its correlations, for least squares.
    def fit(name):
        return DIM * l0[name] * (1 + l0[name]) / both

    assert products["mp"] == K
    assert products["gradient_pursuit"] == pytest.approx(K + 2 * (1 + 2 + 3) / WIDTH)
    assert products["fista_10"] == pytest.approx(19 + fit("fista_10"))
    # Each step correlates all atoms, and makes one orthogonal to those before it, twice.
    assert products["omp"] == pytest.approx(K + 4 * DIM * (1 + 2) / 2 / both * 2 + fit("omp"))
    assert products["lasso"] is products["lasso_refit"] is None
    # Dᵀr; the residual of K atoms; their basis among all.
    screen = (DIM * (WIDTH + K) + WIDTH * K**2 / 2) / both
    assert products["screened_pursuit_1x16"] == pytest.approx(screen)


def test_scores_are_those_of_the_definitions(on, made):
    z, worse = (np.asarray(made[name][1].codes) for name in ("lasso", "mp"))
    assert abs(scores(on, made, "lasso")["objective_gap"]) < 1e-6
    row = scores(on, made, "mp")

    def objective(codes):
        rest = (X - codes @ ATOMS.T)[COUNTS]
        return (rest**2).sum() / 2 + on.lam * np.abs(codes[COUNTS]).sum()

    assert row["objective_gap"] == pytest.approx(objective(worse) / objective(z) - 1, rel=1e-3)
    pursued, mine = (np.asarray(z)[COUNTS] > 0 for z in (made["omp"][1].codes, worse))
    assert row["shared"] == pytest.approx((mine & pursued).sum() / pursued.sum())
    assert row["seconds"] > 0


def test_processor_time_is_that_of_a_thread_relative_to_the_encoder(on, made, monkeypatch):
    clocks = {"mp": (0, 9, 9, 10, 10, 12, 12, 15), "own": (0, 9, 9, 13, 13, 13, 13, 18)}
    ticks = iter([*clocks["mp"], *clocks["own"]])
    monkeypatch.setattr(cost, "RUNS", 3)
    monkeypatch.setattr(cost.time, "process_time", lambda: cores.cores() == 1 and next(ticks))
    own = dataclasses.replace(on.given.ready, encode=MatchingPursuit(K))
    sae = SAE.of_model(own, name="sae").given
    # Medians without the first run, which compiles.
    assert scores(on, made, "mp", cost.processor_time(), sae) == {"processor": 2 / 4}
    # A decoder alone has no encoder.
    assert scores(on, made, "mp", cost.processor_time()) == {"processor": None}


def test_a_signed_dictionary_has_signed_codes(on):
    every = ways(on, Given(on.given.held, "signed", "sae", True))
    assert not any("screened" in name or "batch" in name for name in every)
    for name in ("omp_pruned", "mp", "gradient_pursuit", "fista_5", "lasso"):
        assert on.inference.infer(every[name], "id").codes.min() < 0


def test_what_it_leaves_and_that_it_goes_on(recorded, monkeypatch):
    monkeypatch.setattr(plan, "ITERATIONS", (5,))
    monkeypatch.setattr(lasso, "find_weight", tiny.weight)
    flags = (*recorded.flags, f"--sae={recorded.folder / 'mine'}")
    succeed("encoder_cost", *flags, "--codes=own,mp")
    results = recorded.folder / "results" / "encoder_cost"
    some = {row["key"] for row in sae_gap.Store(results).rows()}
    flags += ("--codes=own,mp,fista",)
    out = succeed("encoder_cost", *flags)
    rows = sae_gap.Store(results).rows()
    # Two weights, the encoder's codes as they are and refitted, and a pursuit.
    assert len(some) == 5 and some < {row["key"] for row in rows}
    assert {path.name for path in results.iterdir()} == {
        "rows",
        "summary.csv",
        "mine.png",
        "mine.pdf",
    }
    assert image.imread(results / "mine.png").std() > 0.01
    lines = {line["codes"]: line for line in lines_of(results / "summary.csv")}
    assert float(lines["own"]["l0"]) == 4 and float(lines["own"]["products"]) == 1
    assert float(lines["own"]["processor"]) > 0
    assert len(lines) == len(rows) - 2
    # The same command codes nothing again.
    monkeypatch.setattr(scoring, "Inference", None)
    assert succeed("encoder_cost", *flags) == out
    for wrong, fault in (
        (recorded.flags, "nothing to measure"),
        ((*flags, "--codes=none"), "codes must be one of own"),
        ((*flags, "--codes=relu"), "relu has parameters, which no dictionary alone gives; give"),
    ):
        refused(fault, "encoder_cost", *wrong)
