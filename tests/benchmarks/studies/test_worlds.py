"""The study of worlds at smoke size, worlds on the command line of other studies, and one sentence
for whatever is wrong.
"""

import re

import pytest

from benchmarks.harness import main
from sae_gap import Store
from sae_gap.data import named_world
from tests.conftest import refused, succeed
from tests.data.worlds.test_synthsae_files import parts, write


@pytest.fixture(scope="module")
def finished(smokes):
    return smokes("worlds")


def test_rows_say_their_world_and_rank_the_oracle_above_the_rest(finished):
    for row in finished.rows:
        assert row["world"] == "synthsae roots=2 depth=2" and "width" not in row
        assert (row["num_latents"], row["input_dim"]) == (64, 8)
        assert row["sparsity"] == named_world("synthsae", 64, seed=row["seed"]).sparsity
    found = {row["method"]: row for row in finished.rows if row["seed"] == 0}
    oracle, random = found["fista_oracle"], found["random"]
    assert oracle["atom_mcc"] == pytest.approx(1)
    assert oracle["uniqueness"] == 1
    assert oracle["atom_mcc_children"] == pytest.approx(1)
    assert random["atom_mcc"] < 0.9
    # One dictionary has one matching, whatever infers on it.
    assert found["sae_topk"]["atom_mcc"] == found["frozen_topk"]["atom_mcc"]
    assert found["frozen_topk"]["own_certificate_id"] <= 1e-6
    columns = {"atom_mcc_rare", "absorption_ood", "r2_id", "dead_id"}
    assert columns <= {*found["sae_topk"]}
    # The optimum is not looked for.
    assert "relative_gap_id" not in oracle and "certificate_id" not in oracle


def test_a_narrow_dictionary_is_held_against_the_first_features(tmp_path):
    flags = ("--preset=smoke", "--seeds=0", "--methods=fista_oracle", f"--results_dir={tmp_path}")
    law = "--law=roots=3,scale_children=false"
    succeed("worlds", *flags, "--num_latents=64", "--width=16", law)
    (oracle,) = Store(tmp_path / "worlds").rows()
    assert oracle["atom_mcc"] == pytest.approx(1) and oracle["cosine"] == pytest.approx(16 / 64)
    assert oracle["world"] == "synthsae roots=3 depth=2 scale_children=False"
    assert (oracle["num_latents"], oracle["width"]) == (64, 16)
    assert "atom_mcc_free" not in oracle


def test_a_published_world_is_read_from_its_folder(tmp_path):
    folder = tmp_path / "world"
    folder.mkdir()
    write(folder, *parts())
    results = f"--results_dir={tmp_path / 'results'}"
    flags = ("--preset=smoke", "--seeds=0", "--methods=fista_oracle", results)
    succeed("worlds", *flags, f"--world_file={folder}")
    (row,) = Store(tmp_path / "results" / "worlds").rows()
    assert re.fullmatch("synthsae file=[0-9a-f]{16}", row["world"]) and row["num_latents"] == 60


def test_other_studies_take_a_world(tmp_path):
    flags = ("--preset=smoke", "--seeds=0", "--world=synthsae", "--num_latents=32")
    methods = "--methods=linear_probe,raw,fista_oracle"
    succeed("vary_latents", *flags, methods, f"--results_dir={tmp_path}")
    rows = {row["method"]: row for row in Store(tmp_path / "vary_latents").rows()}
    # The probe needs codes of training samples, which a world keeps to itself.
    assert set(rows) == {"raw", "fista_oracle"}
    assert rows["fista_oracle"]["mcc_ood"] > rows["raw"]["mcc_ood"]
    assert rows["fista_oracle"]["world"].startswith("synthsae")


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
def test_a_world_has_its_own_size_unless_one_is_given(flags, num_latents, width, monkeypatch):
    read = []
    monkeypatch.setattr(main, "execute", read.append)
    assert succeed("worlds", "--preset=smoke", *flags) == ""
    sizes = {(source.num_latents, source.width) for source in read[0].study.sources}
    assert sizes == {(num_latents, width)}


@pytest.mark.parametrize(
    ("study", "flags", "words"),
    [
        ("worlds", "--world=heaven", "world must be one of absorption, correlated"),
        ("worlds", "--law=most=1.5", "most must be a finite number above 0 and below 1"),
        ("worlds", "--data=mine.npz", "data"),
        ("vary_latents", "--law=roots=2", "give --world=synthsae with it"),
        ("vary_latents", "--world=synthsae --sparsity=3", "--sparsity and --world exclude"),
        ("vary_latents", "--world=synthsae --stream", "--stream and --world exclude"),
        ("vary_latents", "--world=synthsae --data=mine.npz", "--data and --world exclude"),
        ("vary_latents", "--world=synthsae --world_file=x", "--world and --world_file exclude"),
    ],
)
def test_bad_flags_are_one_sentence(study, flags, words, tmp_path):
    results = tmp_path / "results"
    refused(words, study, "--preset=smoke", f"--results_dir={results}", *flags.split())
    assert not results.exists()
