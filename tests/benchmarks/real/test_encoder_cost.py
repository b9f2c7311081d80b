"""Codes against NumPy the long way and their costs by hand, and the binary on a tiny model."""

import csv
import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from matplotlib import image

import sae_gap
from benchmarks.real import encoder_cost
from sae_gap.core.types import Model
from sae_gap.encoders.thresholding_pursuit import ThresholdingPursuit
from sae_gap.measure.coding import code, find_weight, lasso
from sae_gap.saes.loaded_sae import SAE
from tests import tiny

DIM, WIDTH, K = 12, 40, 3
RNG = np.random.default_rng(0)
ATOMS = RNG.normal(size=(DIM, WIDTH))
ATOMS /= np.linalg.norm(ATOMS, axis=0)
X = RNG.exponential(size=(60, WIDTH)) * (RNG.random((60, WIDTH)) < 0.1) @ ATOMS.T
# Without noise a pursuit would end on rounding errors.
X += RNG.normal(size=X.shape) / 10
LEARNED, X = X[20:].astype(np.float32), X[:20].astype(np.float32)


@pytest.fixture(scope="module")
def on():
    model = Model(jnp.asarray(ATOMS, jnp.float32), jnp.zeros(DIM))
    sae = SAE.of_model(model, name="atoms")
    return encoder_cost.Subject(sae, X, np.arange(20) != 7, LEARNED, K)


@pytest.fixture(scope="module")
def made(on):
    """Each way to code, by its name, with its codes."""
    ways = encoder_cost.ways(on.sae, K, (*encoder_cost.NAMED, "thresholding_pursuit"))
    every = {way.codes: way for way in ways}
    names = ("thresholding_pursuit",)
    names += ("omp", "omp_pruned", "mp", "gradient_pursuit", "fista_10", "lasso", "lasso_refit")
    names += ("lasso_pruned", "screened_pursuit_1x16", "batch_pursuit_1x16")
    assert set(names) < set(every)
    return {name: (every[name], code(on.sae, X, every[name].coder(on))) for name in names}


def fitted(signal, support):
    """Non-negative least squares on some atoms, and the squared error."""
    codes = np.zeros(WIDTH)
    if not len(support):
        return codes, signal @ signal
    codes[support], rest = scipy.optimize.nnls(ATOMS[:, support], signal)
    return codes, rest**2


def greedy(signal, steps, how="orthogonal"):
    """The supports and codes of non-negative pursuits."""
    chosen, codes = [], np.zeros(WIDTH)
    for _ in range(steps):
        pull = (signal - ATOMS @ codes) @ ATOMS
        chosen.append(max(set(range(WIDTH)) - set(chosen), key=lambda atom: pull[atom]))
        held, last = ATOMS[:, chosen], chosen[-1]
        if how == "orthogonal":
            codes[chosen] = np.linalg.lstsq(held, signal, rcond=None)[0]
        elif how == "gradient":
            slope = pull[chosen]
            codes[chosen] += slope @ slope / np.sum((held @ slope) ** 2) * slope
            codes = codes.clip(0)
        else:
            codes[last] = max(pull[last], 0)
    return chosen, codes


def pruned(support_of):
    """The long way: an atom's gain is the error without it less the error with it; those below the
    threshold of the rows learned from go at once.
    """

    def gains(signal):
        codes, error = fitted(signal, support_of(signal))
        on = np.flatnonzero(codes)
        # The others are refitted without a sign, as the formula has it.
        rests = []
        for j in on:
            others = ATOMS[:, on[on != j]]
            rest = signal - others @ np.linalg.lstsq(others, signal, rcond=None)[0]
            rests.append(rest @ rest - error)
        return on, np.array(rests)

    every = np.sort(np.concatenate([gains(signal)[1] for signal in LEARNED]))[::-1]
    least = every[K * len(LEARNED) - 1 : K * len(LEARNED) + 1].mean()
    kept = []
    for signal in X:
        on, gain = gains(signal)
        kept.append(fitted(signal, on[gain >= least])[0])
    return np.array(kept)


def test_codes_are_those_of_numpy(on, made):
    found = {name: coding.codes.toarray() for name, (_, coding) in made.items()}
    supports = [greedy(signal, K)[0] for signal in X]
    expected = {
        "omp": [fitted(*each)[0] for each in zip(X, supports, strict=True)],
        "omp_pruned": pruned(lambda signal: greedy(signal, 2 * K)[0]),
        "mp": [greedy(signal, K, "matching")[1] for signal in X],
        "gradient_pursuit": [greedy(signal, K, "gradient")[1] for signal in X],
        "lasso_refit": [
            fitted(signal, np.flatnonzero(codes))[0]
            for signal, codes in zip(X, found["lasso"], strict=True)
        ],
    }
    lam, every = find_weight(on.sae, X[on.scored], 2 * K), np.concatenate([X, LEARNED])
    twice = code(on.sae, every, lasso(on.sae, lam)).codes.toarray()
    chosen = {signal.tobytes(): np.flatnonzero(z) for signal, z in zip(every, twice, strict=True)}
    expected["lasso_pruned"] = pruned(lambda signal: chosen[signal.tobytes()])
    expected["screened_pursuit_1x16"] = expected["omp"]
    expected["batch_pursuit_1x16"] = expected["omp_pruned"]
    by_name = ThresholdingPursuit(on.lam)(on.sae.unit_model, on.sae.target(X))
    expected["thresholding_pursuit"] = np.asarray(by_name)
    for name, codes in expected.items():
        np.testing.assert_allclose(found[name], codes, atol=1e-4, err_msg=name)
    # FISTA from zero, written out.
    step, codes, t = 1 / np.linalg.norm(ATOMS, 2) ** 2, np.zeros((len(every), WIDTH)), 1.0
    ahead = codes
    for _ in range(10):
        new = np.maximum(ahead + step * ((every - ahead @ ATOMS.T) @ ATOMS - on.lam), 0)
        t, before = (1 + np.sqrt(1 + 4 * t**2)) / 2, t
        ahead, codes = new + (before - 1) / t * (new - codes), new
    codes, learned = codes[: len(X)], codes[len(X) :]
    least = np.sort(learned, axis=None)[::-1][K * len(LEARNED) - 1 : K * len(LEARNED) + 1].mean()
    for signal, values, mine in zip(X, codes, found["fista_10"], strict=True):
        np.testing.assert_allclose(
            mine, fitted(signal, np.flatnonzero(values >= least))[0], atol=1e-4
        )


def test_products_are_counted_by_hand(on, made):
    products = {name: way.products(on.sae, K) for name, (way, _) in made.items()}
    both = DIM * WIDTH
    # The Gram matrix of a support and its correlations, for least squares.
    fit = DIM * K * (1 + K) / both
    assert products["mp"] == K
    assert products["gradient_pursuit"] == pytest.approx(K + 2 * (1 + 2 + 3) / WIDTH)
    assert products["fista_10"] == pytest.approx(19 + fit)
    # Each step correlates all atoms, and makes one orthogonal to those before it, twice.
    assert products["omp"] == pytest.approx(K + 4 * DIM * (1 + 2) / 2 / both * 2 + fit)
    assert products["lasso"] is products["lasso_refit"] is None
    # Dᵀr; the residual of K atoms; their basis among all.
    screen = (DIM * (WIDTH + K) + WIDTH * K**2 / 2) / both
    assert products["screened_pursuit_1x16"] == pytest.approx(screen)


def test_scores_are_those_of_the_definitions(on, made):
    class Asked:
        def score(self, guess):
            return {"guess": guess}

    scored, z = on.scored, made["lasso"][1].codes.toarray()
    row = encoder_cost.score(made["lasso"][0], on, Asked())
    np.testing.assert_allclose(row["guess"], z @ ATOMS.T, atol=1e-5)
    assert abs(row["objective_gap"]) < 1e-6 and row["certificate"] < 2e-6
    row = encoder_cost.score(made["mp"][0], on, Asked())
    worse = made["mp"][1].codes.toarray()

    def objective(codes):
        rest = (X - codes @ ATOMS.T)[scored]
        return (rest**2).sum() / 2 + on.lam * np.abs(codes[scored]).sum()

    assert row["objective_gap"] == pytest.approx(objective(worse) / objective(z) - 1, rel=1e-3)
    pursued = [greedy(signal, K)[0] for signal in X[scored]]
    both = sum(
        np.count_nonzero(codes[support])
        for codes, support in zip(worse[scored], pursued, strict=True)
    )
    assert row["shared"] == pytest.approx(both / (K * scored.sum())) and 0 < row["shared"] < 1
    assert row["l0"] == K and row["seconds"] > 0


def test_a_signed_dictionary_has_signed_codes(on):
    signed = dataclasses.replace(on, sae=dataclasses.replace(on.sae, signed=True))
    every = {way.codes: way for way in encoder_cost.ways(signed.sae, K)}
    assert not any("screened" in name or "batch" in name for name in every)
    for name in ("omp_pruned", "mp", "gradient_pursuit", "fista_5", "lasso"):
        assert code(signed.sae, X, every[name].coder(signed)).codes.min() < 0


def test_what_it_leaves_and_that_it_goes_on(recorded, call, monkeypatch):
    monkeypatch.setattr(encoder_cost, "SCREENS", ((1, 2),))
    monkeypatch.setattr(encoder_cost, "ITERATIONS", (5,))
    monkeypatch.setattr(encoder_cost, "find_weight", tiny.weight)
    flags = (*recorded.flags, f"--sae={recorded.folder / 'mine'}")
    code, _, err = call("encoder_cost", *flags, "--codes=own,screened_pursuit")
    assert code == 0, err
    results = recorded.folder / "results" / "encoder_cost"
    some = {row["key"] for row in sae_gap.Store(results).rows()}
    flags += ("--codes=own,screened_pursuit,omp,fista,thresholding_pursuit",)
    code, out, err = call("encoder_cost", *flags)
    assert code == 0, err
    rows = sae_gap.Store(results).rows()
    assert len(some) == 3 and some < {row["key"] for row in rows}
    assert {path.name for path in results.iterdir()} == {
        "rows",
        "summary.csv",
        "mine.png",
        "mine.pdf",
    }
    assert image.imread(results / "mine.png").std() > 0.01
    with (results / "summary.csv").open(newline="") as file:
        lines = {line["codes"]: line for line in csv.DictReader(file)}
    assert float(lines["own"]["l0"]) == 4 and float(lines["own"]["products"]) == 1
    assert len(lines) == len(rows) and max(map(len, out.splitlines())) <= 120
    # The same command codes nothing again.
    monkeypatch.setattr(encoder_cost, "code", None)
    code, again, err = call("encoder_cost", *flags)
    assert code == 0 and again == out, err
    for wrong, fault in (
        (recorded.flags, "nothing to measure"),
        ((*flags, "--codes=none"), "codes must be one of own"),
        ((*flags, "--codes=relu"), "relu has parameters, which no dictionary alone gives; give"),
        ((*flags, "--codes=lookup"), "lookup has parameters"),
    ):
        code, out, err = call("encoder_cost", *wrong)
        assert code == 2 and fault in err and not out
