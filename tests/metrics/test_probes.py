"""Probes against scikit-learn and sae-probes, on data whose answer is known."""

from types import SimpleNamespace

import numpy as np
import scipy.sparse
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sae_gap import probing
from sae_gap.metrics import probes
from sae_gap.probing import concepts


def test_dense_probe_against_scikit_learn():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(300, 20)) * np.arange(1, 21), rng.random(300) < 0.5
    x[:, 0] += labels
    # So many rows of float32 that their sum in that type would be far from it.
    constant = np.full((200_000, 2), 0.1, np.float32)
    assert not probes.fit_dense(constant, np.arange(200_000) < 10).scale.any()
    probe = probes.fit_dense(x, labels)
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, tol=1e-8)).fit(x, labels)
    np.testing.assert_allclose(probe.decide(x), peer.decision_function(x), atol=5e-3)


def test_latents_are_ranked_as_sae_probes_ranks_them():
    rng = np.random.default_rng(1)
    codes, labels = (
        rng.random((200, 30)) * (rng.random((200, 30)) < 0.2) * np.arange(30),
        rng.random(200) < 0.5,
    )
    scaled = codes / (np.abs(codes).sum(axis=0) / ((codes != 0).sum(axis=0) + 1e-6) + 1e-6)
    ranked = np.argsort(-np.abs(scaled[labels].mean(axis=0) - scaled[~labels].mean(axis=0)))
    sparse = scipy.sparse.csr_array(codes)
    probe = probes.fit_sparse(sparse, labels, 5)
    assert probe.latents.tolist() == ranked[:5].tolist()
    np.testing.assert_allclose(probe.decide(sparse), probe.decide(codes))


def test_what_is_alike_ties():
    rng = np.random.default_rng(2)
    labels = np.arange(90) % 2 < 1
    codes = np.where(rng.random((90, 40)) < 0.3, rng.random((90, 40)), 0).astype(np.float32)
    # Each but the last two is on in one row, all of one class.
    codes[:, :38] = 0
    codes[2 * np.arange(38), np.arange(38)] = 10.0 ** rng.uniform(-3, 3, 38)
    probe = probes.fit_sparse(codes, labels, 40)
    chosen = [latent for latent in probe.latents.tolist() if latent < 38]
    assert chosen == sorted(chosen) and len(chosen) == 38
    dense = rng.normal(size=(500, 37)).astype(np.float32)
    odds = probes.fit_dense(dense, dense[:, 0] > 0).decide(np.repeat(dense[:1], 333, axis=0))
    assert len({*odds.tolist()}) == 1


def test_probes_read_what_their_names_say():
    # Two latents tell the classes, their sum tells nothing, nor does any coordinate alone.
    rng, labels = np.random.default_rng(3), np.arange(400) % 2 < 1
    on = rng.random(400) < 0.5
    codes = np.stack([on * labels, on * ~labels, rng.random(400)], axis=1).astype(np.float32)
    rows = np.arange(400)
    tested = {cell: rows[200:][labels[200:] == (cell[0] == "1")] for cell in concepts.CELLS}
    split = probing.Split(dict.fromkeys(("all", "withheld"), rows[:200]), tested)
    task = SimpleNamespace(concepts={"c": probing.Labelled(labels, {0: split})})
    blind = rng.random((400, 1))
    told = np.column_stack([blind, labels[:, None]])

    def scores(**model):
        inferred = SimpleNamespace(
            task=task,
            codes={"id": codes},
            activations=told,
            reconstruction=blind,
            model=SimpleNamespace(**model),
        )
        found = probes.measure(inferred)
        return {name: found[f"auc_id {name}"][0] for name in found["probes"]}

    of_codes, of_rows = scores(dictionary=codes), scores(dictionary=None)
    assert [*of_codes] == ["dense", "k=all", "k=1", "k=2", "k=5", "k=20"]
    assert [*of_rows] == ["dense", "k=1", "k=2", "k=5", "k=20"]
    # One of two exclusive latents is silent on half of the rows of its class.
    assert of_codes["dense"] < 0.65 and 0.7 < of_codes["k=1"] < 0.8
    assert of_codes["k=2"] > of_codes["k=1"] + 0.05 and of_codes["k=all"] > 0.8
    assert min(of_rows.values()) == 1
