"""The dictionary challenge at smoke size: rows, table, figures, cells and streams, and one sentence
for whatever is wrong.
"""

import dataclasses
import sys

from benchmarks.studies.dictionary_challenge import BENCH
from sae_gap import Setting, Store, catalogue
from sae_gap.analysis import tables
from tests.conftest import lines_of, page_of, refused, succeed


def methods(source, **values):
    preset = dataclasses.replace(BENCH.presets["quick"], **values)
    return {method.name: method for method in BENCH.methods(source, preset)}


def test_learners_see_all_samples_and_take_the_steps_of_the_preset(smokes):
    rows = smokes("dictionary_challenge").rows
    assert {row["samples_seen"] for row in rows} == {100}
    steps = {row["method"]: row["fit_steps"] for row in rows}
    # Of two batches each, so that there are a hundred gradient steps.
    own = {"online_dl": steps["online_dl"], "fista_oracle": steps["fista_oracle"]}
    assert steps == own | {
        "sae_topk": 50,
        "sae_batchtopk": 50,
        "dl_fista": 5,
        "spams": 10,
        "sklearn": 10,
    }


def test_a_stream_trains_on_all_of_its_samples(tmp_path, caplog):
    options = ("--preset=smoke", "--stream", "--noise_db=20", f"--results_dir={tmp_path}")
    succeed("dictionary_challenge", *options, "--methods=sklearn,sae_relu,fista_oracle")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    rows = Store(tmp_path / "dictionary_challenge").rows()
    assert {(row["samples_seen"], row["stream"]) for row in rows} == {(200, True)}
    assert {row["fit_steps"] for row in rows if row["method"] == "sae_relu"} == {25}
    for line in lines_of(page_of(tmp_path) / "summary.csv"):
        assert [*line][:6] == [*tables.BY, "noise_db", "stream"] and line["stream"] == "True"


def test_saes_are_tuned_and_take_the_steps_they_are_given():
    few = methods(Setting(100, 10, 5_000))["sae_topk"].learner
    assert few == catalogue.tuned_sae("topk", sparsity=10, input_dim=47, num_steps=1_250)
    many = methods(Setting(100, 10, 1_000_000, stream=True))["sae_topk"].learner
    assert (many.num_steps, many.renormalise_every) == (4, 1)
    assert many.learning_rate == few.learning_rate
    assert methods(Setting(), sae_steps=1)["sae_topk"].learner.num_steps == 1


def test_learners_take_the_visits_and_the_steps_of_peers():
    chosen = methods(Setting(), visits=7, peer_steps=9, lam=0.3)
    learners = {name: method.learner for name, method in chosen.items()}
    assert learners["online_dl"].visits == learners["online_dl_families"].base.visits == 7
    for name in ("spams", "sklearn"):
        assert (learners[name].lam, learners[name].num_steps) == (0.3, 9)


def test_the_default_needs_no_other_package_and_an_absent_one_is_one_sentence(
    monkeypatch, tmp_path
):
    for module in ("spams", "sklearn.decomposition"):
        monkeypatch.setitem(sys.modules, module, None)
    options = ("dictionary_challenge", "--preset=smoke", f"--results_dir={tmp_path / 'results'}")
    out = succeed(*options, "--dry_run")
    for name in ("spams", "sklearn", "gated", "online_dl", "dl_fista", "sae_topk", "fista_oracle"):
        assert (f": {name}: " in out) == (name not in ("spams", "sklearn", "gated"))
    refused("spams needs spams", *options, "--methods=spams,fista_oracle")
    assert not (tmp_path / "results").exists()
