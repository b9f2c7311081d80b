"""Probing on a tiny model from the recording to the table."""

import csv
import string

import numpy as np
import pytest
from matplotlib import image

import sae_gap
from benchmarks.real import probe_real
from sae_gap import probing
from sae_gap.core.types import Model
from sae_gap.encoders import lasso
from sae_gap.encoders.encoder import Affine
from sae_gap.encoders.topk import TopK
from sae_gap.lm.recording import record
from sae_gap.lm.texts import Texts
from sae_gap.probing import concepts
from sae_gap.study import runner
from tests import tiny


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """A recording of letters in 40 documents, and an SAE of their activations."""
    folder, rng = tmp_path_factory.mktemp("probe"), np.random.default_rng(0)
    letters = [*string.ascii_letters]
    texts = ["".join(rng.choice(letters, 60)) for _ in range(40)]
    topics = ["x" if number % 2 else "y" for number in range(40)]
    record(
        tiny.tiny_lm(folder),
        Texts(texts, [str(number) for number in range(40)], topics),
        folder / "recording",
        [1],
        64,
    )
    atoms = rng.normal(size=(64, 80)).astype(np.float32)
    atoms /= np.linalg.norm(atoms, axis=0)
    x = sae_gap.open_activations(folder / "recording" / "block1")
    sae_gap.save_sae(
        Model(atoms, x.mean(), Affine(atoms, np.zeros(80, np.float32)), TopK(12)), folder / "mine"
    )
    return (
        *(
            f"--recording={folder / 'recording'}",
            "--layer=1",
            f"--model={folder / 'tiny.gguf'}",
            f"--sae={folder / 'mine'}",
        ),
        *(
            "--controls=random",
            "--l0=6",
            "--documents=all",
            "--seeds=0,1",
            "--rows=400",
            "--anyway",
        ),
        "--pairs=topic:x+capital,capital+topic:x,letters:x+space",
    )


def test_from_a_recording_to_a_table_and_on(options, call, tmp_path, monkeypatch, caplog):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(concepts, "FEWEST", 5)
    monkeypatch.setattr(lasso, "find_weight", tiny.weight)
    tiny.write_text_sets(tmp_path)
    options += ("--sets=shifts", "--codes=omp")
    code, out, err = call("probe_real", *options, f"--results_dir={tmp_path}")
    assert code == 0, err
    # What cannot be probed is said, and the rest goes on.
    assert "the cells of letters:x+space are too small" in caplog.text
    folder = tmp_path / "probe_real"
    rows = sae_gap.Store(folder).rows()
    found = {(row["dictionary"], row["codes"], *row["pairs"]): row for row in rows}
    pairs, sets, codes = ("topic:x+capital", "capital+topic:x"), ("1_old",), 4 * (6 + 4)
    assert {key[2:] for key in found} == {pairs, sets} and len(found) == 2 * (1 + 6 + 4)
    for (name, each, *named), row in found.items():
        if name == "activations":
            assert row["probes"] == ["dense"] and "fvu" not in row
        else:
            assert row["fvu"] > 0 and len(row["drop k=5"]) == len(named), (name, each)
    for name in ("pairs", "sets"):
        with open(folder / f"{name}.csv", newline="") as file:
            lines = [*csv.DictReader(file)]
        assert len(lines) == 1 + codes and [line["dictionary"] for line in lines[:2]] == [
            "activations",
            "mine",
        ]
    assert max(map(len, out.splitlines())) <= 120 and "mean over 2 pairs" in out
    assert image.imread(folder / "pairs_drop.png").std() > 0.01

    # Nothing is coded again, and no text is run.
    monkeypatch.setattr(
        probe_real, "last_tokens", lambda *_: pytest.fail("the texts were run before")
    )
    monkeypatch.setattr(runner, "score", lambda *_: pytest.fail("it was coded before"))
    assert call("probe_real", *options, f"--results_dir={tmp_path}")[:2] == (0, out)


FAULTS = {
    "nothing": (["--recording="], "there is nothing to measure"),
    "layer": (["--layer=2"], "block 2 is not in"),
    "pair": (["--pairs=capital"], "is no pair"),
    "concept": (["--pairs=capital+topic:z"], "choose from x, y"),
    "small": (["--pairs=capital+letters:z"], "no pair has cells that are large enough"),
    "control": (["--controls=sparse"], "sae must be one of"),
    "codes": (["--codes=topk"], "topk has parameters"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_is_wrong_is_said_in_a_sentence(options, call, tmp_path, case):
    arguments, words = FAULTS[case]
    code, out, err = call("probe_real", *options, *arguments, f"--results_dir={tmp_path}")
    assert (code, out) == (2, "") and words in err.splitlines()[-1]


def test_usual_pairs_meet_each_topic_in_both_orders():
    pairs = probe_real.usual_pairs(["a", "a+b", "b"])
    assert pairs[:4] == [
        "topic:a+capital",
        "capital+topic:a",
        "topic:b+letters:abc",
        "letters:abc+topic:b",
    ]
    assert all(probing.read_pair(pair) for pair in pairs)
