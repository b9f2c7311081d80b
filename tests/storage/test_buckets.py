"""Buckets: a run in one leaves what it leaves in a folder, goes on after any kill, and says what a store refuses."""

import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from sae_gap import Store, open_activations
from sae_gap.data.activations import fetched
from sae_gap.storage import buckets, checkpoints, files

ROWS = [{"key": f"{i}", "job": f"{i}", "value": i} for i in range(4)]
RUN = ("--preset=smoke", "--methods=linear_probe,sae_topk,fista_oracle", "--seeds=0")


@pytest.fixture
def bucket():
    """The address of a folder in an empty bucket in memory."""
    MemoryFileSystem.store.clear()
    yield "memory://bucket/results"
    MemoryFileSystem.store.clear()


def objects(url):
    store, prefix = fsspec.core.url_to_fs(url)
    return {path.removeprefix(prefix).lstrip("/"): store.cat_file(path) for path in store.find(prefix)}


class KilledError(BaseException):
    """Ends a process as far as a test in this one can."""


@contextlib.contextmanager
def killed():
    """What a killed process leaves: nothing is pushed at its end."""
    with pytest.raises(KilledError), buckets.held():
        yield
        raise KilledError


def test_rows_are_in_the_bucket_as_soon_as_they_are_appended(bucket):
    with killed():
        store = Store(buckets.local(bucket) / "study")
        for row in ROWS[:2]:
            store.append([row])
            assert objects(bucket) == {"study/rows.jsonl": store.path.read_bytes()}
    with buckets.held():
        store = Store(buckets.local(bucket) / "study")
        assert [row["value"] for row in store.rows()] == [0, 1]
        assert Store.peek(buckets.local(bucket) / "study") == {"0", "1"}
        store.append([ROWS[2]])
    assert objects(bucket)["study/rows.jsonl"].count(b"\n") == 3


def test_shards_have_objects_of_their_own_and_one_writer_each(bucket):
    for index in range(2):
        with killed():
            Store(buckets.local(bucket) / "study", (index, 2)).append([ROWS[index]])
    with buckets.held():
        store = Store(buckets.local(bucket) / "study")
        assert {row["value"] for row in store.rows()} == {0, 1}
        store.append([ROWS[2]])
        mine = objects(bucket)["study/rows.jsonl"]
        # Another run, on another machine, that was given the same shard.
        fsspec.filesystem("memory").pipe_file("/bucket/results/study/rows.jsonl", b"theirs")
        with pytest.raises(buckets.BucketError, match=r"study/rows\.jsonl is written by another run as well; give each"):
            store.append([ROWS[3]])
        # What did not reach the bucket is not here either.
        assert {row["value"] for row in store.rows()} == {0, 1, 2} and store.path.read_bytes() == mine
    assert objects(bucket)["study/rows.jsonl"] == b"theirs"


def test_a_state_is_pushed_and_removed_with_its_file(bucket):
    with killed():
        checkpoint = checkpoints.Checkpoint(buckets.local(bucket) / "models" / "fit" / "state.npz", name="fit")
        checkpoint.store({"x": np.arange(3.0)}, 5.0)
    with killed():
        folder = buckets.local(bucket) / "models" / "fit"
        assert not folder.exists()
        buckets.pull(folder)
        checkpoint = checkpoints.Checkpoint(folder / "state.npz", name="fit")
        state, seconds = checkpoint.load({"x": np.zeros(3)})
        assert seconds == 5 and np.array_equal(state["x"], np.arange(3.0))
        checkpoint.discard()
    assert objects(bucket) == {}


def test_what_is_written_and_removed_by_other_means_follows_at_the_end(bucket):
    with buckets.held():
        folder = buckets.local(bucket)
        files.write_atomically(_made(folder / "study") / "old.png", b"old")
        (_made(folder / "study" / "sae") / "weights").write_bytes(b"weights")
        assert set(objects(bucket)) == {"study/old.png"}
        home = folder.parents[2]
    assert objects(bucket) == {"study/old.png": b"old", "study/sae/weights": b"weights"} and not home.exists()
    with buckets.held():
        folder = buckets.local(bucket)
        buckets.pull(folder, below=True)
        assert not (folder / "study" / "sae").exists()
        (folder / "study" / "old.png").unlink()
        (folder / "study" / ".draft").write_bytes(b"")
    assert set(objects(bucket)) == {"study/sae/weights"}


def test_what_is_rewritten_in_as_many_bytes_follows_too(bucket):
    with buckets.held():
        path = _made(buckets.local(bucket)) / "page.json"
        files.write_atomically(path, b"old")
        path.write_bytes(b"new")
        # Later than the first, however coarse the clock.
        os.utime(path, ns=(path.stat().st_mtime_ns + 10**9,) * 2)
    assert objects(bucket) == {"page.json": b"new"}


def test_a_folder_is_asked_for_once_and_never_the_files_that_are_here(bucket):
    fsspec.filesystem("memory").pipe_file("/bucket/results/study/rows.jsonl", b"a row\n")
    listed = mock.patch.object(buckets.stores, "entries", side_effect=buckets.stores.entries)
    brought = mock.patch.object(MemoryFileSystem, "get_file", autospec=True, side_effect=MemoryFileSystem.get_file)
    with buckets.held(), listed as lists, brought as gets:
        folder = buckets.local(bucket) / "study"
        files.write_atomically(_made(folder) / "page.json", b"mine")
        for _ in range(2):
            buckets.pull(folder)
        assert lists.call_count == gets.call_count == 1 and (folder / "page.json").read_bytes() == b"mine"


def test_what_never_was_here_stays_there_and_drafts_of_others_do_not_come(bucket):
    for name in ("theirs.png", ".sae_gap-probe"):
        fsspec.filesystem("memory").pipe_file(f"/bucket/results/study/{name}", b"theirs")
    with buckets.held():
        folder = buckets.local(bucket) / "study"
        buckets.push(folder / "theirs.png")
        buckets.pull(folder.parent)
        assert not folder.exists()
        buckets.pull(folder.parent, below=True)
        assert [path.name for path in folder.iterdir()] == ["theirs.png"]
    assert set(objects(bucket)) == {"study/theirs.png", "study/.sae_gap-probe"}


def test_paths_are_as_they_were_without_a_bucket(tmp_path):
    with buckets.held():
        assert buckets.local(tmp_path) == tmp_path == fetched(tmp_path)
        assert buckets.local("results") == Path("results") and buckets.name(tmp_path) == str(tmp_path)
        buckets.pull(tmp_path)
        buckets.push(tmp_path / "none")
        assert buckets.obstacle(tmp_path) is None
    assert tmp_path.exists()


@pytest.mark.parametrize(
    "url", ["gs:/bucket/x", "gs://", "http://bucket/x", "memory://a/../b", "s4://bucket", Path("gs://a/b")]
)
def test_what_is_no_bucket_is_no_folder_either(url):
    with pytest.raises(ValueError, match=r"is no bucket that can be used; write it as gs://bucket/folder or s3://"):
        buckets.local(url)


@pytest.mark.parametrize("module", ["fsspec.core", "gcsfs"])
def test_the_extra_is_named_where_it_is_missing(module):
    with mock.patch.dict(sys.modules, {module: None}), pytest.raises(ValueError, match=r"pip install 'sae_gap\[buckets\]'"):
        buckets.local("gs://bucket/folder")


def test_a_store_that_cannot_be_reached_is_named():
    with (
        mock.patch("fsspec.core.url_to_fs", side_effect=RuntimeError("no credentials\nwere found.")),
        pytest.raises(ValueError, match=r"^gs://bucket/folder cannot be reached \(no credentials were found\); check its name"),
    ):
        buckets.local("gs://bucket/folder")


SOURCES = Path(__file__).parents[2] / "benchmarks"
BINARIES = sorted(path.stem for path in SOURCES.glob("*.py") if re.search(r'DEFINE_string\(\s*"results_dir"', path.read_text()))


@pytest.mark.parametrize("binary", [*BINARIES, "all", "vary_latents"])
def test_every_binary_with_results_takes_them_to_a_bucket(binary, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ("--activations=x.npy",) if binary in ("measure_sae", "peer_saes", "train_real") else ()
    # An address that is nearly one of a bucket would make a folder here, if anything took it for a path.
    code, out, err = call(binary, *given, "--results_dir=gs:/bucket/results")
    assert (
        (code, out) == (2, "") and err.startswith("'gs:/bucket/results' is no bucket that can be used") and err.count("\n") == 1
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["pipe_file", "rm_file"])
def test_a_bucket_that_cannot_be_written_is_refused_before_anything_runs(bucket, call, name):
    refused = PermissionError(13, "Permission denied")
    with mock.patch.object(MemoryFileSystem, name, side_effect=refused):
        code, out, err = call("amortisation_gap", *RUN, f"--results_dir={bucket}")
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"results cannot be written to {bucket}/amortisation_gap (Permission denied); check its name and ")
    assert not any(name.endswith((".jsonl", ".npz")) for name in objects(bucket))


def test_a_bucket_that_is_not_there_is_said_to_be_so(bucket, call):
    with mock.patch.object(MemoryFileSystem, "pipe_file", side_effect=FileNotFoundError("https://store/b/bucket/o")):
        code, _, err = call("amortisation_gap", *RUN, f"--results_dir={bucket}")
    assert (code, err.count("\n")) == (2, 1) and f"cannot be written to {bucket}/amortisation_gap (it is not there)" in err


def test_a_bucket_that_keeps_what_is_replaced_is_no_place_for_rows(bucket):
    with buckets.held(), mock.patch.object(MemoryFileSystem, "cat_file", return_value=b"first"):
        assert buckets.obstacle(buckets.local(bucket)) == "what is written there does not stay"


def test_models_need_a_bucket_that_can_be_written_as_well(bucket, call, tmp_path):
    with mock.patch.object(MemoryFileSystem, "pipe_file", side_effect=PermissionError(13, "Permission denied")):
        code, _, err = call("amortisation_gap", *RUN, f"--results_dir={tmp_path}", f"--models_dir={bucket}")
    assert code == 2 and "models cannot be kept in memory://bucket/results (Permission denied)" in err and err.count("\n") == 1


def test_a_store_that_fails_midway_ends_the_run_in_a_sentence_and_the_next_goes_on(bucket, call):
    put, written = MemoryFileSystem.put_file, []

    def fails(self, here, there, **options):
        written.append(there)
        if there.endswith("rows.jsonl") and sum(path.endswith("rows.jsonl") for path in written) > 1:
            raise RuntimeError("503, backend error")
        return put(self, here, there, **options)

    with mock.patch.object(MemoryFileSystem, "put_file", fails):
        code, out, err = call("amortisation_gap", *RUN, f"--results_dir={bucket}")
    assert (code, out) == (2, "") and "rows.jsonl cannot be written: 503, backend error" in err and "Traceback" not in err
    there = objects(bucket)
    whole = there["amortisation_gap/rows.jsonl"]
    fits = {name for name in there if name.startswith("models/")}
    assert whole.count(b"\n") == 1 and not any(name.endswith("png") for name in there)
    with mock.patch.object(MemoryFileSystem, "put_file", autospec=True, side_effect=put) as puts:
        code, out, err = call("amortisation_gap", *RUN, f"--results_dir={bucket}")
    assert (code, err) == (0, "")
    # What was fitted before is read.
    assert fits and not any("/models/" in one.args[2] for one in puts.call_args_list)
    there = objects(bucket)
    assert there["amortisation_gap/rows.jsonl"].startswith(whole) and fits <= there.keys()
    assert {"summary.csv", "README.md", "page.json"} <= {Path(name).name for name in there}
    with buckets.held():
        folder = buckets.local(bucket) / "amortisation_gap"
        mine = {row["key"]: row for row in Store(folder).rows()}
    assert len(mine) == 3 and all(row["mcc_ood"] > 0 for row in mine.values())
    # A third run fits nothing and pushes no rows; a report of the bucket finds the study.
    code, out, err = call("amortisation_gap", *RUN, f"--results_dir={bucket}", "--dry_run")
    assert code == 0 and "1/1 rows there, nothing to fit" in out and "0/1" not in out
    code, out, err = call("report", f"--results_dir={bucket}")
    assert (code, err) == (0, "") and b"sae_topk" in objects(bucket)["report.html"]


def test_a_run_that_is_really_killed_goes_on_from_the_bucket(tmp_path, monkeypatch, start, call):
    temporary = _made(tmp_path / "temporary")
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    url, rows = f"file://{tmp_path}/bucket", tmp_path / "bucket" / "vary_latents" / "rows.jsonl"
    options = (
        "--preset=smoke",
        "--methods=raw,fista_oracle",
        "--num_latents=20",
        "--noise_db=none,20,30",
        f"--results_dir={url}",
    )
    process = start("vary_latents", *options)
    until = time.monotonic() + 120
    while not rows.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before = rows.read_bytes()
    (left,) = temporary.glob("sae_gap-mirror-*")
    assert before and left.is_dir()
    # The mirror of a run that lives stays, that of a killed one goes.
    with buckets.held():
        mine = buckets.local("memory://bucket/results")
        assert not left.exists()
        buckets.local("memory://bucket/others")
        assert mine.parents[2].exists()
    assert not list(temporary.glob("sae_gap-mirror-*"))
    code, _, err = call("vary_latents", *options)
    assert (code, err) == (0, "")
    assert rows.read_bytes().startswith(before) and len(Store(rows.parent).rows()) == 3 * 2 * 2
    assert (rows.parent / "summary.csv").is_file()


def test_activations_are_copied_once_for_each_version(tmp_path, monkeypatch, bucket):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = fsspec.filesystem("memory")
    values = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", values)
    np.save(tmp_path / "x.documents.npy", np.arange(30) // 10)
    url = f"{bucket}/x.npy"
    for name in ("x.npy", "x.documents.npy", "other.npy"):
        store.pipe_file(f"/bucket/results/{name}", (tmp_path / name.replace("other", "x")).read_bytes())
    with mock.patch.object(MemoryFileSystem, "get_file", autospec=True, side_effect=MemoryFileSystem.get_file) as get:
        for _ in range(2):
            found = open_activations(url)
            assert np.array_equal(found.take(np.arange(30)), values) and found.documents.max() == 2
        assert get.call_count == 2
    copies = tmp_path / "sae_gap" / "buckets"
    assert {path.name for path in copies.rglob("*.npy")} == {"x.npy", "x.documents.npy"}
    store.rm_file("/bucket/results/x.documents.npy")
    np.save(tmp_path / "x.npy", 2 * values)
    store.pipe_file("/bucket/results/x.npy", (tmp_path / "x.npy").read_bytes())
    assert np.array_equal(open_activations(url).take([3]), 2 * values[[3]])
    assert [path.name for path in copies.rglob("*.npy")] == ["x.npy"]
    store.rm_file("/bucket/results/other.npy")
    store.pipe_file("/bucket/results/y.npy", (tmp_path / "x.npy").read_bytes())
    assert open_activations(bucket).num_samples == 60


def test_activations_that_cannot_be_had_are_named(tmp_path, monkeypatch, bucket):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"memory://bucket/results/x\.npy is neither a file nor a folder"):
        open_activations(f"{bucket}/x.npy")
    fsspec.filesystem("memory").pipe_file("/bucket/results/x.npy", b"0" * 2**20)
    small = mock.Mock(free=2**10)
    with mock.patch.object(shutil, "disk_usage", return_value=small), pytest.raises(ValueError, match=r"takes 0\.0 GiB, but"):
        open_activations(f"{bucket}/x.npy")
    with (
        mock.patch.object(MemoryFileSystem, "get_file", side_effect=RuntimeError("expired\ntoken")),
        pytest.raises(ValueError, match=r"x\.npy cannot be read \(expired token\); check your credentials"),
    ):
        open_activations(f"{bucket}/x.npy")
    assert not list(tmp_path.rglob("*.npy")) and not list((tmp_path / "sae_gap" / "buckets").rglob("tmp*"))
    with pytest.raises(ValueError, match="cannot be read as activations"):
        open_activations(f"{bucket}/x.npy")


def _made(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder
