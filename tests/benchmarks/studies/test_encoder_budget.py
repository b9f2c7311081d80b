"""The encoder budget at smoke size: one dictionary for all, its table and figure, the count of
operations, and bad flags.
"""

import collections

import jax
import pytest

from benchmarks.studies import encoder_budget
from benchmarks.studies.encoder_budget import BENCH
from sae_gap import Model, Setting, Store
from sae_gap.encoders import LISTA
from tests.conftest import succeed

FISTA, ISTA = ([f"{kind}_{count}" for count in (1, 5, 20, 100)] for kind in ("fista", "ista"))


def methods(input_dim, num_latents):
    source = Setting(num_latents, 2, 100, input_dim=input_dim)
    return {method.name: method for method in BENCH.methods(source, BENCH.presets["quick"])}


def flops(*sizes):
    return {name: method.row.get("flops") for name, method in methods(*sizes).items()}


def test_more_operations_leave_less_of_the_gap_on_one_dictionary(smokes):
    gaps = collections.defaultdict(float)
    for row in smokes("encoder_budget").rows:
        # Each method's reference is solved anew for the jobs it is in, to a certificate of its own.
        assert row["cosine"] == pytest.approx(1, abs=1e-6) and row["certificate_ood"] <= 1e-6
        assert row["dictionary"] == "oracle"
        gaps[row["method"]] += row["relative_gap_ood"] / 2
    for path in (("lista_1", "lista_4", "lista_16"), FISTA, ISTA):
        falling = [gaps[name] for name in path]
        assert falling == sorted(falling, reverse=True)
    # From the fifth iteration on, momentum pays.
    assert all(gaps[fast] < gaps[slow] for fast, slow in zip(FISTA[1:], ISTA[1:], strict=True))
    assert abs(gaps["lasso"]) < 2e-6 and gaps["fista_100"] < 1e-3 * gaps["fista_1"]
    assert all(gaps[name] > gaps["lasso"] for name in ("relu", "topk", "jumprelu", "lista_16"))


def test_a_dictionary_may_be_learned(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_budget, "DEPTHS", (1,))
    name, options = "online_dl", ("--preset=smoke", "--seeds=0", f"--results_dir={tmp_path}")
    succeed("dictionary_challenge", *options, f"--methods={name}")
    (learned,) = Store(tmp_path / "dictionary_challenge").rows()
    # The very model that the challenge has fitted.
    before = {*(tmp_path / "models").iterdir()}
    encoders = "--methods=lista_1,fista_1,lasso"
    succeed("encoder_budget", *options, f"--dictionary={name}", encoders)
    after = {*(tmp_path / "models").iterdir()} - before
    assert len(before) == len({path.name.partition("-")[0] for path in after}) == 1
    rows = Store(tmp_path / "encoder_budget").rows()
    assert len(rows) == 3 and {row["dictionary"] for row in rows} == {name}
    assert all(row["cosine"] == pytest.approx(learned["cosine"], abs=1e-6) for row in rows)


def test_operations_are_those_of_the_products():
    found = flops(5, 7)
    product = 2 * 5 * 7
    once = ("relu", "topk", "jumprelu", "lista_1", "fista_1", "ista_1")
    assert {found[name] for name in once} == {product}
    # y W; then three times z Dᵀ and the residual times W.
    assert found["lista_4"] == 7 * product and found["fista_10"] == found["ista_10"] == 19 * product
    # y W; then a product with num_latents² parameters a layer.
    layers = LISTA(factored=False).depth
    assert methods(5, 7)["lista_published"].encoder.depth == layers
    assert found["lista_published"] == pytest.approx(product + (layers - 1) * (product + 2 * 7 * 7))
    assert found["lasso"] is None
    # Two steps, in the second of which the atom is made orthogonal to the first, twice.
    assert found["omp"] == 2 * product + 2 * 5 * 4
    # Two screens: Dᵀr, the residual of 1 and 2 atoms, and their basis among 4 candidates.
    assert found["screened_pursuit"] == 2 * (product + 5 * (1 + 2)) + 4 * (1 + 4)


def test_operations_are_those_that_the_compiler_counts(task):
    input_dim, num_latents = task.dictionary.shape
    encoder, count = LISTA(2), len(task.id.signals)
    parameters = encoder.parameters(task.dictionary, jax.random.key(0))
    model = Model(task.dictionary, task.id.signals[0] * 0, parameters)
    program = jax.jit(encoder.__call__).lower(model, task.id.signals).compile()
    expected = flops(input_dim, num_latents)["lista_2"] * count
    # Beside the products there are additions and comparisons, each as many as there are codes
    # or less.
    assert expected <= program.cost_analysis()["flops"] < expected + 24 * count * num_latents
