"""The parts of the gap against SciPy and the overlap of supports against sets."""

import jax.numpy as jnp
import numpy as np
import pytest
from sae_gap.measure.chunk import gap_parts, gap_sums, overlap, pack, unpack
from scipy.optimize import minimize, minimize_scalar

from sae_gap.solvers import sparse_code

LAM = 0.2
SHARES = ("scale_share", "values_share", "support_share")


def draw(seed=0, n=7, dim=6, width=10):
    rng = np.random.default_rng(seed)
    dictionary = rng.normal(size=(dim, width))
    dictionary /= np.linalg.norm(dictionary, axis=0)
    codes = np.maximum(rng.normal(size=(n, width)), 0) * (rng.random((n, width)) < 0.4)
    target = codes @ dictionary.T + 0.3 * rng.normal(size=(n, dim))
    return target, dictionary, 1.7 * codes + 0.2 * (codes > 0)


def objective(target, dictionary, codes):
    return 0.5 * np.sum((target - codes @ dictionary.T) ** 2, axis=1) + LAM * np.abs(codes).sum(
        axis=1
    )


def best(target, dictionary, on):
    """The least objective of one sample over `z ≥ 0` on a support, by L-BFGS-B."""
    own = dictionary[:, on]
    if not on.any():
        return 0.5 * target @ target

    def value(z):
        rest = target - own @ z
        return 0.5 * rest @ rest + LAM * z.sum(), LAM - own.T @ rest

    bounds = [(0, None)] * own.shape[1]
    return minimize(
        value,
        np.ones(own.shape[1]),
        jac=True,
        bounds=bounds,
        options={"ftol": 1e-14, "gtol": 1e-10},
    ).fun


def sums(target, dictionary, codes, nonneg=True):
    y, d, z = (jnp.asarray(array, jnp.float32) for array in (target, dictionary, codes))
    support = sparse_code(y, d, LAM, nonneg=nonneg, support=z)
    return gap_sums(y, d, z, LAM, support, sparse_code(y, d, LAM, nonneg=nonneg))


def test_each_part_is_what_scipy_finds():
    target, dictionary, codes = draw()
    parts = gap_parts(sums(target, dictionary, codes), len(target))
    own = objective(target, dictionary, codes).mean()
    scaled = minimize_scalar(
        lambda a: objective(target, dictionary, a * codes).mean(), bounds=(0, 3), method="bounded"
    )
    support = np.mean([best(y, dictionary, z != 0) for y, z in zip(target, codes, strict=True)])
    every = np.mean(
        [best(y, dictionary, np.full(len(z), True)) for y, z in zip(target, codes, strict=True)]
    )
    assert parts["scale"] == pytest.approx(scaled.x, abs=1e-4) and abs(parts["scale"] - 1) > 0.1
    found = np.array([parts[name] for name in SHARES])
    wanted = np.array([own - scaled.fun, scaled.fun - support, support - every])
    assert found * every == pytest.approx(wanted, rel=1e-3, abs=1e-5) and wanted.min() > 0.001
    assert parts["relative_gap"] == pytest.approx(found.sum()) and parts["gap"] == pytest.approx(
        own - every, rel=1e-4
    )
    assert (
        0 <= parts["support_slack"] <= 1e-6 * support / every
        and 0 <= parts["optimum_slack"] <= 1e-6
    )


def test_codes_that_only_want_a_scale_lose_nothing_else():
    target, dictionary, _ = draw(2)
    optimum = np.asarray(
        sparse_code(
            jnp.asarray(target, jnp.float32), jnp.asarray(dictionary, jnp.float32), LAM
        ).codes
    )
    parts = gap_parts(sums(target, dictionary, 1.5 * optimum), len(target))
    assert parts["scale"] == pytest.approx(1 / 1.5, rel=1e-3)
    assert (
        parts["scale_share"] == pytest.approx(parts["relative_gap"], rel=1e-3)
        and parts["gap"] > 0.01
    )
    assert parts["values_share"] == pytest.approx(0, abs=1e-5) and parts[
        "support_share"
    ] == pytest.approx(0, abs=1e-5)


def test_codes_that_point_away_are_scaled_to_nothing_and_signed_ones_are_held_against_signed_ones():
    target, dictionary, codes = draw(3)
    assert gap_parts(sums(target, dictionary, -codes, nonneg=False), 7)["scale"] == 0
    turned = codes * np.sign(np.random.default_rng(0).normal(size=codes.shape))
    signed, plain = (
        sums(target, dictionary, codes, nonneg)
        for codes, nonneg in ((turned, False), (codes, True))
    )
    assert signed["sum_optimum"] < plain["sum_optimum"]


def test_codes_of_nothing_want_no_scale():
    dark = gap_parts(
        dict.fromkeys(sums(*draw()), 0.0)
        | {"sum_energy": 1.0, "sum_support": 1.0, "sum_optimum": 1.0},
        2,
    )
    assert (dark["scale"], dark["gap"]) == (1, 0)


def test_overlap_is_that_of_sets():
    rng = np.random.default_rng(0)
    fired, used = (rng.random((20, 9)) < 0.4 for _ in range(2))
    for sample in range(20):
        mine, his = set(np.flatnonzero(fired[sample])), set(np.flatnonzero(used[sample]))
        both, sizes = len(mine & his), {"jaccard": mine | his, "precision": mine, "recall": his}
        found = overlap(fired[sample : sample + 1], used[sample : sample + 1])
        assert found == pytest.approx(
            {name: both / len(size) if size else 0 for name, size in sizes.items()}
        )
    empty = np.array([[0, 0], [0, 0], [1, 0]], bool), np.array([[0, 0], [0, 1], [0, 0]], bool)
    assert overlap(*empty) == dict.fromkeys(("jaccard", "precision", "recall"), 1.0)


def test_flags_survive_their_packing():
    for count in (1, 7, 8, 21):
        flags = np.random.default_rng(count).random(count) < 0.5
        np.testing.assert_array_equal(unpack(pack(flags), count), flags)
        assert len(pack(flags)) == 2 * -(-count // 8)
