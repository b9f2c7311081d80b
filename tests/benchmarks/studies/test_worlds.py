"""The study of worlds at smoke size, worlds on the command line of other studies, and one sentence
for whatever is wrong.
"""

import csv
import dataclasses
import functools
import re

import numpy as np
import pytest

from benchmarks.harness import main
from benchmarks.harness.preset import Preset, grid
from benchmarks.studies import vary_latents
from benchmarks.studies.worlds import BENCH
from sae_gap import Setting, Store, World, catalogue
from sae_gap.data.worlds.named import named_world
from sae_gap.encoders.lasso import Lasso
from tests.data.worlds.test_synthsae_files import parts, write

METHODS = ("sae_topk", "frozen_topk", "random", "fista_oracle")


@pytest.fixture(scope="module")
def worlds(call):
    return functools.partial(call, "worlds")


@pytest.fixture(scope="module")
def finished(smokes):
    return smokes("worlds")


def test_a_row_says_which_world_it_is_of(finished):
    for row in finished.rows:
        assert (
            row["world"] == "synthsae roots=2 depth=2"
            and row["num_latents"] == 64
            and "width" not in row
        )
        assert (
            row["sparsity"] == named_world("synthsae", 64, seed=row["seed"]).sparsity
            and row["input_dim"] == 8
        )


def test_scores_rank_the_oracle_above_the_rest(finished):
    found = {row["method"]: row for row in finished.rows if row["seed"] == 0}
    oracle, random = found["fista_oracle"], found["random"]
    assert (
        oracle["atom_mcc"] == pytest.approx(1)
        and oracle["uniqueness"] == 1
        and oracle["atom_mcc_children"] == pytest.approx(1)
    )
    assert (
        oracle["cut_f1_id"] > random["cut_f1_id"]
        and oracle["absorption_id"] < 0.5
        and random["atom_mcc"] < 0.9
    )
    # One dictionary has one matching, whatever infers on it.
    assert (
        found["sae_topk"]["atom_mcc"] == found["frozen_topk"]["atom_mcc"]
        and found["frozen_topk"]["own_certificate_id"] <= 1e-6
    )
    # The optimum is not looked for.
    assert "relative_gap_id" not in oracle and "certificate_id" not in oracle


def test_tables_and_figure(finished):
    printed = finished.printed
    assert (
        "Dictionaries" in printed
        and "Detection" in printed
        and "grandchildren" in printed
        and "cut F1" in printed
    )
    assert {path.name for path in finished.page.glob("*.png")} == {"recovery_by_level.png"}
    with (finished.page / "summary.csv").open() as file:
        columns = set(next(csv.reader(file)))
    assert {"atom_mcc_rare_mean", "absorption_ood_sd", "r2_id_mean", "dead_id_mean"} < columns


def test_methods_have_the_units_of_the_world():
    world, preset = World(), BENCH.presets["full"]
    found = {method.name: method for method in BENCH.methods(world, preset)}
    assert {f"sae_{name}" for name in catalogue.saes()} < set(found)
    online, families = found["online_dl"].learner, found["online_dl_families"].learner
    assert (online.visits, online.batch_size, online.rates, online.num_slots) == (
        60,
        1_024,
        (0.3, 0.03, 0.005),
        96,
    )
    assert families.base == dataclasses.replace(online, incoherent=True) and not online.incoherent
    assert (families.visits, families.num_slots) == (2, 96)
    pruned = found["online_dl_families_pruned"].learner
    assert (pruned.base, pruned.share, pruned.num_slots) == (families, 0.25, 96)
    tuned = catalogue.tuned_sae("relu", sparsity=world.sparsity, input_dim=768)
    scale = 4.5 * np.sqrt(3)
    assert found["sae_relu"].learner.penalty == pytest.approx(scale * tuned.penalty)
    jump = found["sae_jumprelu"].learner
    assert jump.penalty == pytest.approx(
        scale**2 * 0.03 / 768
    ) and jump.encoder.threshold == pytest.approx(0.1 * scale)
    assert found["sae_matryoshka"].learner.encoder.k == world.sparsity == 35
    assert {
        found[name].encoder for name in ("online_dl", "random", "fista_oracle", "frozen_relu")
    } == {Lasso(1.0)}


def test_a_narrow_dictionary_is_held_against_the_first_features(tmp_path, worlds):
    flags = (
        "--preset=smoke",
        "--seeds=0",
        "--num_latents=64",
        "--width=16",
        "--methods=fista_oracle",
    )
    code, _, err = worlds(*flags, "--law=roots=3,scale_children=false", f"--results_dir={tmp_path}")
    assert (code, err) == (0, "")
    (oracle,) = Store(tmp_path / "worlds").rows()
    assert oracle["atom_mcc"] == pytest.approx(1) and oracle["cosine"] == pytest.approx(16 / 64)
    assert oracle["world"] == "synthsae roots=3 depth=2 scale_children=False" and (
        oracle["num_latents"],
        oracle["width"],
    ) == (
        64,
        16,
    )
    assert "atom_mcc_free" not in oracle


def test_a_published_world_is_read_from_its_folder(tmp_path, worlds):
    folder = tmp_path / "world"
    folder.mkdir()
    write(folder, *parts())
    flags = (
        "--preset=smoke",
        "--seeds=0",
        "--methods=fista_oracle",
        f"--results_dir={tmp_path / 'results'}",
    )
    code, _, err = worlds(*flags, f"--world_file={folder}")
    assert (code, err) == (0, "")
    (row,) = Store(tmp_path / "results" / "worlds").rows()
    assert re.fullmatch("synthsae file=[0-9a-f]{16}", row["world"]) and row["num_latents"] == 60
    tensors = folder / "synthetic_model.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-9])
    refused(worlds(*flags, f"--world_file={folder}"), "cannot be read as a safetensors file")


def test_other_studies_take_a_world(tmp_path, call):
    flags = (
        "--preset=smoke",
        "--world=synthsae",
        "--num_latents=32",
        "--seeds=0",
        "--methods=linear_probe,raw,fista_oracle",
    )
    code, _, err = call("vary_latents", *flags, f"--results_dir={tmp_path}")
    assert (code, err) == (0, "")
    rows = {row["method"]: row for row in Store(tmp_path / "vary_latents").rows()}
    # The probe needs codes of training samples, which a world keeps to itself.
    assert set(rows) == {"raw", "fista_oracle"}
    assert rows["fista_oracle"]["mcc_ood"] > rows["raw"]["mcc_ood"] and rows["fista_oracle"][
        "world"
    ].startswith("synthsae")


def test_without_a_world_nothing_is_said_of_one():
    assert all(isinstance(source, Setting) for source in grid(vary_latents.BENCH.presets["smoke"]))
    (source,) = grid(Preset(world="correlated", num_latents=(50,), num_samples=(9,), seeds=(4,)))
    assert source == named_world("correlated", 50, num_samples=9, seed=4)


@pytest.mark.parametrize(
    ("flags", "num_latents", "width"),
    [
        (["--world=hedging"], 2, 1),
        (["--world=absorption", "--width=3"], 2, 3),
        (["--world=correlated", "--num_latents=30"], 30, None),
        (["--num_latents=40", "--width=80"], 40, 80),
        ([], 64, None),
    ],
)
def test_a_world_has_its_own_size_unless_one_is_given(
    flags, num_latents, width, monkeypatch, worlds
):
    read = []
    monkeypatch.setattr(main, "execute", read.append)
    assert worlds("--preset=smoke", *flags) == (0, "", "")
    assert {(source.num_latents, source.width) for source in read[0].study.sources} == {
        (num_latents, width)
    }


def refused(called, message):
    code, out, err = called
    assert (code, out) == (2, "") and re.fullmatch(r"[^\n]+\.\n", err) and message in err, err


BAD_FLAGS = {
    "--world=heaven": "world must be one of absorption, correlated, hedging, synthsae",
    "--law=roots=60": "60 trees with 2 levels of 4 children each do not fit the 64 features",
    "--law=most=1.5": "most must be a finite number above 0 and below 1",
    "--law=correlation=-0.2": "correlation must be a finite number of at least 0",
    "--law=wings=2": "the law has 'wings=2'",
    "--world_file=nowhere": "nowhere has no synthetic_model_config.json",
    "--sparsity=3": "sparsity",
    "--stream": "stream",
    "--data=mine.npz": "data",
    "--visits=0": "visits",
}


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_bad_flags_are_one_sentence(flag, tmp_path, worlds):
    results = tmp_path / "results"
    refused(worlds("--preset=smoke", f"--results_dir={results}", flag), BAD_FLAGS[flag])
    assert not results.exists()


@pytest.mark.parametrize(
    ("study", "flags", "message"),
    [
        (
            "vary_latents",
            ["--law=roots=2"],
            "--law is part of a world; give --world=synthsae with it",
        ),
        ("worlds", ["--world=absorption", "--num_latents=3"], "this world has 2 features, not 3"),
        (
            "vary_latents",
            ["--world=synthsae", "--sparsity=3"],
            "--sparsity and --world exclude each other",
        ),
        (
            "vary_latents",
            ["--world=synthsae", "--stream"],
            "--stream and --world exclude each other",
        ),
        (
            "vary_latents",
            ["--world=synthsae", "--data=mine.npz"],
            "--data and --world exclude each other",
        ),
        (
            "vary_latents",
            ["--world=synthsae", "--world_file=nowhere"],
            "--world and --world_file exclude each other",
        ),
        ("phase_transition", ["--world=synthsae"], "Unknown command line flag 'world'"),
    ],
)
def test_flags_that_do_not_go_together_are_one_sentence(study, flags, message, tmp_path, call):
    refused(call(study, "--preset=smoke", f"--results_dir={tmp_path / 'results'}", *flags), message)
    assert not (tmp_path / "results").exists()
