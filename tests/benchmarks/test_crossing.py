"""Any learner crossed with any encoder by name, dictionaries of any width, and files that are dropped into the folders."""

import csv
import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import studies
from benchmarks.harness import crossing
from benchmarks.harness.preset import SMOKE
from sae_gap import Setting, Store
from sae_gap.core import registry
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.on_support import OnSupport
from sae_gap.encoders.pursuit import OMP
from sae_gap.learners import by_name
from sae_gap.learners.amortised import Amortised
from sae_gap.learners.dl_fista import DLFista
from sae_gap.learners.oracle import Oracle

ROOT = Path(__file__).parents[2]
SOURCE = Setting(20, 3, 200)
STUDIES = studies.found()


def made(name, study="amortisation_gap", preset=SMOKE):
    preset = dataclasses.replace(preset, knobs=STUDIES[study].presets["smoke"].knobs)
    return crossing.method_of(name, STUDIES[study].methods(SOURCE, preset), SOURCE, preset)


def test_a_crossing_is_the_learner_with_the_encoder_at_the_sparsity_of_the_source():
    method = made("oracle:omp")
    assert (method.name, method.family, method.learner, method.encoder) == ("oracle:omp", "oracle", Oracle(), OMP(3))
    assert method.coordinates["dictionary"] == "oracle" and method.coordinates["inference"] == "omp"


def test_a_learner_alone_has_the_certified_lasso_at_the_weight_of_the_preset():
    method = made("random", preset=dataclasses.replace(SMOKE, lam=0.3))
    assert (method.encoder, method.family, method.coordinates["inference"]) == (Lasso(0.3), "baseline", "lasso")
    published = made("random:lasso", preset=dataclasses.replace(SMOKE, protocol="paper"))
    assert published.encoder.max_iterations == 100 and published.coordinates["inference"] == "lasso"


def test_a_dictionary_that_the_study_has_is_the_study_s():
    sae = by_name.sae("topk", sparsity=3, num_steps=5)
    assert made("topk:omp").learner == sae and made("topk:omp").family == "frozen"
    assert made("topk:omp", "dictionary_challenge").learner.num_steps == 50
    # Cold, and not what goes on from another dictionary.
    assert made("dl_fista:omp", "warmstart_decoder").learner == DLFista(0.1, num_steps=5)
    assert made("oracle:omp", "encoder_budget").learner == Oracle()


def test_an_sae_has_its_own_codes_and_its_encoder_is_not_trained_twice():
    tuned = by_name.tuned_sae("gated", sparsity=3, input_dim=SOURCE.input_dim, num_steps=5)
    method = made("sae_gated")
    assert (method.learner, method.encoder, method.family) == (tuned, tuned.encoder, "sae")
    assert made("gated").encoder == Lasso(0.1) and made("gated").learner == tuned
    own = made("topk:topk")
    assert own.encoder == own.learner.encoder and own.coordinates["inference"] == "own"


def test_an_encoder_with_parameters_is_trained_on_the_dictionary():
    method = made("dl_fista:topk")
    assert method.learner == Amortised((by_name.encoder("topk", sparsity=3),), 0.1, base=DLFista(0.1, num_steps=5), num_steps=5)
    assert method.encoder == method.learner.members[0] and method.coordinates["dictionary"] == "dl_fista"


def test_an_encoder_on_another_s_support_has_that_of_the_sae():
    assert made("topk:support").encoder == OnSupport(by_name.encoder("topk", sparsity=3), 0.1)


@pytest.mark.parametrize("study", STUDIES)
def test_methods_of_other_studies_run_in_every_study(study):
    for name in ("linear_probe", "raw", "sae_topk", "online_dl_families", "fista_oracle", "spams", "batchtopk"):
        assert made(name, study).name == name


@pytest.mark.parametrize("name", ["nope", "sae_nope", "topk:nope", "nope:omp", "surgery", "oracle:support", ":omp"])
def test_what_cannot_be_made_is_one_sentence(name):
    with pytest.raises(ValueError, match=r"^[^\n]+\.$"):
        made(name)


def test_every_registered_encoder_crosses_with_an_sae():
    for name in set(registry.encoders()) - {"lookup", "linear"}:
        assert made(f"topk:{name}").name == f"topk:{name}"


def test_crossings_have_rows_lines_and_figures_of_their_own(call, smoke, tmp_path):
    names = "fista_oracle,oracle:nonneg_mp,topk:omp,random"
    options = (f"--methods={names}", f"--models_dir={smoke.models}", f"--results_dir={tmp_path}")
    code, out, err = call("amortisation_gap", "--preset=smoke", "--seeds=0", *options)
    assert (code, err) == (0, "")
    rows = {row["method"]: row for row in Store(tmp_path / "amortisation_gap").rows()}
    assert set(rows) == set(names.split(",")) and all(f"\n{name} " in out for name in rows)
    oracle = next(row for row in smoke.rows if (row["method"], row["seed"]) == ("fista_oracle", 0))
    assert rows["oracle:nonneg_mp"]["cosine"] == oracle["cosine"] and rows["oracle:nonneg_mp"]["l0_id"] <= 3
    trained = next(row for row in smoke.rows if (row["method"], row["seed"]) == ("sae_topk", 0))
    assert rows["topk:omp"]["cosine"] == trained["cosine"] and rows["topk:omp"]["inference"] == "omp"


@pytest.mark.parametrize("width", [12, 30])
def test_a_dictionary_of_another_width_is_scored_against_the_truth(width, call, tmp_path):
    options = ("--preset=smoke", "--seeds=0", f"--width=20,{width}", "--num_latents=20", f"--results_dir={tmp_path}")
    code, _, err = call("dict_quality", *options, "--methods=frozen_topk,oracle_norms_topk,fista_oracle,sae_topk")
    assert (code, err) == (0, "")
    rows = {(row["method"], row.get("width")): row for row in Store(tmp_path / "dict_quality").rows()}
    assert {row["num_latents"] for row in rows.values()} == {20} and len(rows) == 8
    oracle = rows["fista_oracle", width]
    # The truth is as wide as it is, whatever the width to learn.
    assert all(
        oracle[name] == pytest.approx(rows["fista_oracle", None][name]) for name in ("mcc_ood", "cosine", "support_f1_id")
    )
    learned = rows["frozen_topk", width]
    assert learned["cosines"].count(0) == max(0, 20 - width) and len(learned["cosines"]) == 20
    assert learned["cosine"] <= min(1, width / 20) and learned["certificate_id"] <= 1e-6
    # Atoms with a partner have its length, of which a wider dictionary has twenty.
    assert rows["oracle_norms_topk", width]["norm_ratio"] == pytest.approx(min(width, 20) / 20, abs=1e-5)
    with (tmp_path / "dict_quality" / "summary.csv").open(newline="") as file:
        assert {line["width"] for line in csv.DictReader(file)} == {"20", str(width)}


DROPPED = {
    "benchmarks/studies/my_study.py": '''
"""What is it like to be dropped in?"""

from benchmarks.harness import drawings, methods
from benchmarks.harness.bench import SMOKE, Bench, Preset

BENCH = Bench(
    "my_study",
    "My own question",
    __doc__,
    lambda source, p: [*methods.own(source, p, names=("my_encoder",)), *methods.oracle(p)],
    {"smoke": SMOKE, "quick": Preset()},
    figures=drawings.recovery_along("num_latents"),
)
''',
    "sae_gap/encoders/my_encoder.py": '''
"""A ReLU that keeps what is above a share of the largest."""

import jax
import jax.numpy as jnp

from sae_gap.encoders.encoder import AmortisedEncoder


class MyEncoder(AmortisedEncoder):
    """`z = max(u, 0)` where that is above a tenth of the largest."""

    name = "my_encoder"
    label = "my own encoder"
    colour = "#123456"

    def __call__(self, model, signals):
        codes = jax.nn.relu(self.preactivations(model, signals))
        return jnp.where(codes > 0.1 * codes.max(axis=1, keepdims=True), codes, 0)
''',
    "sae_gap/learners/my_learner.py": '''
"""Training samples as atoms."""

import jax.numpy as jnp

from sae_gap.core.types import Model
from sae_gap.encoders.encoder import unit_atoms
from sae_gap.learners.learner import Learner


class MyLearner(Learner):
    """The first samples, scaled to unit length."""

    name = "my_learner"
    label = "my own learner"
    colour = "#654321"

    def init(self, data, *, num_latents, key):
        return unit_atoms(data.signals[:num_latents].T)[0]

    def model(self, state):
        return Model(state, jnp.zeros(state.shape[0], state.dtype))
''',
    "sae_gap/metrics/my_metric.py": '''
"""The largest code."""

from sae_gap.core.registry import Column
from sae_gap.metrics.metric import SCORED, Metric

METRIC = Metric(
    "my_metric",
    lambda inferred: {f"largest_{name}": float(inferred.codes[name].max()) for name in SCORED},
    {"largest": Column("the largest code", heading="largest")},
)
''',
}


def test_files_that_are_dropped_in_run_with_nothing_else_touched(tmp_path):
    tree = tmp_path / "tree"
    for folder in ("sae_gap", "benchmarks"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in DROPPED.items():
        (tree / path).write_text(text.lstrip())

    def run(name, *arguments):
        command = [sys.executable, "-m", "sae_gap", name, *arguments]
        done = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2_000:]
        return done.stdout

    assert "my_study              What is it like to be dropped in?" in run("--help")
    names = "sae_my_encoder,fista_oracle,my_learner,my_learner:my_encoder,oracle:my_encoder,my_encoder:omp"
    out = run("my_study", "--preset=smoke", "--seeds=0", f"--methods={names}", f"--results_dir={tmp_path}")
    lines = [line.split()[0] for line in out.split("\n\n")[0].splitlines()[3:]]
    assert lines == names.split(",") and "Further metrics" in out and "largest ID  largest OOD" in out
    rows = {row["method"]: row for row in Store(tmp_path / "my_study").rows()}
    assert rows["my_learner"]["inference"] == "lasso" and rows["my_learner"]["family"] == "dictionary_learning"
    assert rows["my_learner:my_encoder"]["cosine"] == pytest.approx(rows["my_learner"]["cosine"], abs=1e-6)
    assert all(row["largest_ood"] > 0 for row in rows.values())
    page = (tmp_path / "my_study" / "README.md").read_text()
    assert "My own question" in page and "my own learner, certified lasso" in page and "my own encoder SAE" in page
    planned = run("all", "--studies=my_study", "--preset=smoke", "--dry_run", f"--results_dir={tmp_path / 'other'}")
    assert "sae_my_encoder: 0/2 rows there, 2 to fit" in planned
