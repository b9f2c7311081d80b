"""A header says what NumPy wrote, and no header of an enemy's is believed."""

import io

import numpy as np
import pytest

from sae_gap.storage.npy import read_header

ARRAYS = {
    "a number": np.float64(3),
    "rows": np.ones((4, 5), np.float32),
    "columns first": np.asfortranarray(np.ones((4, 5))),
    "empty": np.ones((2, 0), np.int64),
    "words": np.array(["ab", "c"]),
    "two bytes": np.zeros(3, "V2"),
}


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("name", ARRAYS)
def test_a_header_is_what_numpy_wrote(name, version):
    array = np.asanyarray(ARRAYS[name])
    file = io.BytesIO(b"before")
    file.seek(6)
    np.lib.format.write_array(file, array, version, allow_pickle=False)
    file.seek(6)
    header = read_header(file)
    assert (header.shape, header.dtype, header.size) == (array.shape, array.dtype, array.nbytes)
    assert header.fortran == (name == "columns first")
    assert file.tell() == 6 + header.length and file.read() == array.tobytes("F" if header.fortran else "C")


def header(text, version=1):
    width = 2 if version == 1 else 4
    return b"\x93NUMPY" + bytes((version, 0)) + len(text).to_bytes(width, "little") + text.encode("latin1")


def said(descr="'<f4'", fortran="False", shape="(2,)"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}"


BAD = {
    "nothing": (b"", "no array"),
    "cut": (b"\x93NUMPY\x01", "no array"),
    "text": (b"some text, not an array", "no array"),
    "a version to come": (header(said(), 3), "version 3"),
    "long": (header(said() + " " * 4_096), "too long"),
    "a call": (header(said(shape="(exit(),)")), "damaged"),
    "no mapping": (header("[1, 2]"), "damaged"),
    "no shape": (header("{'descr': '<f4', 'fortran_order': False}"), "damaged"),
    "a type that is none": (header(said("'<f5'")), "damaged"),
    "deep": (header("(" * 4_000), "damaged"),
    "negative": (header(said(shape="(-2, -2)")), "unknown form"),
    "a side that is true": (header(said(shape="(True,)")), "unknown form"),
    "a side that is no integer": (header(said(shape="(2.0,)")), "unknown form"),
    "a shape that is no tuple": (header(said(shape="[2]")), "unknown form"),
    "an order that is none": (header(said(fortran="'no'")), "unknown form"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_header_is_a_value_error(case):
    content, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        read_header(io.BytesIO(content))
