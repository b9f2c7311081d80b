"""The store loses nothing but the job in hand, and provenance never fails."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_gap.storage import files, results
from sae_gap.storage.results import Store


def job(name, size=2, **values):
    return [{"key": f"{name}-{place}", "job": name, "mcc_id": 0.5, **values} for place in range(size)]


def names(store):
    return [row["key"] for row in store.rows()]


def test_rows_come_back_as_they_went_in(tmp_path):
    store = Store(tmp_path / "new" / "folder")
    store.append(job("a", cosines=[0.5, 1.0], lam=None, seed=np.int64(3), fine=np.bool_(True), codes=np.float32([0.25])))
    assert store.rows()[0] == {
        "key": "a-0",
        "job": "a",
        "job_rows": 2,
        "mcc_id": 0.5,
        "cosines": [0.5, 1.0],
        "lam": None,
        "seed": 3,
        "fine": True,
        "codes": [0.25],
    }
    assert Store(store.directory).keys() == {"a-0", "a-1"}


def test_only_strict_json_is_written(tmp_path):
    store = Store(tmp_path)
    store.append(job("a", 1, mse_id=float("nan"), gap_id=np.float64("inf"), cosines=[float("-inf"), 1.0]))

    def refuse(constant):
        raise AssertionError(constant)

    row = json.loads(store.path.read_text(), parse_constant=refuse)
    assert row["mse_id"] is None and row["gap_id"] is None and row["cosines"] == [None, 1.0]


def test_a_kill_at_any_byte_loses_at_most_the_job_in_hand(tmp_path):
    whole = Store(tmp_path / "whole")
    whole.append(job("a"))
    first = whole.path.stat().st_size
    whole.append(job("b", 3))
    content = whole.path.read_bytes()
    torn = tmp_path / "torn"
    torn.mkdir()
    for cut in range(len(content) + 1):
        (torn / "rows.jsonl").write_bytes(content[:cut])
        store = Store(torn)
        assert [row["job"] for row in store.rows()] == ["a"] * 2 * (cut >= first) + ["b"] * 3 * (cut == len(content))
        store.append(job("a"))
        store.append(job("b", 3))
        assert store.path.read_bytes() == content


def test_a_spoilt_last_line_takes_its_whole_job_with_it(tmp_path):
    store = Store(tmp_path)
    store.append(job("a"))
    store.append(job("b"))
    content = store.path.read_bytes()
    store.path.write_bytes(content[:-9] + b"\n")
    again = Store(tmp_path)
    assert names(again) == ["a-0", "a-1"]
    again.append(job("b"))
    assert store.path.read_bytes() == content


def test_zeros_left_by_a_power_cut_are_dropped(tmp_path):
    store = Store(tmp_path)
    store.append(job("a"))
    content = store.path.read_bytes()
    store.path.write_bytes(content + bytes(4096))
    again = Store(tmp_path)
    assert names(again) == ["a-0", "a-1"]
    again.append(job("b", 1))
    assert names(Store(tmp_path)) == ["a-0", "a-1", "b-0"]


NESTED = b"[" * 5_000 + b"]" * 5_000


def edit(store, number, change):
    """Rewrites one line as someone with an editor would."""
    lines = store.path.read_bytes().splitlines(keepends=True)
    lines[number] = change(lines[number])
    store.path.write_bytes(b"".join(lines))


def replaced(old, new):
    def change(line):
        assert line.count(old) == 1
        return line.replace(old, new)

    return change


def recomputed(line):
    """A checksum that is a row's key hash, as anyone might think it to be."""
    row = json.loads(line)
    row |= {"lam": 0.2, "checksum": "0" * 16}
    return json.dumps(row).encode() + b"\n"


EDITS = {
    "a value": replaced(b'"mcc_id": 0.5', b'"mcc_id": 0.6'),
    "its last digit": replaced(b'"mse_id": 0.1', b'"mse_id": 0.10000000000000002'),
    "λ": replaced(b'"lam": 0.1', b'"lam": 0.2'),
    "the key": replaced(b'"key": "', b'"key": "c'),
    "the seed to a float": replaced(b'"seed": 1', b'"seed": 1.0'),
    "the seed to a truth": replaced(b'"seed": 1', b'"seed": true'),
    "the seed to a string": replaced(b'"seed": 1', b'"seed": "1"'),
    "null to NaN": replaced(b'"gap_id": null', b'"gap_id": NaN'),
    "null to infinity": replaced(b'"gap_id": null', b'"gap_id": 1e999'),
    "a huge number": replaced(b'"mcc_id": 0.5', b'"mcc_id": 1e308'),
    "a huge integer": replaced(b'"mcc_id": 0.5', b'"mcc_id": 1' + b"0" * 4_000),
    "a list": replaced(b"[0.25]", b"[0.25, 0.25]"),
    "a column gone": replaced(b'"mcc_id": 0.5, ', b""),
    "a column more": replaced(b'"mcc_id": 0.5, ', b'"mcc_id": 0.5, "mcc_ood": 0.5, '),
    "a column renamed": replaced(b'"mcc_id"', b'"mcc_od"'),
    "a nested column": replaced(b'"mcc_id": 0.5', b'"mcc_id": ' + NESTED),
    "a nested checksum": lambda line: (
        line[: line.index(b'"checksum": ')] + b'"checksum": ' + NESTED[:400] + NESTED[-400:] + b"}\n"
    ),
    "the checksum": replaced(b'"checksum": "', b'"checksum": "0'),
    "a checksum by guess": recomputed,
    "no checksum": lambda line: line[: line.index(b', "checksum"')] + b"}\n",
}


@pytest.mark.parametrize("number", [0, 2])
@pytest.mark.parametrize("name", EDITS)
def test_a_row_edited_by_hand_is_named(tmp_path, name, number):
    store = Store(tmp_path)
    for values in ({}, {"size": 1}):
        store.append(job(f"a{len(values)}", lam=0.1, seed=1, mse_id=0.1, gap_id=None, cosines=[0.25], **values))
    assert len(Store(tmp_path).rows()) == 3
    content = store.path.read_bytes()
    edit(store, number, EDITS[name])
    assert store.path.read_bytes() != content
    with pytest.raises(ValueError) as error:
        Store(tmp_path)
    said = str(error.value)
    assert said.startswith(f"{store.path}, line {number + 1}, ") and said.endswith("; mend that line or move the file away.")
    assert "\n" not in said and len(said) < 300
    with pytest.raises(ValueError, match=f"line {number + 1}, "):
        Store.peek(tmp_path)


def test_a_checksum_is_of_what_is_on_disk_and_of_nothing_else(tmp_path):
    store = Store(tmp_path)
    store.append(job("a", 1, lam=0.1, big=1e308, small=5e-324, whole=2.0, zero=-0.0, title="é\ud800", nothing=float("nan")))
    (row,) = Store(tmp_path).rows()
    assert "checksum" not in row and (row["big"], row["small"], row["title"]) == (1e308, 5e-324, "é\ud800")
    written = json.loads(store.path.read_text())
    shuffled = dict(reversed(written.items()))
    assert len(written["checksum"]) == 16
    store.path.write_text(json.dumps(shuffled, indent=None, separators=(" ,", " :")) + "\n")
    assert Store(tmp_path).rows() == [row]


def test_a_nested_line_is_named_wherever_it_is(tmp_path):
    store = Store(tmp_path)
    store.append(job("a", 1))
    for after in (b"", store.path.read_bytes().replace(b'"a', b'"b')):
        # Deeper than any version of Python reads: newer ones read thousands.
        deep = b"[" * 100_000 + b"]" * 100_000
        store.path.write_bytes(store.path.read_bytes() + deep + b"\n" + after)
        with pytest.raises(ValueError, match=r"rows\.jsonl, line 2, .*; mend that line or move the file away\.$"):
            Store(tmp_path)


def test_peeking_leaves_nothing_behind(tmp_path):
    assert Store.peek(tmp_path / "not" / "there") == set()
    assert list(tmp_path.iterdir()) == []
    Store(tmp_path, (0, 2)).append(job("a"))
    Store(tmp_path).append(job("b", 1))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    assert Store.peek(tmp_path) == Store.peek(str(tmp_path)) == {"a-0", "a-1", "b-0"}
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "line", [b"{oops}", b"[]", b'{"key": "x", "job": "x"}', b'{"key": "x", "job": "x", "job_rows": 0}', b""]
)
def test_a_corrupt_line_in_the_middle_is_named(tmp_path, line):
    store = Store(tmp_path)
    store.append(job("a", 1))
    content = store.path.read_bytes()
    store.path.write_bytes(content + line + b"\n" + content.replace(b'"a', b'"b'))
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2, is not a row of results"):
        Store(tmp_path)


def test_a_job_cut_short_in_the_middle_is_named(tmp_path):
    store = Store(tmp_path)
    store.append(job("a", 2))
    store.append(job("b", 1))
    lines = store.path.read_bytes().splitlines(keepends=True)
    store.path.write_bytes(lines[0] + lines[2])
    with pytest.raises(ValueError, match=r"line 2, begins a job"):
        Store(tmp_path)


def test_the_line_number_counts_lines_read_before(tmp_path):
    store = Store(tmp_path)
    store.append(job("a", 2))
    with store.path.open("ab") as file:
        file.write(b"{oops}\n{oops}\n")
    with pytest.raises(ValueError, match="line 3"):
        store.rows()


def test_what_is_there_is_not_written_again(tmp_path):
    store = Store(tmp_path)
    store.append(job("a", 2))
    store.append(job("a", 3, mcc_id=0.9))
    store.append(job("a", 3))
    assert [(row["key"], row["mcc_id"], row["job_rows"]) for row in store.rows()] == [
        ("a-0", 0.5, 2),
        ("a-1", 0.5, 2),
        ("a-2", 0.9, 1),
    ]


def test_a_file_removed_under_a_store_starts_afresh(tmp_path):
    store = Store(tmp_path)
    store.append(job("a"))
    store.path.unlink()
    store.append(job("b", 1))
    assert names(store) == names(Store(tmp_path)) == ["b-0"]


def test_shards_write_apart_and_read_together(tmp_path):
    shards = [Store(tmp_path, (index, 2)) for index in range(2)]
    shards[0].append(job("a"))
    shards[1].append(job("b", 1))
    assert {path.name for path in tmp_path.iterdir()} == {"rows-0-of-2.jsonl", "rows-1-of-2.jsonl"}
    whole = Store(tmp_path)
    assert whole.keys() == shards[0].keys() == {"a-0", "a-1", "b-0"}
    whole.append(job("a"))
    assert whole.path.read_bytes() == b""


def test_a_reader_leaves_the_torn_end_of_another_shard_alone(tmp_path):
    Store(tmp_path, (0, 2)).append(job("a"))
    path = tmp_path / "rows-0-of-2.jsonl"
    path.write_bytes(torn := path.read_bytes()[:-5])
    store = Store(tmp_path, (1, 2))
    store.append(job("b", 1))
    assert names(store) == ["b-0"] and path.read_bytes() == torn


def write_many(directory, name):
    store = Store(directory)
    for number in range(30):
        store.append(job(f"{name}{number}", 3, cosines=[0.123456789] * 400))


def test_processes_may_share_one_file(tmp_path):
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(tmp_path, name)) for name in "xyx"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    lines = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(lines) == len(Store(tmp_path).keys()) == 2 * 30 * 3


def write_forever(directory):
    store = Store(directory)
    for number in itertools.count():
        store.append(job(f"k{number}", 3, cosines=[0.1] * 9_000))


def test_a_killed_writer_leaves_whole_jobs_only(tmp_path):
    code = "import sys; from tests.storage.test_results import write_forever; write_forever(sys.argv[1])"
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[2])
    path = tmp_path / "rows.jsonl"
    while not path.exists() or path.stat().st_size < 500_000:
        assert writer.poll() is None
        time.sleep(0.01)
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    survivors = [row["job"] for row in Store(tmp_path).rows()]
    assert survivors and all(survivors.count(name) == 3 for name in survivors)
    assert list(dict.fromkeys(survivors)) == [f"k{number}" for number in range(len(survivors) // 3)]


@pytest.mark.parametrize(
    "rows", [[{"key": "a"}], [{"job": "a"}], [{"key": 1, "job": "a"}], job("a", 1) * 2, job("a") + job("b")]
)
def test_rows_that_are_not_one_job_are_refused(tmp_path, rows):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="must"):
        store.append(rows)
    assert store.rows() == []


def test_a_folder_that_cannot_be_made_is_refused_and_nothing_is_left(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "in", tmp_path / "made" / ("x" * 300), tmp_path / "rows"):
        if folder.name == "rows":
            (folder / "rows.jsonl").mkdir(parents=True)
        with pytest.raises(ValueError, match=r"^results cannot be written to .*; choose another folder\.$"):
            Store(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "rows"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    def deny(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", deny)
    with pytest.raises(ValueError, match="Permission denied"):
        Store(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_opening_a_store_leaves_an_empty_folder(tmp_path):
    Store(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shard", [(1, 1), (-1, 2), (0, 0)])
def test_a_shard_outside_its_count_is_refused(tmp_path, shard):
    with pytest.raises(ValueError, match="shard"):
        Store(tmp_path / "new", shard)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_part_of_a_job(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.append(job("a"))
    write, calls = os.write, []

    def fill(descriptor, content):
        calls.append(len(content))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return write(descriptor, content[:20])

    monkeypatch.setattr(results.os, "write", fill)
    with pytest.raises(OSError, match="No space left on device"):
        store.append(job("b"))
    monkeypatch.undo()
    assert names(Store(tmp_path)) == ["a-0", "a-1"] and store.path.read_bytes().count(b"\n") == 2
    store.append(job("b"))
    assert names(store) == ["a-0", "a-1", "b-0", "b-1"]


values = (
    st.none()
    | st.booleans()
    | st.integers(-1000, 1000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=6))
def test_a_key_forgets_order_and_containers(mapping):
    shuffled = dict(reversed(mapping.items()))
    assert results.key({"inner": [mapping, (1, 2)]}) == results.key({"inner": (shuffled, [1.0, 2])})


def test_keys_are_stable_and_distinct():
    assert results.key({"study": "amortisation_gap", "lam": 0.1}) == "89f0bc754d3abac0"
    assert len({results.key({"a": value}) for value in (None, True, 1, "1", 1.5, [1], [])}) == 7
    assert results.key({"a": np.int64(2)}) == results.key({"a": 2.0})
    with pytest.raises(TypeError):
        results.key({"a": object()})


def test_provenance_is_plain_and_has_no_paths():
    found = results.provenance()
    assert list(found) == ["python", "jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "sae_gap", "revision", "machine"]
    assert found["numpy"] == np.__version__
    assert all(value is None or "/" not in value for value in found.values())


def test_provenance_survives_the_absence_of_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    results._revision.cache_clear()
    try:
        assert results.provenance()["revision"] is None
    finally:
        results._revision.cache_clear()


def test_the_revision_is_of_this_code_and_of_no_other(tmp_path):
    def git(*arguments):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    (tmp_path / "results.py").write_text("")
    (tmp_path / "other").write_text("")
    git("add", "other")
    git("commit", "-qm", "first")
    assert results._revision.__wrapped__(tmp_path) is None
    git("add", "results.py")
    git("commit", "-qm", "second")
    assert results._revision.__wrapped__(tmp_path) == git("rev-parse", "HEAD").strip()
    (tmp_path / "results.py").write_text("edited")
    assert results._revision.__wrapped__(tmp_path) == git("rev-parse", "HEAD").strip() + "-dirty"
