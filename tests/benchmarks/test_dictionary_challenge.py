"""The dictionary challenge at smoke size: rows, table, figures, cells and streams, and one sentence for whatever is wrong."""

import contextlib
import csv
import io
import re
import sys
from unittest import mock

import pytest
from absl.testing import flagsaver
from matplotlib import image

from benchmarks import cli, peers
from benchmarks import dictionary_challenge as binary
from sae_gap import Setting, Store, tables
from sae_gap.encoders.lasso import Lasso
from sae_gap.learners.sae import tuned

SAES = ("sae_relu", "sae_topk", "sae_jumprelu", "sae_mp", "sae_batchtopk", "sae_matryoshka", "sae_gated")
# Those that compile next to nothing.
QUICK = "--methods=spams,sklearn,fista_oracle"


def call(*arguments):
    """Runs the binary in this process as a shell would: its exit code, and what it wrote on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    saved = flagsaver.save_flag_values(binary.FLAGS)
    with (
        mock.patch.object(sys, "argv", ["dictionary_challenge", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        cli.run(binary.main, binary.FLAGS)
    flagsaver.restore_flag_values(saved, binary.FLAGS)
    return stop.value.code or 0, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("challenge")


@pytest.fixture(scope="module")
def printed(folder):
    code, out, err = call("--preset=smoke", "--methods=all", f"--results_dir={folder}")
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def rows(folder, printed):
    return Store(folder / binary.NAME).rows()


def read(folder):
    with (folder / binary.NAME / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_every_method_and_seed(rows):
    assert sorted((row["method"], row["seed"]) for row in rows) == sorted((m, s) for m in binary.METHODS for s in (0, 1))
    assert {*SAES, "dl_fista", "spams", "sklearn", "fista_oracle"} <= set(binary.METHODS)
    assert {row["samples_seen"] for row in rows} == {100} and all("stream" not in row for row in rows)
    steps = {row["method"]: row["fit_steps"] for row in rows}
    # Of two batches each, so that there are a hundred gradient steps.
    assert {steps[name] for name in SAES} == {50} and (steps["dl_fista"], steps["spams"], steps["sklearn"]) == (5, 10, 10)


def test_every_dictionary_is_coded_on_by_the_certified_lasso(rows):
    for row in rows:
        assert abs(row["relative_gap_id"]) < 2e-6 and row["own_certificate_ood"] <= 1e-6 and row["reference"] == "non-negative"
    found = {row["method"]: row["cosine"] for row in rows if row["seed"] == 0}
    assert found["fista_oracle"] == pytest.approx(1) and found["spams"] > found["sae_topk"]
    assert len(set(found.values())) == len(binary.METHODS)


def test_the_summary_has_the_columns_of_the_headline_and_the_samples(folder, rows, smoke):
    headline = next(csv.reader((smoke.directory / "summary.csv").open(newline="")))
    columns = list(read(folder)[0])
    added = {
        "samples_seen_mean",
        "samples_seen_sd",
        *(f"own_certificate_{split}_{of}" for split in ("id", "ood") for of in ("mean", "sd")),
    }
    assert set(columns) - added == set(headline) - added and "samples_seen_mean" in columns and "fit_seconds_mean" in columns
    assert columns[:4] == list(tables.BY) and [line["method"] for line in read(folder)] == list(binary.METHODS)


def test_the_table_names_every_method_and_fills_every_column(printed):
    heading, _, *lines = printed.splitlines()
    assert all(name in heading for name in binary.COLUMNS.values())
    assert [line.split()[0] for line in lines] == list(binary.METHODS)
    assert not any(" - " in line or line.endswith("-") for line in lines) and all("100" in line for line in lines)
    assert all(len(line) < 250 for line in lines)


def test_the_figure_is_a_picture_and_a_grid_of_one_cell_has_no_map(folder, printed):
    names = {path.name for path in (folder / binary.NAME).iterdir()}
    assert names == {"rows.jsonl", "summary.csv", "recovery_by_seconds.png", "recovery_by_seconds.pdf"}
    picture = image.imread(folder / binary.NAME / "recovery_by_seconds.png")
    drawn = (picture[:, :, :3] < 0.9).any(axis=2)
    half = len(drawn) // 2
    assert drawn[:half].mean() > 0.01 and drawn[half:].mean() > 0.01
    assert (folder / binary.NAME / "recovery_by_seconds.pdf").read_bytes().startswith(b"%PDF-")


def test_what_is_there_is_not_run_again(folder, printed, monkeypatch):
    def never(*arguments):
        raise AssertionError("a finished job was run again")

    monkeypatch.setattr("sae_gap.study._run_job", never)
    assert call("--preset=smoke", "--methods=all", f"--results_dir={folder}")[:2] == (0, printed)


def test_cells_of_a_grid_have_lines_and_figures_of_their_own(tmp_path):
    grid = ("--num_latents=20,30", "--num_samples=100,200", "--noise_db=none,20", "--seeds=0")
    code, out, err = call("--preset=smoke", QUICK, *grid, f"--results_dir={tmp_path}")
    assert (code, err) == (0, "")
    lines = read(tmp_path)
    assert len(lines) == 3 * 8 and list(lines[0])[:5] == [*tables.BY, "noise_db"]
    assert {(line["num_latents"], line["num_samples"], line["noise_db"]) for line in lines} == {
        (width, size, noise) for width in ("20", "30") for size in ("100", "200") for noise in ("", "20.0")
    }
    # Noise takes away from what even the oracle recovers.
    oracle = {line["noise_db"]: float(line["mcc_ood_mean"]) for line in lines if line["method"] == "fista_oracle"}
    assert oracle["20.0"] < oracle[""]
    heading = out.splitlines()[0].split()
    assert heading[:5] == ["method", "latents", "samples", "noise", "db"] and "sparsity" not in heading
    names = {path.name for path in (tmp_path / binary.NAME).glob("*.png")}
    assert {"recovery_by_samples_3.png", "recovery_by_samples_3_20.png"} < names
    assert {"recovery_by_seconds_20_3_100.png", "recovery_by_seconds_30_3_200_20.png"} < names and len(names) == 10


def test_a_stream_trains_on_all_of_its_samples(tmp_path, caplog):
    code, out, err = call("--preset=smoke", "--stream", "--methods=sklearn,sae_relu,fista_oracle", f"--results_dir={tmp_path}")
    assert (code, err) == (0, "") and not [record for record in caplog.records if record.levelname == "WARNING"]
    rows = Store(tmp_path / binary.NAME).rows()
    assert {(row["samples_seen"], row["stream"]) for row in rows} == {(200, True)}
    assert {row["fit_steps"] for row in rows if row["method"] == "sae_relu"} == {25}
    lines = read(tmp_path)
    assert list(lines[0])[:5] == [*tables.BY, "stream"] and all(line["stream"] == "True" for line in lines)
    assert all(float(line["mcc_ood_mean"]) > 0 for line in lines) and "200" in out


def test_shards_share_a_folder(tmp_path):
    for shard in ("1/2", "0/2"):
        code, _, err = call("--preset=smoke", "--methods=sklearn,spams", f"--shard={shard}", f"--results_dir={tmp_path}")
        assert code == 0, err
    assert {path.name for path in (tmp_path / binary.NAME).glob("*.jsonl")} == {"rows-0-of-2.jsonl", "rows-1-of-2.jsonl"}
    assert [line["method"] for line in read(tmp_path)] == ["spams", "sklearn"]
    assert call("--preset=smoke", "--methods=spams", "--shard=1/2", f"--results_dir={tmp_path / 'other'}") == (0, "", "")


def test_saes_are_tuned_and_take_the_steps_they_are_given():
    few = binary.learners(Setting(100, 10, 5_000), preset=binary.PRESETS["quick"])["sae_topk"]
    assert few == tuned("topk", sparsity=10, input_dim=47, num_steps=1_250)
    many = binary.learners(Setting(100, 10, 1_000_000, stream=True))["sae_topk"]
    assert (many.num_steps, many.renormalise_every) == (4, 1) and many.learning_rate == few.learning_rate
    assert binary.learners(Setting(), preset=binary.Preset(sae_steps=1))["sae_topk"].num_steps == 1


def test_learners_have_the_weight_and_the_methods_its_codes():
    chosen = binary.study([Setting()], lam=0.3).methods(Setting())
    assert {method.encoder for method in chosen} == {Lasso(0.3)} and [method.name for method in chosen] == list(binary.METHODS)
    found = {method.name: method.learner for method in chosen}
    assert {found[name].lam for name in ("dl_fista", "spams", "sklearn")} == {0.3}
    assert (found["spams"].num_steps, found["sklearn"].num_steps) == (5_000, 1_000)
    families = {method.name: method.family for method in chosen}
    assert {families[name] for name in SAES} == {"sae"} and families["spams"] == families["sklearn"] == "peer"
    assert (families["dl_fista"], families["fista_oracle"]) == ("dictionary_learning", "oracle")


def test_the_default_needs_no_other_package(monkeypatch, tmp_path):
    assert not {"spams", "sklearn"} & set(binary.DEFAULT) and {"dl_fista", "sae_topk", "fista_oracle"} < set(binary.DEFAULT)
    monkeypatch.setattr("sae_gap.study._run_job", lambda *arguments: [])
    for module in ("spams", "sklearn.decomposition"):
        monkeypatch.setitem(sys.modules, module, None)
    assert call("--preset=smoke", f"--results_dir={tmp_path}") == (0, "", "")


@pytest.mark.parametrize(("name", "package"), [("spams", "spams"), ("sklearn", "sklearn")])
def test_an_absent_package_is_one_sentence(name, package, monkeypatch, tmp_path):
    module = {"spams": peers.SpamsTrainDL, "sklearn": peers.SklearnMiniBatch}[name].module
    monkeypatch.setitem(sys.modules, module, None)
    code, out, err = call("--preset=smoke", f"--methods={name},fista_oracle", f"--results_dir={tmp_path / 'results'}")
    assert (code, out) == (2, "") and re.fullmatch(r"[^\n]+\.\n", err)
    assert f"{name} needs {package}" in err and "pip install 'sae_gap[peers]'" in err and not (tmp_path / "results").exists()


BAD_FLAGS = {
    "--num_latents=0": "num_latents must be a positive integer",
    "--num_latents=many": "--num_latents must list integers",
    "--num_latents=20,20": "--num_latents must list different integers",
    "--num_latents=3": "sparsity must be below num_latents",
    "--sparsity=11": "the ID pool has 9 latents",
    "--num_samples=3": "num_samples must be at least 4",
    "--noise_db=": "--noise_db must list",
    "--noise_db=loud": "--noise_db must list decibels or none",
    "--noise_db=20,20.0": "--noise_db must list different finite decibels",
    "--noise_db=inf": "--noise_db must list different finite decibels",
    "--seeds=0,0": "--seeds must list different integers",
    "--seeds=-1": "seed must be an integer from 0",
    "--methods=sae_relu,nope": "--methods has 'nope'",
    "--methods=": "--methods has no name",
    "--sae_steps=0": "sae_steps",
    "--peer_steps=none": "peer_steps",
    "--lam=0": "--lam must be a number above 0",
    "--lam=nan": "--lam must be a number above 0",
    "--preset=huge": "--preset 'huge' is unknown",
    "--shard=2/2": "--shard must have 0 <= i < N",
    "--stream=perhaps": "stream",
    "--input_dim=12": "input_dim",
    "smoke": "'smoke' is not a flag",
}


@pytest.mark.parametrize("flag", BAD_FLAGS)
def test_bad_flags_are_one_sentence(flag, tmp_path):
    code, out, err = call("--preset=smoke", f"--results_dir={tmp_path / 'results'}", flag)
    assert (code, out) == (2, "") and re.fullmatch(r"[^\n]+\.\n", err) and BAD_FLAGS[flag] in err
    assert not (tmp_path / "results").exists()


def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("mine")
    code, out, err = call("--preset=smoke", QUICK, f"--results_dir={tmp_path / 'file'}")
    assert (code, out) == (2, "") and re.fullmatch(r"[^\n]+\.\n", err) and "results cannot be written to" in err
