"""Where the loss of SAEs lies, by size: which settings run, and which codes take part."""

import collections

import pytest

from benchmarks.harness.methods import Tuned
from benchmarks.studies.attribution import BENCH, one_at_a_time
from benchmarks.studies.warmstart_encoder import by_products
from sae_gap.encoders import Lasso, ScreenedPursuit
from tests.conftest import lines_of


def test_one_size_varies_at_a_time_from_the_first_of_each_for_every_seed():
    sources = one_at_a_time(Tuned((9, 7), (3, 2), (40, 50, 60), seeds=(4, 5)))
    found = [(one.num_latents, one.sparsity, one.num_samples, one.seed) for one in sources]
    cells = [(9, 3, 40), (7, 3, 40), (9, 3, 50), (9, 3, 60), (9, 2, 40)]
    assert found == [(*cell, seed) for cell in cells for seed in (4, 5)]


def test_every_sae_has_all_codes_on_its_own_dictionary():
    preset = Tuned(tuned=("gated", "topk"))
    codes, learners = collections.defaultdict(set), {}
    for method in BENCH.methods(one_at_a_time(preset)[0], preset):
        if isinstance(method.encoder, Lasso):
            share = method.coordinates["inference"].removeprefix("lasso_")
            assert method.encoder.lam == pytest.approx(float(share) * preset.lam)
        name = method.coordinates["dictionary"]
        codes[name].add(method.coordinates["inference"])
        assert learners.setdefault(name, method.learner) == method.learner
    best = codes.pop("oracle")
    assert best == {"lasso_0.1", "lasso_0.3", "lasso_1", "lasso_3", "lasso_fit", "omp"}
    assert {*codes} == {"relu", "topk", "jumprelu", "mp", "tuned_gated", "tuned_topk"}
    assert all(kinds == best | {"own", "support", "least_squares"} for kinds in codes.values())
    assert len(set(learners.values())) == 7


def test_the_file_of_parts_names_the_best_codes_and_sums_to_the_distance(smokes):
    smoke = smokes("attribution")
    lines = lines_of(smoke.page / "decomposition.csv")
    assert {line["num_samples"] for line in lines} == {"100", "200"}
    for line in lines:
        parts = [float(line[f"{part}_part"]) for part in ("values", "support", "dictionary")]
        assert sum(parts) == pytest.approx(float(line["total"]) - float(line["rest"]))
        assert min(parts[:2]) >= 0
        sums, codes = collections.Counter(), {}
        for row in smoke.rows:
            place = row["dictionary"], str(row["num_samples"])
            if place == (line["dictionary"], line["num_samples"]):
                sums[row["method"]] += row[line["loss"]]
                codes[row["method"]] = row["inference"]
        best = float(line["rest"]) + parts[2]
        assert 1 - best == pytest.approx(max(sums.values()) / 2)
        assert line["own_best_codes"] in {
            codes[name] for name in sums if sums[name] == max(sums.values())
        }


def test_costs_count_products_with_the_dictionary():
    size = {"num_latents": 40, "input_dim": 20, "sparsity": 3, "family": "sae"}
    size["dictionary"] = "tuned_topk"
    fista = {"inference": "fista", "iterations": 5}
    pursuit = ScreenedPursuit(3, screens=3).flops(20, 40)
    cases = [
        ({"inference": "own"}, ("own", 1)),
        (fista | {"start": "cold"}, ("cold", 9)),
        (fista | {"start": "warm"}, ("warm", 11)),
        (fista | {"start": "cold", "iterations": 0}, None),
        (fista | {"start": "warm", "iterations": 0}, ("warm", 1)),
        ({"inference": "screened_pursuit", "screens": 3}, ("screens", pursuit / 1_600)),
        ({"inference": "lasso"}, None),
        (fista | {"start": "cold", "family": "oracle"}, None),
        (fista | {"start": "warm", "dictionary": "mp"}, ("warm", 3 + 10)),
    ]
    found = by_products([size | row for row, _ in cases])
    wanted = [place for _, place in cases if place]
    assert [(row["codes"], row["products"]) for row in found] == wanted
