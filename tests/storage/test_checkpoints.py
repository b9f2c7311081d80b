"""Files of fits: what is saved comes back to the bit, and what is not whole, or not ours, is neither taken nor run."""

import contextlib
import io
import json
import os
import pathlib
import struct
import tracemalloc
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae_gap.storage import checkpoints
from sae_gap.storage.checkpoints import Checkpoint, read, write


def state():
    return {"a": jnp.arange(6.0).reshape(2, 3), "key": jax.random.key(3), "count": jnp.asarray(4)}


BLANK = {"a": jnp.zeros((2, 3)), "key": jax.random.key(0), "count": jnp.asarray(0)}
NOTE = {"fit": "mine", "step": 4, "seconds": 12.5}


def same(found):
    return all(
        np.array_equal(*(jax.random.key_data(leaf) if checkpoints._is_key(leaf) else leaf for leaf in pair))
        for pair in zip(jax.tree.leaves(found), jax.tree.leaves(state()), strict=True)
    )


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "fit.npz"
    assert write(path, {"state": state(), "model": jnp.ones(3)}, NOTE)
    return path


def test_what_is_saved_comes_back(tmp_path):
    save = Checkpoint(tmp_path / "deep" / "fit.npz", name="mine")
    assert save.load(BLANK) is None
    save.store(state(), 12.5, step=4)
    found, seconds = save.load(BLANK)
    assert seconds == 12.5 and same(found)
    np.testing.assert_array_equal(jax.random.normal(found["key"]), jax.random.normal(state()["key"]))
    assert found["a"].dtype == jnp.float32 and found["count"].dtype == jnp.int32
    save.discard()
    save.discard()
    assert save.load(BLANK) is None and list(tmp_path.iterdir()) == []


def test_parts_are_read_by_name_and_by_their_shapes_alone(path):
    shapes = jax.eval_shape(state)
    found = read(path, {"state": shapes})
    assert found.note == NOTE and found.parts.keys() == {"state"} and same(found.parts["state"])
    assert read(path, {}).note == NOTE
    np.testing.assert_array_equal(read(path, {"model": jnp.zeros(3)}).parts["model"], np.ones(3))


def test_a_note_has_what_has_a_json_form(tmp_path):
    note = {"rate": np.float32(0.5), "tol": float("inf"), "sizes": (1, 2), "array": np.arange(2), "deep": {"a": None}}
    assert write(tmp_path / "fit.npz", {}, note)
    found = read(tmp_path / "fit.npz", {}).note
    assert found == {"rate": 0.5, "tol": None, "sizes": [1, 2], "array": [0, 1], "deep": {"a": None}}


@pytest.mark.parametrize(
    "like",
    [
        {"state": {**BLANK, "a": jnp.zeros((3, 2))}},
        {"state": {**BLANK, "a": jnp.zeros(6)}},
        {"state": {**BLANK, "a": jnp.zeros((2, 3), jnp.int32)}},
        {"state": {**BLANK, "a": jnp.zeros((2, 3), jnp.float16)}},
        {"state": {**BLANK, "b": jnp.zeros(())}},
        {"state": {"a": BLANK["a"], "count": BLANK["count"]}},
        {"model": jnp.zeros(4)},
        {"other": jnp.zeros(3)},
    ],
)
def test_what_is_unlike_what_was_asked_for_is_not_taken(path, like, caplog):
    assert read(path, like) is None
    assert f"starting over: {path} is not a fit that can be used" in caplog.text


def test_a_state_of_another_fit_is_not_taken(path, caplog):
    assert Checkpoint(path, name="mine").load(BLANK) is not None
    assert Checkpoint(path, name="yours").load(BLANK) is None
    assert f"starting over: {path} is of another fit" in caplog.text


@pytest.mark.parametrize("seconds", [None, "1", float("nan"), True])
def test_a_state_without_its_seconds_is_not_taken(path, monkeypatch, seconds):
    monkeypatch.setattr(checkpoints, "plain", dict)
    note = json.loads(json.dumps(NOTE | {"seconds": seconds}))
    dumps = json.dumps
    monkeypatch.setattr(checkpoints.json, "dumps", lambda value, **_: dumps(value))
    write(path, {"state": state()}, note)
    monkeypatch.undo()
    assert read(path, {}) is not None and Checkpoint(path, name="mine").load(BLANK) is None


def test_each_byte_counts(path):
    """A flipped byte is noticed, unless it is one of those, such as times, that change nothing that is read."""
    whole, unnoticed = path.read_bytes(), 0
    like = {"state": BLANK, "model": jnp.zeros(3)}
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        found = read(path, like)
        if found is not None:
            unnoticed += 1
            assert found.note == NOTE and same(found.parts["state"]) and np.array_equal(found.parts["model"], np.ones(3))
    assert unnoticed < len(whole) / 3


def test_each_bit_of_the_numbers_counts(path):
    whole = path.read_bytes()
    data = np.arange(6, dtype=np.float32).tobytes()
    begin = whole.index(data)
    for bit in range(8 * len(data)):
        damaged = bytearray(whole)
        damaged[begin + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        assert read(path, {"state": BLANK}) is None


def test_a_cut_file_is_not_taken(path):
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert read(path, {"state": BLANK}) is None
    for garbage in (b"garbage", bytes(10_000), whole[len(whole) // 2 :]):
        path.write_bytes(garbage)
        assert read(path, {"state": BLANK}) is None


def archive(path, **members):
    """A .npz file of raw members."""
    with zipfile.ZipFile(path, "w") as file:
        for name, (content, method) in members.items():
            with (
                file.open(zipfile.ZipInfo(f"{name}.npy"), "w") if method is None else _compressed(file, name, method) as member
            ):
                for chunk in [content] if isinstance(content, bytes) else content:
                    member.write(chunk)


def _compressed(file, name, method):
    found = zipfile.ZipInfo(f"{name}.npy")
    found.compress_type = method
    return file.open(found, "w", force_zip64=True)


def npy(header, data=b""):
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def note_of(**values):
    text = json.dumps(NOTE | values).encode()
    return npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(text)},), }}", text), None


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }"
ONES = np.ones(3, np.float32).tobytes()


def test_archives_made_by_hand_are_read(tmp_path):
    archive(tmp_path / "fit.npz", note=note_of(), model0=(npy(GOOD, ONES), None))
    found = read(tmp_path / "fit.npz", {"model": jnp.zeros(3)})
    assert found.note == NOTE and np.array_equal(found.parts["model"], np.ones(3))


class Payload:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def pickled(path):
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(path)] * 3, object), allow_pickle=True)
    return buffer.getvalue()


HEADERS = {
    "huge": f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**40},), }}",
    "huge product": f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**40}, {2**40}, {2**40}), }}",
    "negative": "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }",
    "truth": "{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }",
    "list": "{'descr': '<f4', 'fortran_order': False, 'shape': [3], }",
    "fortran": "{'descr': '<f4', 'fortran_order': True, 'shape': (3,), }",
    "big-endian": "{'descr': '>f4', 'fortran_order': False, 'shape': (3,), }",
    "records": "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }",
    "subarrays": "{'descr': '(3,)<f4', 'fortran_order': False, 'shape': (), }",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
    "void": "{'descr': '|V2000000000', 'fortran_order': False, 'shape': (3,), }",
    "nonsense": "{'descr': 'nonsense', 'fortran_order': False, 'shape': (3,), }",
    "number": "{'descr': 7, 'fortran_order': False, 'shape': (3,), }",
    "missing": "{'descr': '<f4', 'shape': (3,), }",
    "call": "__import__('os').system('touch hacked')",
    "not a mapping": "[1, 2]",
    "nothing": "",
    "nested": "(" * 9_000 + ")" * 9_000,
    "nested within the limit": "(" * 2_000 + ")" * 2_000,
    "minus signs": "-" * 4_000 + "1",
    "a long power": "{'descr': '<f4', 'fortran_order': False, 'shape': (9**9**9,), }",
    "long": GOOD + " " * 60_000,
}


@pytest.mark.parametrize("name", HEADERS)
def test_hostile_headers_are_not_taken(tmp_path, monkeypatch, name, caplog):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "fit.npz"
    archive(path, note=note_of(), model0=(npy(HEADERS[name], ONES), None))
    tracemalloc.start()
    try:
        assert read(path, {"model": jnp.zeros(3)}) is None
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()
    (record,) = caplog.records
    assert "\n" not in record.getMessage() and len(record.getMessage()) < 400
    assert sorted(found.name for found in tmp_path.iterdir()) == ["fit.npz"]
    # The same as the header of a note.
    archive(path, note=(npy(HEADERS[name], ONES), None), model0=(npy(GOOD, ONES), None))
    assert read(path, {"model": jnp.zeros(3)}) is None


def test_a_pickle_is_not_run(tmp_path):
    path, trace = tmp_path / "fit.npz", tmp_path / "hacked"
    for members in ({"note": note_of(), "model0": (pickled(trace), None)}, {"note": (pickled(trace), None)}):
        archive(path, **members)
        assert read(path, {"model": jnp.zeros(3)} if "model0" in members else {}) is None
        assert not trace.exists()
    np.load(path, allow_pickle=True)["note"]
    assert trace.exists()


NOTES = {
    "nested": b"[" * 30_000 + b"]" * 30_000,
    "a list": b"[1]",
    "not JSON": b"{",
    "not text": b"\xff\xfe\xff",
    "a huge integer": b'{"step": 1' + b"0" * 60_000 + b"}",
    "too long": b'{"a": "' + b"a" * 70_000 + b'"}',
    "empty": b"",
}


@pytest.mark.parametrize("name", NOTES)
def test_hostile_notes_are_not_taken(tmp_path, name):
    path, text = tmp_path / "fit.npz", NOTES[name]
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({len(text)},), }}"
    archive(path, note=(npy(header, text), None), model0=(npy(GOOD, ONES), None))
    assert read(path, {"model": jnp.zeros(3)}) is None
    assert read(path, {}) is None


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    """Many zeros in little space, behind a good header."""
    path = tmp_path_factory.mktemp("bomb") / "fit.npz"

    def zeros(begin):
        yield begin
        for _ in range(2**6):
            yield bytes(2**20)

    with zipfile.ZipFile(path, "w", compresslevel=1) as file:
        for name, content in {"note": [note_of()[0]], "model0": zeros(npy(GOOD, ONES))}.items():
            with _compressed(file, name, zipfile.ZIP_STORED if name == "note" else zipfile.ZIP_DEFLATED) as member:
                for chunk in content:
                    member.write(chunk)
    assert path.stat().st_size < 2**20
    return path


@pytest.mark.parametrize("method", ["as it is", "compression allowed"])
def test_a_zip_bomb_does_not_go_off(bomb, monkeypatch, method):
    if method != "as it is":
        monkeypatch.setattr(checkpoints, "_open", lambda archive, name: archive.open(name))
    tracemalloc.start()
    try:
        assert read(bomb, {"model": jnp.zeros(3)}) is None
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_not_taken(tmp_path, method):
    path = tmp_path / "fit.npz"
    archive(path, note=note_of(), model0=(npy(GOOD, ONES), method))
    assert np.array_equal(np.load(path)["model0"], np.ones(3))
    assert read(path, {"model": jnp.zeros(3)}) is None


def test_a_member_longer_than_its_header_says_is_not_taken(tmp_path):
    path = tmp_path / "fit.npz"
    for data in (ONES + b"\0", ONES[:-1], ONES + bytes(2**22)):
        archive(path, note=note_of(), model0=(npy(GOOD, data), None))
        assert read(path, {"model": jnp.zeros(3)}) is None


def test_what_is_no_file_is_not_taken(tmp_path, caplog):
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "fifo.npz")
    (tmp_path / "loop.npz").symlink_to(tmp_path / "loop.npz")
    (tmp_path / "file").write_text("mine")
    for name in ("folder.npz", "fifo.npz", "loop.npz", "file/fit.npz"):
        caplog.clear()
        assert read(tmp_path / name, {}) is None
    assert read(tmp_path / "missing.npz", {}) is None


def test_what_is_in_the_way_is_replaced_or_warned_of(tmp_path, caplog):
    os.mkfifo(tmp_path / "fifo.npz")
    assert write(tmp_path / "fifo.npz", {}, NOTE) and read(tmp_path / "fifo.npz", {}).note == NOTE
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").write_text("mine")
    for name in ("folder.npz", "file/fit.npz"):
        save = Checkpoint(tmp_path / name)
        save.store(state(), 1.0)
        assert f"going on without saving the fit: {tmp_path / name} cannot be written" in caplog.text
        save.discard()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_does_not_stop_a_fit(tmp_path, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_atomically", full)
    assert not write(tmp_path / "new" / "fit.npz", {"state": state()}, NOTE)
    assert "No space left on device" in caplog.text and list(tmp_path.iterdir()) == []


def test_a_killed_save_leaves_the_one_before(path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sae_gap.storage.results.os.replace", die)
    with contextlib.suppress(KeyboardInterrupt):
        write(path, {"state": {**BLANK}}, NOTE | {"step": 5})
    found = read(path, {"state": BLANK})
    assert found.note == NOTE and same(found.parts["state"]) and len(list(path.parent.iterdir())) == 1
