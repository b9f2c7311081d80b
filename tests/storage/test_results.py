"""A row is one whole file; what is damaged, edited or foreign is named; and provenance never
fails.
"""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_gap.storage import results
from sae_gap.storage.results import Store


def row(key, **values):
    return {"key": key, "mcc_id": 0.5, **values}


def names(store):
    return [row["key"] for row in store.rows()]


def test_rows_come_back_as_they_went_in(tmp_path):
    store = Store(tmp_path / "study")
    assert store.rows() == [] and not (tmp_path / "study").exists()
    values = {
        "nested": {"list": [1, None]},
        "number": np.float32(0.1),
        "array": np.arange(2),
        "lost": math.inf,
        "nan": math.nan,
    }
    store.put(row("b", **values))
    store.put(row("a"))
    assert names(store) == ["a", "b"] == names(Store(tmp_path / "study"))
    found = store.rows()[1]
    assert (
        found["nested"] == {"list": [1, None]}
        and found["number"] == float(np.float32(0.1))
        and found["array"] == [0, 1]
    )
    assert found["lost"] is found["nan"] is None
    folder = tmp_path / "study" / "rows"
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "b.json"]
    assert json.loads((folder / "b.json").read_text())["rows"] == [found]


def test_rows_are_grouped_in_order_and_may_lack_a_column():
    rows = [{"a": 2, "n": 0}, {"a": 1}, {"a": 2, "n": 0}, {"n": 0}]
    found = results.grouped(rows, ("a", "n"))
    assert [*found.items()] == [
        ((2, 0), [rows[0], rows[2]]),
        ((1, None), [rows[1]]),
        ((None, 0), [rows[3]]),
    ]
    with pytest.raises(KeyError):
        found[3, 3]


def test_a_row_is_written_once_and_others_see_it(tmp_path):
    store, other = Store(tmp_path), Store(tmp_path)
    store.put(row("a"))
    content = (tmp_path / "rows" / "a.json").read_bytes()
    other.put(row("a", mcc_id=0.7))
    assert (tmp_path / "rows" / "a.json").read_bytes() == content
    other.put(row("b"))
    assert names(store) == names(other) == ["a", "b"]
    # Earlier versions wrote the rows of a job together, of which the first of a key counts.
    old = content.replace(b'"a"', b'"b"').replace(b"0.5", b"0.9")
    rows = [{"key": "b", "mcc_id": 0.9}, {"key": "c"}]
    found = json.loads(old) | {"rows": rows, "digest": results._digest(rows)}
    (tmp_path / "rows" / "job.json").write_text(json.dumps(found))
    assert names(Store(tmp_path)) == ["a", "b", "c"] and store.rows()[1]["mcc_id"] == 0.5


EDITS = {
    "a value": (lambda text: text.replace("0.5", "0.6", 1), "was edited after it was written"),
    "a row less": (lambda text: text[: text.index("[") + 1] + "]}", "was edited"),
    "a digest": (lambda text: text.replace('"digest"', '"other"'), "was edited"),
    "cut short": (lambda text: text[:-20], "is damaged or holds no rows"),
    "empty": (lambda text: "", "is damaged or holds no rows"),
    "no json": (lambda text: "rows", "is damaged or holds no rows"),
    "other json": (lambda text: "[1, 2]", "is damaged or holds no rows"),
    "nested deep": (lambda text: "[" * 100_000, "is damaged or holds no rows"),
    "another form": (
        lambda text: text.replace("rows 1", "rows 9"),
        "is of the form 'sae_gap rows 9', not 'sae_gap rows 1'",
    ),
    "no key": (lambda text: text.replace('"key"', '"kex"', 1), "is damaged or holds no rows"),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_is_damaged_or_edited_is_named(tmp_path, name):
    Store(tmp_path).put(row("a"))
    edit, fault = EDITS[name]
    path = tmp_path / "rows" / "a.json"
    path.write_text(edit(path.read_text()))
    with pytest.raises(ValueError) as error:
        Store(tmp_path).rows()
    assert (
        str(error.value).startswith(str(path))
        and fault in str(error.value)
        and "move it away" in str(error.value)
    )


def test_rows_are_read_without_jax(tmp_path):
    Store(tmp_path).put(row("a"))
    code = (
        "import sys; from sae_gap import Store, measure; measure.verdict, measure.curve_lines; "
        "print(len(Store(sys.argv[1]).rows()), 'jax' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code, tmp_path], text=True) == "1 False\n"


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


def test_digests_tell_shapes_types_and_bytes_apart():
    arrays = [
        np.zeros(4),
        np.zeros((2, 2)),
        np.zeros(8, np.float32),
        np.zeros(4, np.int64),
        np.ones(4),
        np.zeros(3),
    ]
    assert len({results.digest([array]) for array in arrays}) == len(arrays)
    assert results.digest([np.zeros(4), np.ones(2)]) != results.digest([np.ones(2), np.zeros(4)])
    turned = np.arange(6.0).reshape(2, 3)
    assert (
        results.digest([np.asfortranarray(turned)])
        == results.digest([turned])
        != results.digest([turned.T])
    )


def test_provenance_is_plain_and_has_no_paths():
    found = results.provenance()
    assert list(found) == [
        "python",
        "jax",
        "jaxlib",
        "equinox",
        "optax",
        "numpy",
        "scipy",
        "sae_gap",
        "revision",
        "machine",
    ]
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
        return subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments],
            check=True,
            capture_output=True,
            text=True,
        ).stdout

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
