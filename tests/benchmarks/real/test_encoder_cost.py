"""The ways to code by their names, their costs by hand, and the binary on a tiny model."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import sae_gap
from benchmarks.real import measure
from sae_gap.core import Model, Split, Task
from sae_gap.encoders import MatchingPursuit, find_weight, lasso
from sae_gap.measure import KINDS, plan
from sae_gap.metrics import Inferred, cost, cost_at
from sae_gap.runtime import cores
from sae_gap.saes import SAE
from sae_gap.study import Inference, Method, scoring
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
    """Ways to code on the dictionary by their names, some of them with codes, with thresholds of
    the rows learned from, and the λ of an L0 of K.
    """
    given = SAE.of_model(Model(jnp.asarray(ATOMS, jnp.float32), jnp.zeros(DIM)), name="atoms").given
    held, train = Split(jnp.asarray(X), counts=COUNTS), Split(jnp.asarray(LEARNED))
    task = Task(train, held, held, width=WIDTH)
    lams = {l0: find_weight(X[COUNTS], np.float32(ATOMS), l0) for l0 in (K, 2 * K)}
    inference = Inference(task, given.ready, "train", timed=False)
    ways = plan.ways(given, K, lams, KINDS, (*measure.NAMED, "thresholding_pursuit"))
    every = {way.name: way.encoder for way in ways}
    kept = ("omp", "mp", "gradient_pursuit", "fista_10", "lasso", "screened_pursuit_1x16")
    codes = {name: inference.infer(every[name], "id").codes for name in kept}
    return SimpleNamespace(
        given=given, inference=inference, lams=lams, task=task, every=every, codes=codes
    )


def scores(on, name, metric=None, learner=None):
    encoder, codes = on.every[name], np.asarray(on.codes[name])
    found = Inferred(on.task, on.inference.model, {"id": codes}, {}, 0, "strict")
    method = Method("a", "", learner or on.given, encoder)
    about = {"encoder": on.inference.prepare(encoder), "inference": on.inference}
    found = dataclasses.replace(found, method=method, **about)
    return (metric or cost_at(on.lams[K], K))(found)


def test_products_are_counted_by_hand(on):
    products = {name: scores(on, name)["products"] for name in on.codes}
    both = DIM * WIDTH
    l0 = {name: (np.asarray(z)[COUNTS] != 0).sum() / COUNTS.sum() for name, z in on.codes.items()}

    # The Gram matrix of a support and its correlations, for least squares.
    def fit(name):
        return DIM * l0[name] * (1 + l0[name]) / both

    assert products["mp"] == K and products["lasso"] is None
    assert products["gradient_pursuit"] == pytest.approx(K + 2 * (1 + 2 + 3) / WIDTH)
    assert products["fista_10"] == pytest.approx(19 + fit("fista_10"))
    # Each step correlates all atoms, and makes one orthogonal to those before it, twice.
    assert products["omp"] == pytest.approx(K + 4 * DIM * (1 + 2) / 2 / both * 2 + fit("omp"))
    # Dᵀr; the residual of K atoms; their basis among all.
    screen = (DIM * (WIDTH + K) + WIDTH * K**2 / 2) / both
    assert products["screened_pursuit_1x16"] == pytest.approx(screen)


def test_scores_are_those_of_the_definitions(on):
    z, worse, pursued = (np.asarray(on.codes[name])[COUNTS] for name in ("lasso", "mp", "omp"))
    assert abs(scores(on, "lasso")["objective_gap"]) < 1e-6
    row = scores(on, "mp")

    def objective(codes):
        return ((X[COUNTS] - codes @ ATOMS.T) ** 2).sum() / 2 + on.lams[K] * np.abs(codes).sum()

    assert row["objective_gap"] == pytest.approx(objective(worse) / objective(z) - 1, rel=1e-3)
    shared = ((worse > 0) & (pursued > 0)).sum() / (pursued > 0).sum()
    assert row["shared"] == pytest.approx(shared) and row["seconds"] > 0


def test_processor_time_is_that_of_a_thread_relative_to_the_encoder(on, monkeypatch):
    ticks = iter((0, 9, 9, 10, 10, 12, 12, 15, 0, 9, 9, 13, 13, 13, 13, 18))
    monkeypatch.setattr(cost, "RUNS", 3)
    monkeypatch.setattr(cost.time, "process_time", lambda: cores.cores() == 1 and next(ticks))
    own = dataclasses.replace(on.given.ready, encode=MatchingPursuit(K))
    sae = SAE.of_model(own, name="sae").given
    # Medians without the first run, which compiles; a decoder alone has no encoder.
    assert scores(on, "mp", cost.processor_time(), sae) == {"processor": 2 / 4}
    assert scores(on, "mp", cost.processor_time()) == {"processor": None}


def test_one_command_has_variance_nats_and_costs_and_goes_on(recorded, monkeypatch):
    monkeypatch.setitem(KINDS, "fista", ["fista_5"])
    monkeypatch.setattr(lasso, "find_weight", tiny.weight)
    monkeypatch.setattr(measure, "CODES", ("own", "own_refit", "lasso_refit"))
    mine, results = f"--sae={recorded.folder / 'mine'}", recorded.folder / "results" / "measure"
    flags = (*recorded.flags, mine, "--match_l0=4", "--controls=random", "--samples=100")
    succeed("measure", *flags, "--costs=own,mp")
    some = {row["key"] for row in sae_gap.Store(results / "costs").rows()}
    flags += ("--costs=own,mp,fista",)
    out = succeed("measure", *flags)
    rows = sae_gap.Store(results / "costs").rows()
    # Two weights, the encoder's codes as they are and refitted, and a pursuit.
    assert len(some) == 5 and some < {row["key"] for row in rows}
    lines = {line["codes"]: line for line in lines_of(results / "costs" / "summary.csv")}
    assert float(lines["own"]["l0"]) == 4 and float(lines["own"]["products"]) == 1
    assert len(lines) == len(rows) - 2 and float(lines["own"]["processor"]) > 0
    losses = {line["dictionary"] for line in lines_of(results / "nats" / "summary.csv")}
    assert losses == {"mine", "random"} and len(lines_of(results / "nats" / "splits.csv")) == 3
    said = [out.index(word) for word in ("Encoder: ", "The loss of each SAE", "Codes on mine")]
    assert said == sorted(said)
    # The same command codes nothing again.
    monkeypatch.setattr(scoring, "Inference", None)
    assert succeed("measure", *flags) == out
    for fault, wrong in (
        ("nothing to measure", recorded.flags),
        ("codes must be one of own", (*flags, "--costs=none")),
        ("relu has parameters, which no dictionary alone gives", (*flags, "--codes=relu")),
        ("--recording takes one process", (*flags, "--distributed")),
    ):
        refused(fault, "measure", *wrong)
