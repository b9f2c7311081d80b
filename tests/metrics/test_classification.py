"""Probes against scikit-learn."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from sae_gap.core import Model, Split, Task
from sae_gap.metrics import Inferred, classification


def problem(seed, num_samples=400, num_latents=12, noise=1.0, dtype=np.float32):
    """Sparse non-negative codes, and labels that depend on two of them and on noise."""
    rng = np.random.default_rng(seed)
    codes = rng.random((num_samples, num_latents)) * (rng.random((num_samples, num_latents)) < 0.4)
    labels = 4 * codes[:, 0] - 3 * codes[:, 1] + noise * rng.standard_normal(num_samples) > 0.5
    return codes.astype(dtype), labels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape",
    [{}, {"num_samples": 60, "num_latents": 100}, {"noise": 0.0}],
    ids=["overlap", "wide", "separable"],
)
def test_logistic_probe_against_scikit_learn(shape, dtype):
    codes, labels = problem(0, **shape, dtype=dtype)
    other, other_labels = problem(1, **shape, dtype=dtype)
    peer = LogisticRegression(C=np.inf, max_iter=1_000).fit(codes, labels)
    probe = classification.fit_logistic(codes, labels)
    assert classification.accuracy(probe, codes, labels) == pytest.approx(
        peer.score(codes, labels), abs=1e-3
    )
    assert classification.accuracy(probe, other, other_labels) == pytest.approx(
        peer.score(other, other_labels), abs=1e-3
    )


@pytest.mark.parametrize("only", [True, False])
def test_one_class_is_answered_always(only):
    codes, labels = problem(4)
    probe = classification.fit_logistic(codes, np.full(len(codes), only))
    assert classification.accuracy(probe, codes, labels) == np.mean(labels == only)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_constant_codes_leave_the_majority(value):
    _, labels = problem(5)
    codes = np.full((len(labels), 3), value, np.float32)
    probe = classification.fit_logistic(codes, labels)
    assert classification.accuracy(probe, codes, labels) == max(labels.mean(), (~labels).mean())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_auc_against_scikit_learn_with_ties(dtype):
    codes, labels = problem(6, num_latents=8, dtype=dtype)
    codes[:, 2] = np.round(codes[:, 2] * 3)
    codes[:, 3] = 0.1
    codes[:, 4] *= -1
    expected = [roc_auc_score(labels, column) for column in codes.T]
    np.testing.assert_allclose(classification.roc_auc(codes, labels), expected, atol=1e-12)
    assert classification.roc_auc(codes, labels)[3] == 0.5


def test_auc_of_more_columns_than_are_ranked_at_once():
    codes, labels = problem(7, num_samples=30, num_latents=2_500)
    areas = classification.roc_auc(codes, labels)
    for column in (0, 1_023, 1_024, 2_499):
        assert areas[column] == pytest.approx(roc_auc_score(labels, codes[:, column]))


def test_one_class_has_no_auc_but_chance():
    codes, _ = problem(8)
    for only in (True, False):
        assert np.array_equal(
            classification.roc_auc(codes, np.full(len(codes), only)), np.full(codes.shape[1], 0.5)
        )
    assert classification.fit_latent(codes, np.full(len(codes), True)) == (0, 1)


def test_best_latent_is_that_of_the_fitted_split_in_its_direction():
    codes, labels = problem(9)
    codes[:, 5] = -2 * labels - codes[:, 5]
    probe = classification.fit_latent(codes, labels)
    assert probe == (5, -1) and classification.fit_latent(-codes, labels) == (5, 1)
    assert classification.latent_auc(probe, codes, labels) == 1
    # A latent that turns round elsewhere is worse than chance there, and is not folded back.
    assert classification.latent_auc(probe, -codes, labels) == 0
    assert classification.latent_auc(probe, np.zeros_like(codes), labels) == 0.5


def test_one_class_tells_nothing():
    rng = np.random.default_rng(0)
    codes = {name: rng.random((20, 3)).astype(np.float32) for name in ("train", "id", "ood")}
    splits = {name: Split(jnp.zeros((20, 2)), jnp.asarray(code)) for name, code in codes.items()}
    faint = Split(jnp.zeros((20, 2)), jnp.asarray(codes["ood"]) * 0.4)
    model = Model(None, jnp.zeros(2))

    def measured(train, ood):
        task = Task(train, splits["id"], ood, width=3)
        return classification.measure(Inferred(task, model, codes, {}, 0.1, "strict"))

    assert measured(faint, splits["ood"]) == {}
    found = measured(splits["train"], faint)
    assert found["base_rate_ood"] == 1 and "auc_ood" not in found and "auc_id" in found
    share = np.mean(codes["id"][:, 0] > 0.5)
    assert found["base_rate_id"] == pytest.approx(max(share, 1 - share))


@pytest.mark.parametrize(("protocol", "turned"), [("strict", 0), ("paper", 1)])
def test_a_latent_that_turns_round_out_of_distribution_is_wrong_there(protocol, turned):
    rng = np.random.default_rng(0)
    truth = {name: rng.random((60, 1)).astype(np.float32) for name in ("train", "id", "ood")}
    task = Task(
        *(Split(jnp.zeros((60, 2)), jnp.asarray(codes)) for codes in truth.values()), width=1
    )
    found = classification.measure(
        Inferred(
            task, Model(None, jnp.zeros(2)), truth | {"ood": 1 - truth["ood"]}, {}, 0.1, protocol
        )
    )
    # The published form takes the better of both directions on each split.
    assert (found["auc_id"], found["auc_ood"]) == (1, turned)
    assert found["accuracy_id"] > 0.9 and found["accuracy_ood"] < 0.1


def test_penalised_probe_against_scikit_learn():
    codes, labels = problem(5, dtype=np.float64)
    peer = LogisticRegression(C=0.3, tol=1e-8).fit(codes, labels)
    probe = classification.fit_logistic(codes, labels, strength=1 / (0.3 * len(labels)))
    np.testing.assert_allclose(probe.weights, peer.coef_[0], atol=5e-3)
    assert probe.intercept == pytest.approx(peer.intercept_[0], abs=5e-3)
