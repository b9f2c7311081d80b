"""What does not need the other libraries: the order of the rows, and one sentence for whatever is wrong."""

import sys

import numpy as np
import pytest

from benchmarks.real import peer_saes
from sae_gap import save_activations


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "x.npz"
    save_activations(path, np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32), np.arange(60) // 10)
    return path


def test_each_row_comes_once_before_any_comes_again():
    rows = np.arange(10)[:, None]
    found = [batch[:, 0] for batch in peer_saes.batches(rows, 5, 4, 0)]
    assert [len(batch) for batch in found] == [4] * 5
    order = np.concatenate(found)
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert (order[:10] != order[10:]).any()
    assert (order == np.concatenate(list(peer_saes.batches(rows, 5, 4, 0)))[:, 0]).all()


def test_a_batch_may_be_larger_than_the_rows():
    (batch,) = peer_saes.batches(np.arange(3)[:, None], 1, 7, 0)
    assert np.bincount(batch[:, 0]).min() == 2


FAULTS = {
    "no flag": ([], "--activations is needed"),
    "no file": (["--activations=nowhere.npy"], "neither a file nor a folder"),
    "library": (["--activations={file}", "--libraries=saelens,mine"], "but mine is there"),
    "sparsity": (["--activations={file}", "--width=8", "--sparsity=8"], "--sparsity must be below the 8 atoms"),
    "taken": (["--activations={file}", "--libraries=sparsify"], "is there already"),
    "not installed": (["--activations={file}", "--libraries=saelens"], "pip install 'sae_gap[peer_saes]'"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, file, call, case, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "peer_saes" / "sparsify").mkdir(parents=True)
    arguments, words = FAULTS[case]
    code, out, err = call("peer_saes", *(text.format(file=file) for text in arguments), f"--results_dir={tmp_path}")
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1
    assert [path.name for path in (tmp_path / "peer_saes").iterdir()] == ["sparsify"]
