"""Methods of the paper through the runner: their columns, and what must hold between their rows."""

import pytest

from sae_gap import Method, Models, Store, Study, run
from sae_gap.encoders.lasso import Lasso
from sae_gap.encoders.on_support import LeastSquares, OnSupport
from sae_gap.encoders.pursuit import OMP
from sae_gap.learners.by_name import sae
from sae_gap.learners.lista_training import Lista
from sae_gap.learners.oracle import Oracle
from sae_gap.learners.softplus_adam import SoftplusAdam
from sae_gap.learners.surgery import Surgery

TOPK = sae("topk", sparsity=3, num_steps=2)
LISTA = Lista(base=Oracle(), num_steps=2)
OWN = SoftplusAdam(split="id", num_steps=2, block=100)
METHODS = {
    "sae_topk": Method("sae_topk", "sae", TOPK, TOPK.encode),
    "support_topk": Method("support_topk", "support", TOPK, OnSupport(TOPK.encode, 0.1)),
    "least_squares_topk": Method("least_squares_topk", "support", TOPK, LeastSquares(TOPK.encode)),
    "refined_topk": Method("refined_topk", "refined", TOPK, Lasso(0.1, TOPK.encode)),
    "omp_topk": Method("omp_topk", "frozen", TOPK, OMP(3)),
    "renormed_topk": Method("renormed_topk", "frozen", Surgery("renormed", base=TOPK), Lasso(0.1)),
    "lista_oracle": Method("lista_oracle", "amortised", LISTA, LISTA.encoder),
    "softplus_adam": Method("softplus_adam", "dictionary_learning", OWN, OWN.encode),
    "softplus_lasso": Method("softplus_lasso", "dictionary_learning", OWN, Lasso(0.1)),
}
COORDINATES = {
    "sae_topk": ("topk", "own"),
    "support_topk": ("topk", "support"),
    "least_squares_topk": ("topk", "least_squares"),
    "refined_topk": ("topk", "lasso"),
    "omp_topk": ("topk", "omp"),
    "renormed_topk": ("topk", "lasso"),
    "lista_oracle": ("oracle", "lista"),
    "softplus_adam": ("softplus_adam", "own"),
    "softplus_lasso": ("softplus_adam", "lasso"),
}


@pytest.fixture(scope="module")
def rows(setting, tmp_path_factory):
    folder = tmp_path_factory.mktemp("grammar")
    study = Study("grammar", [setting], lambda source: list(METHODS.values()), protocol="paper")
    found = run(study, Store(folder), models=Models(folder / "models"))
    return {row["method"]: row for row in found}


def test_every_method_has_its_row_and_its_coordinates(rows):
    assert {name: (row["dictionary"], row["inference"]) for name, row in rows.items()} == COORDINATES
    assert rows["renormed_topk"]["columns"] == "renormed"
    assert all(0 < row["mcc_ood"] <= 1 for row in rows.values())


@pytest.mark.parametrize("split", ["id", "ood"])
def test_the_support_lies_between_the_encoder_and_the_optimum(rows, split):
    own, support, best = (rows[f"{name}_topk"][f"objective_{split}"] for name in ("sae", "support", "refined"))
    assert best < support < own and rows["support_topk"][f"own_certificate_{split}"] < 1e-6
    assert rows["support_topk"][f"l0_{split}"] <= rows["sae_topk"][f"l0_{split}"]
    assert rows["least_squares_topk"][f"mse_{split}"] < rows["sae_topk"][f"mse_{split}"]


@pytest.mark.parametrize("split", ["id", "ood"])
def test_the_objective_does_not_depend_on_the_lengths_of_atoms(rows, split):
    assert rows["renormed_topk"][f"objective_{split}"] == pytest.approx(rows["refined_topk"][f"objective_{split}"], rel=1e-4)


def test_own_codes_fitted_to_the_scored_splits_are_scored(rows):
    own, lasso = rows["softplus_adam"], rows["softplus_lasso"]
    assert own["gap_id"] > 1e-4 > lasso["gap_id"] and own["fit_seconds"] == lasso["fit_seconds"]
    assert own["mse_id"] != pytest.approx(lasso["mse_id"], rel=1e-2)
