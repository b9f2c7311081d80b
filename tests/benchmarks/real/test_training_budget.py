"""Both halves at smoke size: the fits and the parts of nats are those that the rows say, and a
second run makes nothing again.
"""

import numpy as np

from sae_gap import Models, Store
from sae_gap.data import HeldOut
from sae_gap.lm import on_network
from sae_gap.measure import learner_at
from tests.conftest import lines_of, page_of, succeed


def test_drawn_and_recorded_saes_along_their_training(recorded, tmp_path, monkeypatch):
    np.save(tmp_path / "wide.npy", np.random.default_rng(0).normal(size=(64, 200)))
    flags = (*recorded.flags, f"--results_dir={tmp_path}", f"--dictionary={tmp_path}/wide.npy")
    flags += ("--preset=smoke", "--methods=sae_topk,lasso_1_topk,lasso_1_oracle")
    flags += ("--saes=topk", "--atoms=80", "--steps=1,12")
    out = succeed("training_budget", *flags)
    drawn = lines_of(page_of(tmp_path) / "decomposition.csv")
    assert [line["step"] for line in drawn if line["loss"] == "mcc_ood"] == ["1", "5"]
    rows = Store(tmp_path / "training_budget" / "nats").rows()
    kl = {(row["dictionary"], row["codes"]): row["kl"] for row in rows}
    rest, whole = kl["wide", "screened"], HeldOut(recorded.found.activations(1), split_seed=0)
    for line, steps in zip(lines_of(page_of(tmp_path) / "nats.csv"), (1, 12), strict=True):
        parts = []
        for seed in (0, 1):
            sizes = {"width": 80, "sparsity": 4, "split_seed": 0, "together": True}
            seen = HeldOut(whole.activations, **sizes, seed=seed, learn_from=256 * steps)
            epochs = max(1, round(256 * steps / whole.num_train))
            learner = learner_at("topk", 80, 4, 64, num_steps=epochs, batch_size=256)
            assert Models(tmp_path / "models").folder(learner, seen).exists("fit.json")
            own, best = (kl[f"topk-80-{steps}-{seed}", name] for name in ("own", "screened"))
            parts.append((own - best, best - rest, rest))
        told = [float(line[name]) for name in ("amortisation_part", "dictionary_part", "rest")]
        np.testing.assert_allclose(told, np.mean(parts, axis=0), rtol=1e-4, atol=1e-6)
    assert epochs > 1
    monkeypatch.setattr(Models, "_fit", None)
    monkeypatch.setattr(on_network.Downstream, "of_model", None)
    assert succeed("training_budget", *flags) == out
