"""The MCC against brute force, and the ways in which the published form differs from it."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from scipy.stats import pearsonr

from sae_gap.core import Model, Split, Task
from sae_gap.metrics import Inferred, recovery


def brute_force(true_codes, codes):
    """Definition of the strict MCC, by loops over columns and permutations."""
    active = [column for column in true_codes.T if column.var() > 1e-8]
    constant = [np.ptp(column) == 0 for column in codes.T]
    scores = np.array(
        [
            [
                0.0 if flat else abs(pearsonr(a, b)[0])
                for b, flat in zip(codes.T, constant, strict=True)
            ]
            for a in active
        ]
    )
    wide = scores if scores.shape[0] <= scores.shape[1] else scores.T
    rows = np.arange(len(wide))
    return max(
        wide[rows, list(p)].sum() for p in itertools.permutations(range(wide.shape[1]), len(rows))
    ) / len(active)


def sparse(rng, shape, density=0.4):
    return rng.random(shape) * (rng.random(shape) < density)


@pytest.mark.parametrize("width", [2, 4, 6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mcc_is_the_definition(width, dtype):
    rng = np.random.default_rng(width)
    truth, codes = sparse(rng, (40, 5)), sparse(rng, (40, width))
    truth[:, 3] = 0.25
    # A variance of about 1e-6 is enough to count.
    truth[:, 4] *= 3e-3
    codes[:, 0] = 0.5
    assert recovery.mcc(truth.astype(dtype), codes.astype(dtype)) == pytest.approx(
        brute_force(truth, codes), abs=1e-5
    )


def test_signed_truth_counts_with_its_sign():
    # The magnitudes of the first true latent are those of the first code, but it is their sign that
    # codes explain.
    truth = np.array([[1.0, 0.0], [-1.0, 0.0], [0.5, 1.0], [-0.5, 1.0]])
    assert recovery.mcc(truth, -truth[:, ::-1]) == pytest.approx(1)
    assert recovery.mcc(truth[:, :1], np.abs(truth[:, :1])) == pytest.approx(0, abs=1e-9)
    assert recovery.mcc_paper(truth, -truth, "ood") == pytest.approx(1)


def padded_by_hand(truth, codes, split):
    """The published form with all its columns, constant ones too, in one square assignment."""
    truth = truth[:, truth.var(axis=0) > 1e-8]
    if split == "ood":
        codes = codes[:, np.argsort(-codes.var(axis=0), kind="stable")[: truth.shape[1]]]
    width = max(truth.shape[1], codes.shape[1])
    rng = np.random.default_rng(0)
    codes, truth = (
        np.hstack([part, rng.standard_normal((len(part), width - part.shape[1]))])
        for part in (codes, truth)
    )
    return brute_force(truth, codes)


@pytest.mark.parametrize("split", ["id", "ood"])
@pytest.mark.parametrize(
    ("dead", "still"), [([], []), ([0, 3], []), ([1], [2]), ([0, 1, 2, 3, 4], []), ([], [1, 2])]
)
@pytest.mark.parametrize("width", [4, 5, 6])
def test_constant_columns_count_as_nothing_in_the_published_form(split, dead, still, width):
    rng = np.random.default_rng(11)
    truth, codes = sparse(rng, (40, 5)), sparse(rng, (40, width))
    codes[:, [place for place in dead if place < width]] = 0
    truth[:, still] = 0
    expected = padded_by_hand(truth, codes, split)
    assert recovery.mcc_paper(truth, codes, split) == pytest.approx(expected, abs=1e-9)
    truth, codes = map(scipy.sparse.csr_array, (truth, codes))
    assert recovery.mcc_paper(truth, codes, split) == pytest.approx(expected, abs=1e-9)


def test_the_published_form_is_left_out_where_it_would_be_all_noise():
    rng = np.random.default_rng(13)
    signals, dense = jnp.zeros((8, 2)), sparse(rng, (8, 4)).astype(np.float32)
    splits = {}
    for width in (20_000, 20_001):
        codes = scipy.sparse.csr_array(np.pad(dense, ((0, 0), (0, width - 4))))
        task = Task(*(Split(signals, jnp.asarray(dense)) for _ in range(3)), width=4)
        splits[width] = recovery.measure(
            Inferred(
                task, Model(None, jnp.zeros(2)), dict.fromkeys(("id", "ood"), codes), {}, 0.1, ""
            )
        )
        assert splits[width]["mcc_id"] == pytest.approx(1)
    assert set(splits[20_001]) == {"mcc_id", "mcc_ood"}
    assert set(splits[20_000]) == {"mcc_id", "mcc_ood", "mcc_paper_id", "mcc_paper_ood"}


def test_measure_scores_each_split_in_its_own_form():
    rng = np.random.default_rng(14)
    # More codes than true latents, by which the two published forms differ.
    truth, codes = (
        {name: sparse(rng, (40, width)) for name in ("train", "id", "ood")} for width in (4, 7)
    )
    task = Task(*(Split(jnp.zeros((40, 2)), codes) for codes in truth.values()), width=4)
    found = recovery.measure(Inferred(task, Model(None, jnp.zeros(2)), codes, {}, 0.1, "strict"))
    for name, other in (("id", "ood"), ("ood", "id")):
        assert found[f"mcc_{name}"] == pytest.approx(
            brute_force(truth[name], codes[name]), abs=1e-6
        )
        own, swapped = (
            recovery.mcc_paper(truth[name], codes[name], form) for form in (name, other)
        )
        assert found[f"mcc_paper_{name}"] == own != pytest.approx(swapped, abs=1e-3)


@pytest.mark.parametrize(
    "score", [recovery.mcc, lambda truth, codes: recovery.mcc_paper(truth, codes, "id")]
)
def test_bad_input_is_refused(score):
    truth = sparse(np.random.default_rng(7), (10, 3))
    for left, right, message in (
        (truth, np.where(truth > 0, np.nan, 0.0), "codes must be finite"),
        (np.ones((10, 3)), truth, "nothing to recover"),
        (truth[:1], truth[:1], "nothing to recover"),
        (truth, truth[:5], "same samples"),
        (truth[0], truth[0], "non-empty matrix"),
    ):
        with pytest.raises(ValueError, match=message):
            score(left, right)


def test_a_split_whose_truth_is_constant_is_left_out():
    rng = np.random.default_rng(0)
    codes = {name: rng.random((8, 3)).astype(np.float32) for name in ("train", "id", "ood")}
    still = Split(jnp.zeros((8, 2)), jnp.ones((8, 3)))
    task = Task(still, Split(jnp.zeros((8, 2)), jnp.asarray(codes["id"])), still, width=3)
    found = recovery.measure(Inferred(task, Model(None, jnp.zeros(2)), codes, {}, 0.1, "strict"))
    assert set(found) == {"mcc_id", "mcc_paper_id"} and found["mcc_id"] == pytest.approx(1)
