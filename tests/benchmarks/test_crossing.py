"""Any learner crossed with any encoder by name, and dictionaries of any width."""

import csv
import dataclasses

import pytest

from benchmarks import studies
from benchmarks.harness import crossing
from benchmarks.harness import preset as presets
from sae_gap import Setting, Store, catalogue
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.on_support import OnSupport
from sae_gap.encoders.pursuit import OMP
from sae_gap.learners.amortised import Amortised
from sae_gap.learners.dl_fista import DLFista
from sae_gap.learners.oracle import Oracle
from tests.conftest import page_of

SOURCE = Setting(20, 3, 200)
# Of a weight that is not the default.
SMOKE = dataclasses.replace(presets.SMOKE, lam=0.2)
STUDIES = studies.found()


def made(name, study="amortisation_gap", preset=SMOKE):
    kind = type(STUDIES[study].presets["smoke"])
    preset = kind(**vars(preset))
    return crossing.method_of(name, STUDIES[study].methods(SOURCE, preset), SOURCE, preset)


def test_a_crossing_is_the_learner_with_the_encoder_at_the_sparsity_of_the_source():
    method = made("oracle:omp")
    assert (method.name, method.family) == ("oracle:omp", "oracle")
    assert (method.learner, method.encoder) == (Oracle(), OMP(3))
    assert method.coordinates["dictionary"] == "oracle" and method.coordinates["inference"] == "omp"


def test_a_learner_alone_has_the_certified_lasso_at_the_weight_of_the_preset():
    method = made("random", preset=dataclasses.replace(SMOKE, lam=0.3))
    assert (method.encoder, method.family) == (Lasso(0.3), "baseline")
    published = made("random:lasso", preset=dataclasses.replace(SMOKE, protocol="paper"))
    assert published.encoder.max_iterations == 100 and published.coordinates["inference"] == "lasso"


def test_a_dictionary_that_the_study_has_is_the_study_s():
    sae = catalogue.paper_sae("topk", sparsity=3, num_steps=5)
    assert made("topk:omp").learner == sae and made("topk:omp").family == "frozen"
    assert made("topk:omp", "dictionary_challenge").learner.num_steps == 50
    # Cold, and not what goes on from another dictionary.
    assert made("dl_fista:omp", "warmstart_decoder").learner == DLFista(0.2, num_steps=5)
    assert made("oracle:omp", "encoder_budget").learner == Oracle()


def test_an_sae_has_its_own_codes_and_its_encoder_is_not_trained_twice():
    tuned = catalogue.tuned_sae("gated", sparsity=3, input_dim=SOURCE.input_dim, num_steps=5)
    method = made("sae_gated")
    assert (method.learner, method.encoder, method.family) == (tuned, tuned.encoder, "sae")
    assert made("gated").encoder == Lasso(0.2) and made("gated").learner == tuned
    own = made("topk:topk")
    assert own.encoder == own.learner.encoder and own.coordinates["inference"] == "own"


def test_an_encoder_with_parameters_is_trained_on_the_dictionary():
    method = made("dl_fista:topk")
    encoder = catalogue.make_encoder("topk", sparsity=3)
    assert method.learner == Amortised((encoder,), 0.2, base=DLFista(0.2, num_steps=5), num_steps=5)
    assert method.encoder == method.learner.members[0]
    assert method.coordinates["dictionary"] == "dl_fista"


def test_an_encoder_on_another_s_support_has_that_of_the_sae():
    topk = catalogue.make_encoder("topk", sparsity=3)
    assert made("topk:support").encoder == OnSupport(topk, 0.2)


@pytest.mark.parametrize("study", STUDIES)
def test_methods_of_other_studies_run_in_every_study(study):
    names = "linear_probe raw sae_topk online_dl_families fista_oracle spams batchtopk"
    for name in names.split():
        assert made(name, study).name == name
    assert made("spams", study).learner.lam == 0.2


@pytest.mark.parametrize(
    "name",
    [
        "nope",
        "sae_nope",
        "topk:nope",
        "nope:omp",
        "surgery",
        "oracle:support",
        ":omp",
        "sae_online_dl",
    ],
)
def test_what_cannot_be_made_is_one_sentence(name):
    words = "online_dl is no SAE; write online_dl" if name == "sae_online_dl" else ""
    with pytest.raises(ValueError, match=rf"^[^\n]*{words}[^\n]*\.$"):
        made(name)


def test_every_registered_encoder_crosses_with_an_sae():
    for name in set(catalogue.encoders()) - {"lookup", "linear"}:
        assert made(f"topk:{name}").name == f"topk:{name}"


def test_crossings_have_rows_lines_and_figures_of_their_own(call, smoke, tmp_path):
    trained_names = ["topk:batchtopk", "oracle:batch_pursuit", "oracle:batchtopk"]
    names = f"fista_oracle,oracle:screened_pursuit,topk:omp,random,{','.join(trained_names)}"
    options = (f"--methods={names}", f"--models_dir={smoke.models}", f"--results_dir={tmp_path}")
    code, out, err = call("amortisation_gap", "--preset=smoke", "--seeds=0", *options)
    assert (code, err) == (0, "")
    rows = {row["method"]: row for row in Store(tmp_path / "amortisation_gap").rows()}
    assert set(rows) == set(names.split(",")) and all(f"\n{name} " in out for name in rows)
    oracle = next(row for row in smoke.rows if (row["method"], row["seed"]) == ("fista_oracle", 0))
    assert rows["oracle:screened_pursuit"]["cosine"] == oracle["cosine"]
    assert rows["oracle:screened_pursuit"]["l0_above_id"] <= 3
    trained = next(row for row in smoke.rows if (row["method"], row["seed"]) == ("sae_topk", 0))
    assert rows["topk:omp"]["cosine"] == trained["cosine"]
    assert rows["topk:omp"]["inference"] == "omp"
    families = {name: rows[name]["family"] for name in trained_names}
    assert families == {"topk:batchtopk": "frozen"} | dict.fromkeys(trained_names[1:], "oracle")
    assert [rows[name]["inference"] for name in trained_names] == [
        name.partition(":")[2] for name in trained_names
    ]
    # As many as are aimed at, by the threshold of the training rows.
    assert rows["oracle:batch_pursuit"]["l0_above_id"] == pytest.approx(3, rel=0.2)


def test_dictionaries_of_other_widths_are_scored_against_the_truth(call, tmp_path):
    methods = "--methods=frozen_topk,oracle_norms_topk,fista_oracle,sae_topk"
    options = ("--preset=smoke", "--seeds=0", "--num_latents=20", f"--results_dir={tmp_path}")
    code, _, err = call("dict_quality", *options, "--width=20,12,30", methods)
    assert (code, err) == (0, "")
    found = Store(tmp_path / "dict_quality").rows()
    rows = {(row["method"], row.get("width")): row for row in found}
    assert {row["num_latents"] for row in rows.values()} == {20} and len(rows) == 12
    for width in (12, 30):
        oracle = rows["fista_oracle", width]
        # The truth is as wide as it is, whatever the width to learn.
        for name in ("mcc_ood", "cosine", "support_f1_id"):
            assert oracle[name] == pytest.approx(rows["fista_oracle", None][name])
        learned = rows["frozen_topk", width]
        assert learned["cosines"].count(0) == max(0, 20 - width) and len(learned["cosines"]) == 20
        assert learned["cosine"] <= min(1, width / 20) and learned["certificate_id"] <= 1e-6
        # Atoms with a partner have its length, of which a wider dictionary has twenty.
        ratio = rows["oracle_norms_topk", width]["norm_ratio"]
        assert ratio == pytest.approx(min(width, 20) / 20, abs=1e-5)
    with (page_of(tmp_path) / "summary.csv").open(newline="") as file:
        assert {line["width"] for line in csv.DictReader(file)} == {"12", "20", "30"}
