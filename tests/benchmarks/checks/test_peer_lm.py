import sys


def test_without_the_library_that_is_said(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, err = call("peer_lm")
    assert (code, out) == (2, "") and "pip install 'sae_gap[real,peer_lm]'" in err and err.count("\n") == 1
