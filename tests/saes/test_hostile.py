"""Files from an enemy: nothing in them is executed, and none takes memory that it does not fill."""

import json
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

import sae_gap
from sae_gap.saes.decoders import read_tensors
from tests.saes import examples
from tests.saes.examples import FILES
from tests.torch_files import archive, plain, state, storage, tensor


def refused(path, *words, read=read_tensors):
    tracemalloc.start()
    try:
        examples.refused(lambda: read(path), str(path), *words)
        assert tracemalloc.get_traced_memory()[1] < 30e6
    finally:
        tracemalloc.stop()


def test_a_tensor_is_read_with_its_strides(tmp_path):
    late, turned = tensor(1, (2,), (4,)), tensor(0, (3, 2), (1, 3))
    content = state(a=tensor(), turned=turned, late=late, one=tensor(5, (), ()))
    found = read_tensors(archive(tmp_path / "x.pt", content))
    np.testing.assert_array_equal(found.take("a", 2, 3), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found.take("turned", 3, 2), [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(found.take("late", 2), [1, 5])
    assert found.scalar("one") == 5


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("posix.system", b"cposix\nsystem\n(X\x01\x00\x00\x00xtR."),
        ("torch.storage._load_from_bytes", b"ctorch.storage\n_load_from_bytes\n(tR."),
        ("posix.popen", b"\x80\x04\x8c\x05posix\x8c\x05popen\x93."),
        ("posix.fork", b"(iposix\nfork\n."),
    ],
)
def test_nothing_that_a_pickle_names_is_executed(tmp_path, name, content):
    refused(archive(tmp_path / "ae.pt", content), name, "not executed")


@pytest.mark.parametrize(
    "content",
    [
        # Calls of what is not to be called, and names by number.
        b"ctorch\nFloatStorage\n)R.",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x82\x01.",
        # Numbers that ask for memory.
        b"N" + b"r" + struct.pack("<I", 10**7) + b"0.",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".",
        state(a=tensor(shape=(10**9, 10**9), strides=(0, 0))),
        # Tensors that reach beyond their storage.
        state(a=tensor(shape=(7,), strides=(1,))),
        state(a=tensor(shape=(2, 3), strides=(4, 1))),
        state(a=tensor(offset=-1)),
        state(a=tensor(strides=(1,))),
        state(a=tensor(held=plain(3))),
        # Storages that are not there, or not storages.
        state(a=tensor(held=storage(key="../../etc/passwd"))),
        state(a=tensor(held=storage(kind=plain("float")))),
        # No state dict.
        b"N.",
        b"]" * 20_000 + b".",
        b"\x80\x02}(K\x01" + tensor() + b"u.",
    ],
)
def test_what_is_no_pickle_of_tensors(tmp_path, content):
    refused(archive(tmp_path / "ae.pt", content))


def test_what_is_no_archive_of_a_pickle(tmp_path):
    path, extra = tmp_path / "ae.pt", [("archive/data/1", bytes(10**7))]
    refused(archive(path, state(a=tensor()), zipfile.ZIP_DEFLATED, extra), "would unpack")
    refused(archive(path, state(a=tensor()), extra=[("other/data.pkl", b"N.")]), "data.pkl")
    whole = (FILES / "dictionary_learning/topk/ae.pt").read_bytes()
    cuts = [whole[:cut] for cut in (0, 500, len(whole) // 2, len(whole) - 30)]
    for content in (pickle.dumps({"a": 1}), b"PK\x03\x04" + bytes(50), *cuts):
        path.write_bytes(content)
        refused(path)


def header(body=b"", **shapes):
    """A file of tensors of these shapes, which all lie in the same bytes."""
    text = json.dumps(
        {
            name: {"dtype": dtype, "shape": shape, "data_offsets": [0, len(body)]}
            for name, (shape, dtype) in shapes.items()
        }
    ).encode()
    return struct.pack("<Q", len(text)) + text + body


WHOLE = (FILES / "saelens/standard/sae_weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        header(b"1234", W_enc=([10**9, 10**9], "F32")),
        header(W_enc=([2**40, 2**40], "F32")),
        header(b"1234", W_enc=([1], "F32"), W_dec=([1], "F32")),
        header(b"1234", W_enc=([1], "F8_E4M3")),
        struct.pack("<Q", 50_000) + b"[" * 50_000,
        WHOLE[:-10],
    ],
)
def test_what_is_no_file_of_safetensors(tmp_path, content):
    (tmp_path / "cfg.json").write_bytes((FILES / "saelens/standard/cfg.json").read_bytes())
    path = tmp_path / "sae_weights.safetensors"
    path.write_bytes(content)
    refused(path, read=sae_gap.load_sae)


def npy(shape, size, dtype="<f4"):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(size)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy((1,), 8, "|O"), "allow_pickle=False"),
        (npy((5_000, 500), 10**7), "would unpack"),
    ],
)
def test_what_is_no_archive_of_arrays(tmp_path, content, words):
    path = tmp_path / "params.npz"
    squeezed = zipfile.ZIP_DEFLATED if len(content) > 10**6 else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", squeezed) as file:
        file.writestr("W_enc.npy", content)
    refused(path, words, read=sae_gap.load_sae)


def test_a_compressed_archive_of_weights_is_as_good(tmp_path):
    with np.load(FILES / "gemma_scope/first/params.npz") as weights:
        np.savez_compressed(tmp_path / "params.npz", **weights)
    found, wanted = sae_gap.load_sae(tmp_path), sae_gap.load_sae(FILES / "gemma_scope/first")
    np.testing.assert_array_equal(found.model.decoder, wanted.model.decoder)
