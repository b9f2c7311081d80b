"""A header says what NumPy wrote, and a damaged or hostile one is a ValueError."""

import io

import numpy as np
import pytest

from sae_gap.storage import read_header

ONES = np.ones((4, 5), ">f4")


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("array", [np.array(3.0), ONES, ONES.T, ONES[:, :0], np.zeros(3, "V2")])
def test_a_header_is_what_numpy_wrote(array, version):
    file = io.BytesIO(b"before")
    file.seek(6)
    np.lib.format.write_array(file, array, version, allow_pickle=False)
    file.seek(6)
    header = read_header(file)
    assert (header.shape, header.dtype, header.size) == (array.shape, array.dtype, array.nbytes)
    assert file.tell() == 6 + header.length
    assert file.read() == array.tobytes("F" if header.fortran else "C")


def header(shape="(2,)", descr="'<f4'", version=1, text=None):
    text = text or f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"
    start = b"\x93NUMPY" + bytes((version, 0)) + len(text).to_bytes(2 * version, "little")
    return start + text.encode()


BAD = {
    "nothing": b"",
    "text": b"some text, not an array",
    "a version to come": header(version=3),
    "long": header("(2, " + "1, " * 4_096 + ")"),
    "a call": header("(exit(),)"),
    "no shape": header(text="{'descr': '<f4', 'fortran_order': False}"),
    # NumPy lets a TokenError through for the first and the last of these.
    "open quotes": header(text="{'descr': '''<f4"),
    "a huge type": header(descr="'<f99999999999999999999'"),
    "deep": header(text="(" * 4_000),
    "negative": header("(-2, -2)"),
    "a side that is no integer": header("(2.0,)"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_header_is_a_value_error(case):
    with pytest.raises(ValueError, match=r"its header gives the shape|no header of a NumPy array"):
        read_header(io.BytesIO(BAD[case]))
