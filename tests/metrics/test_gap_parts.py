"""The parts of the gap against SciPy and the overlap of supports against sets."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize, minimize_scalar

from sae_gap.core import Model, Split, Task
from sae_gap.encoders import Lasso
from sae_gap.learners import Given, Held
from sae_gap.metrics import Inferred, gap_parts
from sae_gap.solvers import sparse_code
from sae_gap.study import Inference, Method

LAM = 0.2


def draw(seed=0, n=7, dim=6, width=10):
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(dim, width))
    dictionary /= np.linalg.norm(dictionary, axis=0)
    codes = np.maximum(rng.normal(size=(n, width)), 0) * (rng.random((n, width)) < 0.4)
    target = codes @ dictionary.T + 0.3 * rng.normal(size=(n, dim))
    return target, dictionary, 1.7 * codes + 0.2 * (codes > 0)


def objective(target, dictionary, codes):
    fit = np.sum((target - codes @ dictionary.T) ** 2, axis=1)
    return 0.5 * fit + LAM * np.abs(codes).sum(axis=1)


def best(target, dictionary, on):
    """The least objective of one sample over `z ≥ 0` on a support, by L-BFGS-B."""
    own = dictionary[:, on]
    if not on.any():
        return 0.5 * target @ target

    def value(z):
        rest = target - own @ z
        return 0.5 * rest @ rest + LAM * z.sum(), LAM - own.T @ rest

    bounds, start = [(0, None)] * own.shape[1], np.ones(own.shape[1])
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
    task, lasso = Task(held, held, held), Lasso(LAM, nonneg=nonneg)
    inference = Inference(task, model, timed=False)
    found = {"id": inference.infer(lasso, "id").codes}
    learner = Given(Held(model), "mine", "sae", not nonneg)
    method = Method("mine", "sae", learner, lasso)
    given = (task, model, found, {}, None, "strict", {}, lasso, method, inference)
    return gap_parts.measure(Inferred(*given))


def test_each_part_is_what_scipy_finds():
    target, dictionary, codes = draw()
    found = parts(target, dictionary, codes)
    own = objective(target, dictionary, codes)
    scaled = minimize_scalar(
        lambda a: objective(target, dictionary, a * codes).mean(), bounds=(0, 3), method="bounded"
    )
    support, every = (
        np.array([best(y, dictionary, on) for y, on in zip(target, sets, strict=True)])
        for sets in (codes != 0, np.full(codes.shape, True))
    )
    assert found["scale"] == pytest.approx(scaled.x, abs=1e-4) and abs(found["scale"] - 1) > 0.1
    shares = [found[f"{part}_share"] for part in ("scale", "values", "support")]
    wanted = np.diff([own.mean(), scaled.fun, support.mean(), every.mean()])
    assert shares == pytest.approx(-wanted / every.mean(), rel=1e-3, abs=1e-5)
    assert min(shares) > 0.001 and sum(shares) == pytest.approx(found["relative_gap"])
    assert found["gap"] == pytest.approx((own - every).mean(), rel=1e-4)
    assert 0 <= found["optimum_slack"] <= 1e-6 and 0 <= found["support_slack"] <= 2e-6
    order = np.argsort(every - own)
    assert found["worst"] == (1 + order).tolist() and found["unconverged"] == 0
    assert found["worst_gap"] == pytest.approx((own - every)[order], rel=1e-4, abs=1e-5)


def test_codes_that_only_want_a_scale_lose_nothing_else():
    target, dictionary, _ = draw(2)
    y, atoms = (jnp.asarray(array, jnp.float32) for array in (target, dictionary))
    optimum = np.asarray(sparse_code(y, atoms, LAM).codes)
    found = parts(target, dictionary, 1.5 * optimum)
    assert found["scale"] == pytest.approx(1 / 1.5, rel=1e-3) and found["gap"] > 0.01
    assert found["scale_share"] == pytest.approx(found["relative_gap"], rel=1e-3)
    assert [found["values_share"], found["support_share"]] == pytest.approx([0, 0], abs=1e-5)
    assert (found["fired_only"], found["used_only"], found["jaccard"]) == (0, 0, 1)
    assert found["unused"] == (optimum == 0).all(axis=0).sum()


def test_codes_that_point_away_or_of_nothing():
    target, dictionary, codes = draw(3)
    assert parts(target, dictionary, -codes, nonneg=False)["scale"] == 0
    nothing = parts(0 * target, dictionary, 0 * codes)
    assert (nothing["scale"], nothing["gap"], nothing["worst_relative_gap"]) == (1, 0, [0] * 7)


def test_overlap_is_that_of_sets():
    rng = np.random.default_rng(0)
    fired, used = (rng.random((20, 9)) < 0.4 for _ in range(2))
    fired[0], used[:2] = False, False
    found = np.transpose(gap_parts.overlap(fired, used))
    for sample, shares in enumerate(found):
        mine, his = set(np.flatnonzero(fired[sample])), set(np.flatnonzero(used[sample]))
        wanted = [
            len(mine & his) / len(size) if size else float(mine == his)
            for size in (mine | his, mine, his)
        ]
        assert shares == pytest.approx(wanted)
