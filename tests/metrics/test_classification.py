"""Classification and probes of concepts against scikit-learn and sae-probes."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import scipy.sparse
from numpy import arange
from numpy.random import default_rng
from numpy.testing import assert_allclose
from pytest import approx, mark
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sae_gap import probing
from sae_gap.core import Model, Split, Task
from sae_gap.metrics import Inferred, classification, fit_logistic, probes, roc_auc
from sae_gap.probing import concepts


def problem(seed, num_samples=400, num_latents=12, noise=1.0, dtype=np.float32):
    """Sparse non-negative codes, and labels that depend on two of them and on noise."""
    rng = default_rng(seed)
    codes = rng.random((num_samples, num_latents)) * (
        rng.random((num_samples, num_latents)) < 0.4
    )
    labels = (
        4 * codes[:, 0] - 3 * codes[:, 1] + noise * rng.standard_normal(num_samples)
        > 0.5
    )
    return codes.astype(dtype), labels


def accuracy(probe, codes, labels):
    return np.mean((probe.decide(codes) > 0) == labels)


@mark.parametrize("dtype", [np.float32, float])
@mark.parametrize(
    "shape",
    [{}, {"num_samples": 60, "num_latents": 100}, {"noise": 0.0}],
    ids=["overlap", "wide", "separable"],
)
def test_logistic_probe_against_scikit_learn(shape, dtype):
    codes, labels = problem(0, **shape, dtype=dtype)
    peer = LogisticRegression(C=np.inf, max_iter=1_000).fit(codes, labels)
    probe = fit_logistic(codes, labels)
    for rows in ((codes, labels), problem(1, **shape, dtype=dtype)):
        assert accuracy(probe, *rows) == approx(peer.score(*rows), abs=1e-3)
    penalised = LogisticRegression(C=0.3, tol=1e-8).fit(codes, labels)
    probe = fit_logistic(codes, labels, strength=1 / (0.3 * len(labels)))
    assert_allclose(probe.weights, penalised.coef_[0], atol=1e-2)
    assert probe.intercept == approx(penalised.intercept_[0], abs=1e-2)


@mark.parametrize("only", [True, False])
def test_one_class_is_answered_always_and_has_no_auc_but_chance(only):
    codes, labels = problem(4)
    alone = np.full(len(codes), only)
    assert accuracy(fit_logistic(codes, alone), codes, labels) == np.mean(
        labels == only
    )
    assert (roc_auc(codes, alone) == 0.5).all()


def test_auc_against_scikit_learn_with_ties_and_of_many_columns():
    codes, labels = problem(6, num_samples=30, num_latents=2_500)
    codes[:, 1_023] = np.round(codes[:, 1_023] * 3)
    codes[:, 1_024] = 0.1
    codes[:, 4] *= -1
    few = [0, 4, 1_023, 1_024, 2_499]
    expected = [roc_auc_score(labels, codes[:, column]) for column in few]
    assert_allclose(roc_auc(codes, labels)[few], expected, atol=1e-12)


def measured(protocol="strict", codes=None, **truth):
    """The scores of codes on splits of some true codes, whose first column has the labels."""
    splits = (
        Split(jnp.zeros((len(part), 2)), jnp.asarray(part)) for part in truth.values()
    )
    given = (
        Task(*splits, width=1),
        Model(None, jnp.zeros(2)),
        codes or truth,
        {},
        0.1,
        protocol,
    )
    return classification.METRIC(Inferred(*given))


def test_one_class_tells_nothing():
    codes = {name: default_rng(0).random((20, 3)) for name in ("train", "id", "ood")}
    assert measured(**codes | {"train": 0.4 * codes["train"]}) == {}
    found = measured(**codes | {"ood": 0.4 * codes["ood"]})
    assert found["base_rate_ood"] == 1 and "auc_ood" not in found and "auc_id" in found
    share = np.mean(codes["id"][:, 0] > 0.5)
    assert found["base_rate_id"] == approx(0.5 + abs(share - 0.5))


@mark.parametrize("sign", [1, -1])
@mark.parametrize(("protocol", "turned"), [("strict", 0), ("paper", 1)])
def test_a_latent_that_turns_round_out_of_distribution_is_wrong_there(
    protocol, turned, sign
):
    rng = default_rng(0)
    truth = {
        name: rng.random((60, 1)).astype(np.float32) for name in ("train", "id", "ood")
    }
    told = {
        name: np.hstack([rng.random((60, 1)), sign * part])
        for name, part in truth.items()
    }
    told["ood"] = -told["ood"]
    if protocol == "paper":
        told["train"] = np.zeros((60, 2))
    else:
        # The other latent tells the classes where none is picked.
        told["id"][:, :1] = truth["id"]
    found = measured(protocol, told, **truth)
    # The published form takes the better of both directions on each split.
    assert (found["auc_id"], found["auc_ood"]) == (1, turned)
    assert found["accuracy_id"] > 0.9 and found["accuracy_ood"] < 0.6


def test_dense_probe_against_scikit_learn():
    rng = default_rng(0)
    x = rng.normal(size=(300, 20)) * arange(1, 21)
    labels = rng.random(300) < 0.5
    x[:, 0] += labels
    # So many rows of float32 that their sum in that type would be far from it.
    constant = np.full((200_000, 2), 0.1, np.float32)
    assert not probes.fit_dense(constant, arange(200_000) < 10).scale.any()
    probe = probes.fit_dense(x, labels)
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, tol=1e-8)).fit(
        x, labels
    )
    assert_allclose(probe.decide(x), peer.decision_function(x), atol=5e-3)
    # Equal rows tie.
    assert len({*probe.decide(np.repeat(x[:1].astype("f"), 333, axis=0)).tolist()}) == 1


def test_latents_are_ranked_as_sae_probes_ranks_them():
    rng = default_rng(1)
    codes = rng.random((200, 30)) * (rng.random((200, 30)) < 0.2) * arange(30)
    labels = rng.random(200) < 0.5
    scaled = codes / (
        np.abs(codes).sum(axis=0) / ((codes != 0).sum(axis=0) + 1e-6) + 1e-6
    )
    ranked = np.argsort(
        -np.abs(scaled[labels].mean(axis=0) - scaled[~labels].mean(axis=0))
    )
    sparse = scipy.sparse.csr_array(codes)
    probe = probes.fit_sparse(sparse, labels, 5)
    assert probe.latents.tolist() == ranked[:5].tolist()
    assert_allclose(probe.decide(sparse), probe.decide(codes))
    # What is on in one row of one class ties, however large.
    alone = np.diag(10 ** rng.uniform(-3, 3, 38))
    assert probes.fit_sparse(alone, arange(38) < 37, 37).latents.tolist() == [
        37,
        *range(36),
    ]


def test_probes_read_what_their_names_say():
    # Two latents tell the classes, their sum tells nothing, nor does any coordinate alone.
    rng = default_rng(3)
    labels = arange(400) % 2 < 1
    on = rng.random(400) < 0.5
    codes = np.stack([on * labels, on * ~labels, rng.random(400)], axis=1).astype(
        np.float32
    )
    rows = arange(400)
    tested = {
        cell: rows[200:][labels[200:] == (cell[0] == "1")] for cell in concepts.CELLS
    }
    split = probing.Split(dict.fromkeys(("all", "withheld"), rows[:200]), tested)
    task = SimpleNamespace(concepts={"c": probing.Labelled(labels, {0: split})})
    blind = rng.random((400, 1))
    told = {
        "activations": np.column_stack([blind, labels[:, None]]),
        "reconstruction": blind,
    }

    def scores(dictionary):
        model = SimpleNamespace(dictionary=dictionary)
        found = probes.measure(
            SimpleNamespace(task=task, codes={"id": codes}, model=model, **told)
        )
        return {name: found[f"auc_id {name}"][0] for name in found["probes"]}

    of_codes = scores(codes)
    of_rows = scores(None)
    assert [*of_codes] == ["dense", "k=all", "k=1", "k=2", "k=5", "k=20"]
    assert [*of_rows] == ["dense", "k=1", "k=2", "k=5", "k=20"]
    # One of two exclusive latents is silent on half of the rows of its class.
    assert of_codes["dense"] < 0.65 and 0.7 < of_codes["k=1"] < 0.8
    assert of_codes["k=2"] > of_codes["k=1"] + 0.05 and of_codes["k=all"] > 0.8
    assert min(of_rows.values()) == 1
