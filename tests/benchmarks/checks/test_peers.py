import sys

import pytest

EXTRAS = {
    "peer_downstream": "real,peer_lm,peer_saes",
    "peer_lm": "real,peer_lm",
    "peer_saelens": "peer_saes",
    "peer_worlds": "peer_saes",
}


@pytest.mark.parametrize("name", EXTRAS)
def test_without_the_library_that_is_said(call, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch", None)
    code, out, err = call(name)
    assert (code, out) == (2, "") and f"pip install 'sae_gap[{EXTRAS[name]}]'" in err and err.count("\n") == 1
