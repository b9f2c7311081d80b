"""Files from an enemy: nothing in them is executed, and none takes memory that it does not fill."""

import json
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import sae_gap
from sae_gap.storage.pickles import read_pt
from tests.torch_files import archive, plain, state, storage, tensor

FILES = Path(__file__).parent / "files"


def test_a_tensor_is_read_with_its_strides(tmp_path):
    held = {
        "a": tensor(),
        "turned": tensor(0, (3, 2), (1, 3)),
        "late": tensor(1, (2,), (4,)),
        "one": tensor(5, (), ()),
    }
    found = read_pt(archive(tmp_path / "x.pt", state(**held)))
    np.testing.assert_array_equal(found.take("a", 2, 3), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found.take("turned", 3, 2), [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(found.take("late", 2), [1, 5])
    assert found.scalar("one") == 5


def refused(path, *words, read=read_pt):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()
    message = str(caught.value)
    assert all(word in message for word in (str(path), *words)), message
    assert message.endswith(".") and "\n" not in message and len(message) < 500


EXECUTED = {
    "posix.system": b"cposix\nsystem\n(X\x01\x00\x00\x00xtR.",
    "builtins.eval": b"cbuiltins\neval\n(X\x01\x00\x00\x00xtR.",
    "torch.storage._load_from_bytes": b"ctorch.storage\n_load_from_bytes\n(tR.",
    "numpy.zeros": b"cnumpy\nzeros\n(tR.",
    "posix.popen": b"\x80\x04\x8c\x05posix\x8c\x05popen\x93.",
    "posix.fork": b"(iposix\nfork\n.",
}


@pytest.mark.parametrize("name", EXECUTED)
def test_nothing_that_a_pickle_names_is_executed(tmp_path, name):
    refused(archive(tmp_path / "ae.pt", EXECUTED[name]), name, "not executed")


@pytest.mark.parametrize(
    "content",
    [
        # Calls of what is not to be called, and names by number.
        b"ctorch\nFloatStorage\n)R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x82\x01.",
        # Numbers that ask for memory.
        b"N" + b"r" + struct.pack("<I", 10**7) + b"0.",
        b"Np999999999\n0.",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".",
        state(a=tensor(shape=(10**9, 10**9), strides=(0, 0))),
        # Tensors that reach beyond their storage.
        state(a=tensor(shape=(7,), strides=(1,))),
        state(a=tensor(offset=1)),
        state(a=tensor(shape=(2, 3), strides=(4, 1))),
        state(a=tensor(offset=-1)),
        state(a=tensor(shape=(-2, -3))),
        state(a=tensor(strides=(1,))),
        state(a=tensor(held=plain(3))),
        # Storages that are not there, or not storages.
        state(a=tensor(held=storage(key="../../etc/passwd"))),
        state(a=tensor(held=storage(kind=plain("float")))),
        b"X\x01\x00\x00\x00xQ.",
        # No state dict.
        b"N.",
        b"}.",
        b"]" * 20_000 + b".",
        b"\x80\x02}(K\x01" + tensor() + b"u.",
        b"",
        b"\x80\x02}(",
    ],
)
def test_what_is_no_pickle_of_tensors(tmp_path, content):
    refused(archive(tmp_path / "ae.pt", content))


def test_a_zip_that_unpacks_to_more_than_it_is(tmp_path):
    bomb = archive(
        tmp_path / "b.pt",
        state(a=tensor()),
        zipfile.ZIP_DEFLATED,
        [("archive/data/1", bytes(10**7))],
    )
    refused(bomb, "would unpack")
    refused(
        archive(tmp_path / "d.pt", state(a=tensor()), extra=[("other/data.pkl", b"N.")]), "data.pkl"
    )


def test_what_is_no_archive(tmp_path):
    path = tmp_path / "ae.pt"
    for content in (b"", b"\x80\x02N.", pickle.dumps({"a": 1}), b"PK\x03\x04" + bytes(50)):
        path.write_bytes(content)
        refused(path)
    whole = (FILES / "dictionary_learning/topk/ae.pt").read_bytes()
    for cut in (10, 500, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:cut])
        refused(path)


def header(entries, body=b""):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(shape, end, dtype="F32", start=0):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


WHOLE = (FILES / "saelens/standard/sae_weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 8,
        struct.pack("<Q", 2**62),
        header({"W_enc": entry([10**9, 10**9], 4)}, b"1234"),
        header({"W_enc": entry([2**40, 2**40], 0)}),
        header({"W_enc": entry([1], 4), "W_dec": entry([1], 4)}, b"1234"),
        header({"W_enc": entry([1], 4, "F8_E4M3")}, b"1234"),
        header(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        header(b"[" * 50_000),
        WHOLE[:20],
        WHOLE[:-10],
        WHOLE + b"more",
    ],
)
def test_what_is_no_file_of_safetensors(tmp_path, content):
    (tmp_path / "cfg.json").write_bytes((FILES / "saelens/standard/cfg.json").read_bytes())
    path = tmp_path / "sae_weights.safetensors"
    path.write_bytes(content)
    refused(path, read=sae_gap.load_sae)


def npy(shape, data, dtype="<f4"):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def npz(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)
    return path


@pytest.mark.parametrize(
    ("members", "compression", "words"),
    [
        ({"W_enc": npy((10**9, 10**9), bytes(64))}, zipfile.ZIP_STORED, ("size it declares",)),
        ({"W_enc": npy((3, 4), bytes(44))}, zipfile.ZIP_STORED, ("size it declares",)),
        ({"W_enc": npy((3, 4), bytes(52))}, zipfile.ZIP_STORED, ("size it declares",)),
        ({"W_enc": npy((1,), bytes(8), "|O")}, zipfile.ZIP_STORED, ("not a plain array",)),
        ({"W_enc": npy((5_000, 500), bytes(10**7))}, zipfile.ZIP_DEFLATED, ("would unpack",)),
        ({"W_enc": b"\x93NUMPY\x09\x00"}, zipfile.ZIP_STORED, ()),
        ({"W_enc": b""}, zipfile.ZIP_STORED, ()),
        ({}, zipfile.ZIP_STORED, ("W_enc",)),
    ],
)
def test_what_is_no_archive_of_arrays(tmp_path, members, compression, words):
    refused(npz(tmp_path / "params.npz", members, compression), *words, read=sae_gap.load_sae)


def test_a_compressed_archive_of_weights_is_as_good(tmp_path):
    with np.load(FILES / "gemma_scope/first/params.npz") as held:
        np.savez_compressed(tmp_path / "params.npz", **held)
    found, wanted = sae_gap.load_sae(tmp_path), sae_gap.load_sae(FILES / "gemma_scope/first")
    np.testing.assert_array_equal(found.model.decoder, wanted.model.decoder)
