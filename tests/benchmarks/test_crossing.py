"""Any learner crossed with any encoder by name, and dictionaries of any width."""

import dataclasses
import itertools

import pytest

from benchmarks import studies
from benchmarks.harness import crossing
from benchmarks.harness import preset as presets
from sae_gap import Setting, Store, catalogue
from sae_gap.encoders import OMP, Lasso, OnSupport
from sae_gap.learners import Amortised, DLFista, Oracle, Random, SparseAutoencoder
from tests.conftest import lines_of, page_of, succeed

SOURCE = Setting(20, 3, 200)
# Of a weight that is not the default.
SMOKE = dataclasses.replace(presets.SMOKE, lam=0.2)
STUDIES = studies.found()


def made(name, study="amortisation_gap", preset=SMOKE):
    kind = type(STUDIES[study].presets["smoke"])
    preset = kind(**vars(preset))
    return crossing.method_of(name, STUDIES[study].methods(SOURCE, preset), SOURCE, preset)


TOPK = catalogue.make_encoder("topk", sparsity=3)
SAE = catalogue.paper_sae("topk", sparsity=3, num_steps=5)
TUNED = catalogue.tuned_sae("gated", sparsity=3, input_dim=SOURCE.input_dim, num_steps=5)
COLD = DLFista(0.2, num_steps=5)
ON_COLD = Amortised((TOPK,), 0.2, base=COLD, num_steps=5)
# By its own loss, as its batches leave a threshold behind.
BATCHTOPK = catalogue.make_encoder("batchtopk", sparsity=3)
BY_BATCHES = SparseAutoencoder(BATCHTOPK, base=Oracle(), frozen=True, num_steps=5)
# The learner, the encoder, the family and the name of the inference of each.
CROSSINGS = {
    "oracle:omp": (Oracle(), OMP(3), "oracle", "omp"),
    # A learner alone has the certified lasso.
    "random": (Random(), Lasso(0.2), "baseline", "lasso"),
    # A dictionary that the study has is the study's.
    "topk:omp": (SAE, OMP(3), "frozen", "omp"),
    # An SAE has its own codes, and its encoder is not trained twice.
    "topk:topk": (SAE, SAE.encoder, "frozen", "own"),
    "sae_gated": (TUNED, TUNED.encoder, "sae", "own"),
    "gated": (TUNED, Lasso(0.2), "frozen", "lasso"),
    "topk:support": (SAE, OnSupport(TOPK, 0.2), "frozen", "support"),
    # An encoder with parameters is trained on the dictionary.
    "oracle:batchtopk": (BY_BATCHES, BATCHTOPK, "oracle", "batchtopk"),
    "dl_fista:topk": (ON_COLD, ON_COLD.members[0], "dictionary_learning", "topk"),
}


@pytest.mark.parametrize("name", CROSSINGS)
def test_a_crossing_is_the_learner_with_the_encoder_at_the_sparsity_of_the_source(name):
    method = made(name)
    found = method.learner, method.encoder, method.family, method.coordinates["inference"]
    assert found == CROSSINGS[name] and method.name == name


def test_options_of_the_study_and_the_protocol_are_those_of_its_crossings():
    assert made("topk:omp", "dictionary_challenge").learner.num_steps == 50
    # Cold, and not what goes on from another dictionary.
    assert made("dl_fista:omp", "warmstart_decoder").learner == COLD
    published = made("random:lasso", preset=dataclasses.replace(SMOKE, protocol="paper"))
    assert published.encoder.max_iterations == 100


def test_methods_of_other_studies_run_in_every_study():
    names = "linear_probe raw sae_topk online_dl_families fista_oracle spams batchtopk"
    for name, study in itertools.product(names.split(), STUDIES):
        method = made(name, study)
        assert method.name == name and getattr(method.learner, "lam", 0.2) == 0.2
    for name in {*catalogue.encoders()} - {"lookup", "linear"}:
        assert made(f"topk:{name}").name == f"topk:{name}"


@pytest.mark.parametrize(
    "name",
    ["nope", "sae_nope", "topk:nope", "nope:omp", "surgery", "oracle:support", ":omp"],
)
def test_what_cannot_be_made_is_one_sentence(name):
    with pytest.raises(ValueError, match=r"^[^\n]*\.$"):
        made(name)
    with pytest.raises(ValueError, match=r"online_dl is no SAE; write online_dl"):
        made("sae_online_dl")


def test_crossings_of_dictionaries_of_other_widths_are_scored_against_the_truth(tmp_path):
    crossings = ("oracle:screened_pursuit", "oracle:batch_pursuit")
    names = ("frozen_topk", "oracle_norms_topk", "fista_oracle", *crossings)
    options = ("--preset=smoke", "--seeds=0", "--num_latents=20", "--width=12,30")
    methods = f"--methods={','.join(names)}"
    out = succeed("dict_quality", *options, methods, f"--results_dir={tmp_path}")
    assert all(f"\n{name} " in out for name in names)
    found = Store(tmp_path / "dict_quality").rows()
    rows = {(row["method"], row.get("width")): row for row in found}
    assert {row["num_latents"] for row in rows.values()} == {20} and len(rows) == len(found) == 10
    for width in (12, 30):
        # The truth is as wide as it is, whatever the width to learn.
        for name in names[2:]:
            assert rows[name, width]["cosine"] == pytest.approx(1)
        assert rows[crossings[0], width]["l0_above_id"] <= 3
        # As many as are aimed at, by the threshold of the training rows.
        assert rows[crossings[1], width]["l0_above_id"] == pytest.approx(3, rel=0.2)
        learned = rows["frozen_topk", width]
        assert learned["cosines"].count(0) == max(0, 20 - width) and len(learned["cosines"]) == 20
        assert learned["cosine"] <= min(1, width / 20) and learned["certificate_id"] <= 1e-6
        # Atoms with a partner have its length, of which a wider dictionary has twenty.
        ratio = rows["oracle_norms_topk", width]["norm_ratio"]
        assert ratio == pytest.approx(min(width, 20) / 20, abs=1e-5)
    assert {line["width"] for line in lines_of(page_of(tmp_path) / "summary.csv")} == {"12", "30"}
