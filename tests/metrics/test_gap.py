"""The amortisation gap against scikit-learn's lasso, and its parts against SciPy."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose
from pytest import approx, mark, raises
from scipy.optimize import minimize, minimize_scalar
from sklearn.decomposition import sparse_encode

from sae_gap.core import Model, Solution, Split, Task
from sae_gap.encoders import Affine, Lasso, ReLU, TopK
from sae_gap.learners import Given, Held
from sae_gap.metrics import Inferred, gap
from sae_gap.metrics.gap import amortisation_gap
from sae_gap.solvers import sparse_code
from sae_gap.study import Inference, Method
from tests.saes.examples import transcoder

LAM = 0.2


def draw(seed=0):
    rng = default_rng(seed)
    dictionary = rng.normal(size=(6, 10))
    dictionary /= norm(dictionary, axis=0)
    codes = np.maximum(rng.normal(size=(7, 10)), 0) * (rng.random((7, 10)) < 0.4)
    target = codes @ dictionary.T + 0.3 * rng.normal(size=(7, 6))
    return target, dictionary, 1.7 * codes + 0.2 * (codes > 0)


def objective(target, dictionary, codes):
    fit = np.sum((target - codes @ dictionary.T) ** 2, axis=1)
    return 0.5 * fit + LAM * np.abs(codes).sum(axis=1)


def peer(target, dictionary, positive=True):
    """The least objectives by scikit-learn."""
    options = {"algorithm": "lasso_cd", "alpha": LAM, "max_iter": 100_000}
    codes = sparse_encode(
        target, np.ascontiguousarray(dictionary.T), positive=positive, **options
    )
    return objective(target, dictionary, codes)


@mark.parametrize("scale", [1, 0])
def test_scores_of_atoms_of_any_length_by_hand(scale):
    target, dictionary, codes = draw()
    lengths = np.linspace(0.5, 3, 10)
    # Codes of a zero atom count as nothing.
    lengths[1] = 0
    dictionary[:, 1] = 0
    codes[0, 2] = 0.005
    model = Model(jnp.asarray(dictionary * lengths), jnp.full(6, 0.1))
    task = Task(*[Split(jnp.asarray(scale * target + 0.1))] * 3, width=10)
    best = peer(scale * target, dictionary)
    slack = np.array([1, 8, 4, 0, 0, 2, 3]) * 1e-6 * best
    reference = Solution(None, best, slack, np.ones(7, int), np.arange(7) > 0)
    held = dict.fromkeys(("id", "ood"), codes.astype(np.float32))
    given = Inferred(task, model, held, dict.fromkeys(held, reference), LAM, "strict")
    found = gap.measure(given)
    achieved = objective(scale * target, dictionary, codes * lengths)
    wanted = {
        "l0_above": np.mean(np.sum(codes > 0.01, axis=1)),
        "mse": np.mean((scale * target - codes @ (dictionary * lengths).T) ** 2),
        "objective": achieved.mean(),
        "gap": np.mean(achieved - best),
        "relative_gap": np.mean(achieved - best) / best.mean() if scale else np.inf,
        "certificate": 8e-6 * scale,
        "unconverged": 1 / 7,
    }
    assert found == approx(
        {f"{name}_{split}": wanted[name] for split in held for name in wanted}, rel=1e-4
    )


def sae():
    target, dictionary, _ = draw(1)
    affine = Affine.create(jnp.asarray(draw(2)[1], jnp.float32))
    parts = (jnp.asarray(part, jnp.float32) for part in (2 * dictionary, np.arange(6)))
    return Model(*parts, affine, ReLU()), jnp.asarray(
        target + np.arange(6), jnp.float32
    )


@mark.parametrize("sign", [1, -1])
def test_amortisation_gap_of_a_model_against_scikit_learn(sign):
    """Of codes below zero too, which a trifle is not."""
    model, signals = sae()

    def encode(model, rows):
        return (sign * model.encode(model, rows)).at[0, 0].add(-1e-7)

    found = amortisation_gap(
        model, signals, LAM, encode=encode, signed=sign < 0 or None
    )
    target = signals - np.arange(6.0)
    dictionary = np.asarray(model.decoder, float) / 2
    codes = 2 * sign * np.maximum(target @ np.asarray(model.encoder.weight, float), 0)
    best = peer(np.asarray(target, float), dictionary, sign > 0)
    lost = objective(target, dictionary, codes) - best
    assert_allclose(found.gap, lost, rtol=1e-3, atol=1e-4)
    assert_allclose(found.relative, lost / best, rtol=1e-3)
    assert (found.optimum.gap <= 1e-6 * found.optimum.objective).all()
    optimal = amortisation_gap(model, signals, LAM, encode=Lasso(LAM, nonneg=sign > 0))
    assert optimal.gap == approx(0, abs=1e-6) and optimal.gap.min() >= 0
    if sign < 0:
        with raises(ValueError, match="pass signed=True"):
            amortisation_gap(model, signals, LAM, encode=encode)


def test_amortisation_gap_says_what_it_lacks():
    model, y = sae()
    silent, blind = (
        replace(model, **{name: None}) for name in ("encode", "dictionary")
    )
    for words, *given in (
        ("names no encoder", silent, y, LAM),
        ("no dictionary", blind, y, LAM),
        ("input_dim 6", model, y[:, :4], LAM),
        ("negative", model, y, -LAM),
    ):
        with raises(ValueError, match=words):
            amortisation_gap(*given)


def test_the_own_codes_of_a_transcoder_read_its_inputs():
    model, x = transcoder(TopK(3))
    y = default_rng(0).normal(1, 2, size=(24, 6)).astype("f")
    signals = model.signals(y, x)
    found = amortisation_gap(model, signals, 0.1, inputs=x)
    # The encoder by hand, on a model of the same dictionary that ignores inputs.
    own = np.asarray(model.encode(model, x))
    plain = Model(model.dictionary, model.bias, encode=lambda model, signals: own)
    again = amortisation_gap(plain, signals, 0.1)
    assert_allclose(found.gap, again.gap, rtol=1e-6)
    assert (found.gap > 0).all()
    for of, inputs in ((model, None), (model, x[:3]), (plain, x)):
        with raises(ValueError, match="one row for each signal"):
            amortisation_gap(of, signals, 0.1, inputs=inputs)
    # A solver in the encoder's place reads no inputs.
    best = amortisation_gap(model, signals, 0.1, encode=Lasso(0.1))
    assert best.gap.max() <= 1e-4 * best.optimum.objective.max()


def best(target, dictionary, on):
    """The least objective of one sample over `z ≥ 0` on a support, by L-BFGS-B."""
    own = dictionary[:, on]
    if not on.any():
        return 0.5 * target @ target

    def value(z):
        rest = target - own @ z
        return 0.5 * rest @ rest + LAM * z.sum(), LAM - own.T @ rest

    bounds = [(0, None)] * own.shape[1]
    start = np.ones(own.shape[1])
    return minimize(value, start, jac=True, bounds=bounds, options={"ftol": 1e-14}).fun


def parts(target, dictionary, codes, nonneg=True):
    """Of atoms of length 2 and a bias, with a first row that does not count."""
    rows = np.concatenate([100 + target[:1], target]) + 3
    own = jnp.asarray(np.concatenate([codes[:1], codes]) / 2, jnp.float32)
    model = Model(
        jnp.asarray(2 * dictionary, jnp.float32),
        jnp.full(len(dictionary), 3.0),
        encode=lambda *_: own,
    )
    held = Split(jnp.asarray(rows, jnp.float32), counts=np.arange(len(rows)) > 0)
    task = Task(held, held, held)
    lasso = Lasso(LAM, nonneg=nonneg)
    inference = Inference(task, model, timed=False)
    found = {"id": inference.infer(lasso, "id").codes}
    learner = Given(Held(model), "mine", "sae", not nonneg)
    method = Method("mine", "sae", learner, lasso)
    given = (task, model, found, {}, None, "strict", {}, lasso, method, inference)
    return gap.PARTS(Inferred(*given))


def test_each_part_is_what_scipy_finds():
    target, dictionary, codes = draw()
    found = parts(target, dictionary, codes)
    own = objective(target, dictionary, codes)
    scaled = minimize_scalar(
        lambda a: objective(target, dictionary, a * codes).mean(),
        bounds=(0, 3),
        method="bounded",
    )
    support, every = (
        np.array([best(y, dictionary, on) for y, on in zip(target, sets, strict=True)])
        for sets in (codes != 0, np.full(codes.shape, True))
    )
    assert (
        found["scale"] == approx(scaled.x, abs=1e-4) and abs(found["scale"] - 1) > 0.1
    )
    shares = [found[f"{part}_share"] for part in ("scale", "values", "support")]
    wanted = np.diff([own.mean(), scaled.fun, support.mean(), every.mean()])
    assert shares == approx(-wanted / every.mean(), rel=1e-3, abs=1e-5)
    assert min(shares) > 0.001 and sum(shares) == approx(found["relative_gap"])
    assert found["gap"] == approx((own - every).mean(), rel=1e-4)
    assert 0 <= found["optimum_slack"] <= 1e-6 and 0 <= found["support_slack"] <= 2e-6
    order = np.argsort(every - own)
    assert found["worst"] == (1 + order).tolist() and found["unconverged"] == 0
    assert found["worst_gap"] == approx((own - every)[order], rel=1e-4, abs=1e-5)


def test_codes_that_only_want_a_scale_lose_nothing_else():
    target, dictionary, codes = draw(2)
    y, atoms = (jnp.asarray(array, jnp.float32) for array in (target, dictionary))
    optimum = np.asarray(sparse_code(y, atoms, LAM).codes)
    found = parts(target, dictionary, 1.5 * optimum)
    assert found["scale"] == approx(1 / 1.5, rel=1e-3) and found["gap"] > 0.01
    assert [found["values_share"], found["support_share"]] == approx([0, 0], abs=1e-5)
    used = optimum.any(axis=0)
    # As many latents as the optimum leaves off, and one that it has on.
    codes[:] = ~used
    codes[:, used.argmax()] = 1
    names = "unused", "used_only", "fired_only"
    wanted = [((~used).sum(), 0, 0), (0, used.sum() - 1, (~used).sum())]
    others = parts(target, dictionary, codes)
    assert [tuple(each[name] for name in names) for each in (found, others)] == wanted
    codes[0] = 0
    both = (codes != 0) & (optimum != 0)
    sizes = {"jaccard": (codes != 0) | (optimum != 0), "overlap_precision": codes != 0}
    sizes |= {"overlap_recall": optimum != 0}
    found = parts(target, dictionary, codes)
    for name, size in sizes.items():
        shares = both.sum(axis=1) / np.maximum(size.sum(axis=1), 1)
        assert found[name] == approx(shares.mean())
    assert parts(target, dictionary, -codes, nonneg=False)["scale"] == 0
    nothing = parts(0 * target, dictionary, 0 * codes)
    assert (nothing["scale"], nothing["gap"], nothing["worst_relative_gap"]) == (
        1,
        0,
        [0] * 7,
    )
    assert nothing["jaccard"] == nothing["overlap_recall"] == 1
