"""Rows, trees and whole files, on disk and in a bucket: the old content or the new; what is damaged,
edited, foreign or hostile is refused before anything is made of it; and provenance never fails.
"""

import errno
import json
import math
import os
import subprocess
import sys
import time

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax.random import key_data
from jax.tree_util import tree_map
from numpy.testing import assert_array_equal
from pytest import mark, raises

from sae_gap.core import Model
from sae_gap.storage import (
    BucketError,
    Checkpoint,
    Folder,
    Store,
    digests,
    grouped,
    provenance,
    trees,
    versions,
)


@mark.parametrize("place", ["{}/a", "file://{}/a/", "memory://bucket/a"])
def test_files_are_put_got_listed_and_removed(place, tmp_path):
    fsspec.filesystem("memory").store.clear()
    folder = Folder(place.format(tmp_path))
    inner = folder / "inner"
    assert folder.names() == folder.folders() == [] and folder.obstacle() is None
    for content in (b"old", b"new"):
        folder.write("x", content)
        inner.write("y", b"")
    assert folder.read("x") == b"new" and inner.read("y") == b""
    assert (folder.names(), folder.folders(), inner.names()) == (
        ["x"],
        ["inner"],
        ["y"],
    )
    assert (
        folder.exists("x")
        and not folder.exists("inner")
        and not (folder / "none").exists("y")
    )
    assert (folder.name, str(inner)) == ("a", f"{folder}/inner")
    # Only a folder on disk has a path.
    assert folder.local == (None if "://" in place else tmp_path / "a")
    for _ in range(2):
        folder.remove("x")
    assert folder.names() == []
    with raises(FileNotFoundError):
        folder.read("x")


def test_a_draft_of_a_killed_process_is_no_file_and_goes_after_a_day(tmp_path):
    draft = tmp_path / ".draft-0123456789abcdef"
    draft.write_bytes(b"half")
    for age, there in ((time.time(), True), (0, False)):
        os.utime(draft, (age, age))
        Folder(tmp_path).write("y", b"")
        assert draft.exists() == there and Folder(tmp_path).names() == ["y"]


def test_a_full_disk_leaves_the_old_content(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Folder("~").write("x", b"old")
    # As open to others as any file.
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with raises(OSError, match="No space left on device") as error:
        Folder(tmp_path).write("x", b"new")
    assert error.value.filename == str(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"old" and len([*tmp_path.iterdir()]) == 2


def test_where_nothing_can_be_written_is_said_beforehand_and_nothing_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    with raises(ValueError, match=r"/file/inner \(Not a directory\); choose another"):
        Folder(tmp_path / "file" / "inner").require_writable()
    Folder(tmp_path / "not" / "yet").require_writable()
    assert not (tmp_path / "not").exists()


@mark.parametrize("url", ["gs:/bucket", "gs://", "gs://a/../b", "nonsense://bucket/x"])
def test_a_url_of_no_bucket_is_refused(url):
    with raises(ValueError, match=r"bucket|cannot be reached"):
        Folder(url)


def test_a_bucket_that_refuses_is_named(monkeypatch):
    folder = Folder("memory://bucket/a")

    def refuse(*_, **__):
        raise RuntimeError("403 Forbidden.")

    monkeypatch.setattr(folder._bucket, "pipe_file", refuse)
    fault = r"^memory://bucket/a/x cannot be written \(403 Forbidden\)\.$"
    with raises(BucketError, match=fault):
        folder.write("x", b"")
    assert "403" in folder.obstacle()


def row(key, **values):
    return {"key": key, "mcc_id": 0.5, **values}


def test_rows_come_back_as_they_went_in_and_each_is_written_once(tmp_path):
    store = Store(tmp_path / "study")
    other = Store(tmp_path / "study")
    assert store.rows() == [] and not (tmp_path / "study").exists()
    store.put(
        row(
            "b",
            list=(1, None),
            array=np.arange(2),
            number=np.float32(0.5),
            nan=math.nan,
        )
    )
    store.put(row("a"))
    path = tmp_path / "study" / "rows" / "a.json"
    content = path.read_text()
    other.put(row("a", mcc_id=0.7))
    found = row("b", list=[1, None], array=[0, 1], number=0.5, nan=None)
    assert (
        store.rows() == other.rows() == [row("a"), found]
        and path.read_text() == content
    )
    # Earlier versions wrote the rows of a job together, of which the first of a key counts.
    rows = [row("b", mcc_id=0.9), row("c")]
    old = json.loads(content) | {"rows": rows, "digest": digests.json_digest(rows)}
    path.with_name("job.json").write_text(json.dumps(old))
    assert store.rows() == [row("a"), found, row("c")]


def test_rows_are_grouped_in_order_and_may_lack_a_column():
    rows = [{"a": 2, "n": 0}, {"a": 1}, {"a": 2, "n": 0}]
    groups = {(2, 0): rows[::2], (1, None): rows[1:2]}
    assert [*grouped(rows, ("a", "n")).items()] == [*groups.items()]


DAMAGED = "is damaged or holds no rows"
EDITED = "was edited after it was written"
EDITS = [
    ("0.5", "0.6", EDITED),
    ('"digest"', '"other"', EDITED),
    ("}", "", DAMAGED),
    ("{", "[" * 100_000, DAMAGED),
    ("rows 1", "rows 9", "is of the form 'sae_gap rows 9', not"),
    ('"key"', '"kex"', DAMAGED),
]


@mark.parametrize(("old", "new", "fault"), EDITS)
def test_what_is_damaged_or_edited_is_named(tmp_path, old, new, fault):
    Store(tmp_path).put(row("a"))
    path = tmp_path / "rows" / "a.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with raises(ValueError, match=rf"^{path} {fault}.*move it away"):
        Store(tmp_path).rows()


def test_rows_are_read_without_jax(tmp_path):
    code = (
        "import sys; from sae_gap import Store, measure; measure.verdict, measure.curve_lines; "
        "Store(sys.argv[1]).rows(); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)


def test_keys_are_stable_and_distinct_and_forget_order_and_containers():
    assert digests.key({"study": "amortisation_gap", "lam": 0.1}) == "89f0bc754d3abac0"
    values = (None, True, 1, "1", 1.5, [1], [], {"b": 2, "a": 1})
    assert len({digests.key({"a": value}) for value in values}) == len(values)
    same = {"a": np.int64(2), "b": ({"d": None, "c": 1.0}, (1, 2))}
    assert digests.key(same) == digests.key(
        {"b": [{"c": 1, "d": None}, [1.0, 2]], "a": 2.0}
    )
    with raises(TypeError):
        digests.key({"a": object()})


def test_digests_tell_shapes_types_bytes_and_orders_apart():
    zeros = np.zeros(4)
    turned = np.arange(4.0).reshape(2, 2)
    lists = [[zeros], [zeros.reshape(2, 2)], [np.zeros(8, "f")], [np.zeros(4, int)]]
    lists += [[turned], [turned.T], [zeros, turned], [turned, zeros]]
    assert len({*map(digests.digest, lists)}) == len(lists)
    assert digests.digest([np.asfortranarray(turned)]) == digests.digest([turned])


def test_the_revision_is_of_this_code_and_of_no_other(tmp_path, monkeypatch):
    def git(*arguments):
        command = [
            "git",
            "-C",
            tmp_path,
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            *arguments,
        ]
        return subprocess.check_output(command, text=True).strip()

    def revision():
        versions._revision.cache_clear()
        return versions._revision(tmp_path)

    git("init", "-q")
    (tmp_path / "versions.py").write_text("")
    git("commit", "-qm", "other", "--allow-empty")
    assert revision() is None
    git("add", "versions.py")
    git("commit", "-qm", "this")
    assert revision() == git("rev-parse", "HEAD")
    (tmp_path / "versions.py").write_text("edited")
    assert revision() == git("rev-parse", "HEAD") + "-dirty"
    monkeypatch.setenv("PATH", "")
    assert revision() is None
    assert all(value is None or "/" not in value for value in provenance().values())


TREE = {
    "model": Model(jnp.arange(6.0).reshape(2, 3), jnp.ones(2)),
    "key": jax.random.key(3),
    "flag": jnp.asarray(True),
    "n": jnp.int32(7),
}
CONTENT = trees.dump(TREE, {"step": 3, "nested": {"a": [1, None]}})


def check_same(tree, other):
    words = [part | {"key": key_data(part["key"])} for part in (tree, other)]
    tree_map(lambda a, b: assert_array_equal(a, b, strict=True), *words)


def test_a_tree_comes_back_with_its_note():
    note = trees.read_note(CONTENT)
    assert note == {"step": 3, "nested": {"a": [1, None]}, "crc32": note["crc32"]}
    for like in (TREE, jax.eval_shape(lambda: TREE)):
        check_same(trees.load(CONTENT, like), TREE)
    # Others read it by the names of its places.
    found = safetensors.numpy.load(CONTENT)
    assert_array_equal(found["['model'].dictionary"], TREE["model"].dictionary)
    assert trees.load(trees.dump({}, {}), {}) == {}


LIKE = {
    "shape": TREE | {"model": Model(jnp.zeros((2, 4)), jnp.ones(2))},
    "type": TREE | {"n": jnp.float32(7)},
    "fewer": {name: leaf for name, leaf in TREE.items() if name != "flag"},
}


@mark.parametrize("name", LIKE)
def test_what_is_unlike_is_refused(name):
    with raises(ValueError, match=r" is .*, where .* is expected$"):
        trees.load(CONTENT, LIKE[name])


OTHERS = {"note": "{}", "crc32": "1"}
DAMAGE = {
    "flipped": CONTENT[:-3] + bytes([CONTENT[-3] ^ 1]) + CONTENT[-2:],
    "cut": CONTENT[:-1],
    "a header of the moon": (2**60).to_bytes(8, "little") + CONTENT[8:],
    "another checksum": safetensors.numpy.save(safetensors.numpy.load(CONTENT), OTHERS),
}
for name, note in (("a list for a", "[1]"), ("a deep", "[" * 100_000), ("no", None)):
    metadata = OTHERS | {"note": note} if note else None
    DAMAGE[f"{name} note"] = safetensors.numpy.save({"a": np.ones(2)}, metadata)


@mark.parametrize("name", DAMAGE)
def test_what_is_damaged_or_foreign_is_refused(name):
    with raises(ValueError):
        trees.load(DAMAGE[name], TREE)
    if name.endswith(" note"):
        with raises(ValueError, match="no note"):
            trees.read_note(DAMAGE[name])


def test_a_checkpoint_is_saved_loaded_and_removed(tmp_path, caplog):
    save = Checkpoint(tmp_path, every=0, fit="mine")
    assert save.load(TREE) is None
    save.store(TREE, 2.5)
    state, seconds = save.load(TREE)
    check_same(state, TREE)
    assert save.named("other").load(TREE) is None and seconds == 2.5
    for _ in range(2):
        save.discard()
    assert [*tmp_path.iterdir()] == []
    # A full disk is warned of.
    (tmp_path / "file").write_text("")
    Checkpoint(tmp_path / "file").store(TREE, 1.0)
    assert "going on without saving the fit" in caplog.text
