"""A row is one whole file; what is damaged, edited or foreign is named; and provenance never
fails.
"""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from sae_gap.storage import Store, results


def row(key, **values):
    return {"key": key, "mcc_id": 0.5, **values}


def test_rows_come_back_as_they_went_in_and_each_is_written_once(tmp_path):
    store, other = Store(tmp_path / "study"), Store(tmp_path / "study")
    assert store.rows() == [] and not (tmp_path / "study").exists()
    store.put(row("b", list=(1, None), array=np.arange(2), number=np.float32(0.5), nan=math.nan))
    store.put(row("a"))
    path = tmp_path / "study" / "rows" / "a.json"
    content = path.read_text()
    other.put(row("a", mcc_id=0.7))
    found = row("b", list=[1, None], array=[0, 1], number=0.5, nan=None)
    assert store.rows() == other.rows() == [row("a"), found] and path.read_text() == content
    # Earlier versions wrote the rows of a job together, of which the first of a key counts.
    rows = [row("b", mcc_id=0.9), row("c")]
    old = json.loads(content) | {"rows": rows, "digest": results._digest(rows)}
    path.with_name("job.json").write_text(json.dumps(old))
    assert store.rows() == [row("a"), found, row("c")]


def test_rows_are_grouped_in_order_and_may_lack_a_column():
    rows = [{"a": 2, "n": 0}, {"a": 1}, {"a": 2, "n": 0}]
    groups = {(2, 0): rows[::2], (1, None): rows[1:2]}
    assert [*results.grouped(rows, ("a", "n")).items()] == [*groups.items()]


DAMAGED, EDITED = "is damaged or holds no rows", "was edited after it was written"
EDITS = [
    ("0.5", "0.6", EDITED),
    ('"digest"', '"other"', EDITED),
    ("}", "", DAMAGED),
    ("{", "[" * 100_000, DAMAGED),
    ("rows 1", "rows 9", "is of the form 'sae_gap rows 9', not"),
    ('"key"', '"kex"', DAMAGED),
]


@pytest.mark.parametrize(("old", "new", "fault"), EDITS)
def test_what_is_damaged_or_edited_is_named(tmp_path, old, new, fault):
    Store(tmp_path).put(row("a"))
    path = tmp_path / "rows" / "a.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"^{path} {fault}.*move it away"):
        Store(tmp_path).rows()


def test_rows_are_read_without_jax(tmp_path):
    code = (
        "import sys; from sae_gap import Store, measure; measure.verdict, measure.curve_lines; "
        "Store(sys.argv[1]).rows(); assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], check=True)


def test_keys_are_stable_and_distinct_and_forget_order_and_containers():
    assert results.key({"study": "amortisation_gap", "lam": 0.1}) == "89f0bc754d3abac0"
    values = (None, True, 1, "1", 1.5, [1], [], {"b": 2, "a": 1})
    assert len({results.key({"a": value}) for value in values}) == len(values)
    same = {"a": np.int64(2), "b": ({"d": None, "c": 1.0}, (1, 2))}
    assert results.key(same) == results.key({"b": [{"c": 1, "d": None}, [1.0, 2]], "a": 2.0})
    with pytest.raises(TypeError):
        results.key({"a": object()})


def test_digests_tell_shapes_types_bytes_and_orders_apart():
    zeros, turned = np.zeros(4), np.arange(4.0).reshape(2, 2)
    lists = [[zeros], [zeros.reshape(2, 2)], [np.zeros(8, "f")], [np.zeros(4, int)]]
    lists += [[turned], [turned.T], [zeros, turned], [turned, zeros]]
    assert len({*map(results.digest, lists)}) == len(lists)
    assert results.digest([np.asfortranarray(turned)]) == results.digest([turned])


def test_the_revision_is_of_this_code_and_of_no_other(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.check_output(command, text=True).strip()

    def revision():
        results._revision.cache_clear()
        return results._revision(tmp_path)

    git("init", "-q")
    (tmp_path / "results.py").write_text("")
    git("commit", "-qm", "other", "--allow-empty")
    assert revision() is None
    git("add", "results.py")
    git("commit", "-qm", "this")
    assert revision() == git("rev-parse", "HEAD")
    (tmp_path / "results.py").write_text("edited")
    assert revision() == git("rev-parse", "HEAD") + "-dirty"
    monkeypatch.setenv("PATH", "")
    assert revision() is None
    assert all(value is None or "/" not in value for value in results.provenance().values())
