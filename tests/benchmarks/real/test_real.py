"""The page: its three sentences on a tiny model, and on rows whose answer is known."""

import json
import re
import string
from unittest import mock

import numpy as np
import pytest

import sae_gap
from benchmarks.real import real
from sae_gap.analysis import best_at
from sae_gap.encoders import lasso
from sae_gap.lm import recording
from sae_gap.probing import concepts
from sae_gap.study import Models, scoring
from tests import tiny
from tests.conftest import refused, succeed

L0 = 4


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """A model and letters of two topics."""
    folder, rng = tmp_path_factory.mktemp("real"), np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.LM, "context", 256)
        tiny.tiny_lm(folder).tokenizer.save(str(folder / "tokenizer.json"))
        # Its own tokenizer is of a kind that is not known.
        tiny.write_lm(folder / "tiny.gguf", pre="llama-bpe")
    for number in range(40):
        file = folder / "text" / "xy"[number % 2] / f"{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(rng.choice([*string.ascii_letters], 60)))
    flags = (
        *(f"--model={folder / 'tiny.gguf'}", f"--tokenizer={folder / 'tokenizer.json'}"),
        *(f"--text={folder / 'text'}", f"--results_dir={folder / 'with, comma'}"),
        *("--preset=smoke", "--layer=1", f"--sparsity={L0}", "--dtype=float32"),
    )
    return folder / "with, comma" / "real" / "smoke", flags


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(concepts, "FEWEST", 3)
    preset = {
        "record": {},
        "train_real": {"methods": ("topk", "online_dl"), "width": 80, "epochs": 1, "visits": 2.0},
        "measure": {"l0": (L0,), "codes": real.BETTER, "tokens": 240},
        "probe_real": {"rows": 240, "seeds": (0,), "documents": "all"},
    }
    monkeypatch.setitem(real.PRESETS, "smoke", preset)
    # The search for λ has tests of its own.
    monkeypatch.setattr(lasso, "find_weight", tiny.weight)


def test_from_nothing_to_a_page_and_on(options, small, monkeypatch):
    folder, arguments = options
    out = succeed("real", *arguments)
    page = json.loads((folder / "page.json").read_text())
    assert page["finding"] == out.strip() and (folder / "report.html").exists()
    encoder, dictionary, probing = out.strip().split("\n\n")
    (recorded,) = (folder / "record").iterdir()
    found = recording.open_recording(recorded)
    assert found.dtype == "float32" and real.RealOptions().dtype == "float16"
    # What the numbers stand for is told of rows by hand, below.
    rows = [row for row in sae_gap.Store(folder / "measure" / "nats").rows() if "kl" in row]
    (own,) = (row for row in rows if row["codes"] == "own")
    assert own["dictionary"] == "topk" and own["l0"] == pytest.approx(L0, abs=0.01)
    assert numbers(encoder)[:2] == pytest.approx([own["kl"], L0], abs=0.001)
    names = ("topk", "online_dl", "samples", "random")
    best = {name: best_at(rows, L0, name)["kl"] for name in names}
    least, second, *_ = sorted(best, key=best.get)
    told = [L0, best[least], best[second] - best[least]]
    assert numbers(dictionary)[:3] == pytest.approx(told, abs=0.001)
    assert f"best codes of {least} lose" in dictionary and f"those of {second}." in dictionary
    # Scores of probes of five latents, for each of two pairs.
    probed = {
        (row["dictionary"], row["codes"]): [
            np.array(row[f"{score} k=5"]) for score in ("auc_ood", "drop")
        ]
        for row in sae_gap.Store(folder / "probe_real").rows()
    }
    own, told = probed["topk", "own"], []
    for name in dict.fromkeys(("topk", least)):
        told += [score - base for score, base in zip(probed[name, "lasso_refit"], own, strict=True)]
    # Student's t of one degree of freedom.
    told = [
        value
        for each in (*own, *told)
        for value in (each.mean(), 12.7062 * each.std(ddof=1) / 2**0.5)
    ]
    assert numbers(probing) == pytest.approx([*told[:4], L0, *told[4:]], abs=0.001)

    # The same command fits, runs and codes nothing again.
    for module, name in ((recording, "_run"), (scoring, "Inference"), (Models, "_fit")):
        monkeypatch.setattr(module, name, None)
    assert succeed("real", *arguments) == out
    # A text that is too short for concepts leaves the rest.
    monkeypatch.setattr(real.probe_real, "measure", mock.Mock(side_effect=ValueError("short")))
    left = succeed("real", *arguments)
    assert out.startswith(left[: left.index("Probing was left out")])


def test_an_l0_beyond_a_quarter_of_the_dimensions_is_refused(options, small):
    flags = (*options[1], "--methods=topk", "--width=17", "--sparsity=17")
    refused("--sparsity 17 is too much for this width and this model", "real", *flags)


def numbers(sentence):
    found = re.findall(r"(?<![\w])-?\d+(?:\.\d+)?", sentence.replace("L0", ""))
    return [float(number) for number in found]


def test_the_best_sae_is_one_at_the_l0_that_was_asked_for_if_any_is():
    totals = ((50.0, 0.5), (34.0, 0.9), (30.0, 0.8), (28.0, 0.6))
    lines = [{"loss": "kl", "l0": l0, "total": total} for l0, total in totals]
    lines.append({"loss": "fvu", "l0": 32.0, "total": 0.1})
    assert real.best_sae(lines, 32) == lines[2] and real.best_sae(lines[:1], 32) == lines[0]


def test_a_dry_run_says_how_much_would_run_and_writes_nothing(call, tmp_path):
    flags = ("--layer=7", "--sparsity=16", f"--results_dir={tmp_path / 'results'}")
    code, out, err = call("real", "--dry_run", *flags)
    first, second, *_, last = out.splitlines()
    assert (code, err) == (0, "") and "34 minutes" in out
    assert "record" in first and "--layers=7 --tokens=200000" in first
    assert "train_real" in second and "--sparsity=16 --epochs=3 --visits=75.0" in second
    assert last == f"The page: {tmp_path}/results/real/quick/report.html"
    # Methods that leave no SAE to read are refused before anything is recorded.
    refused("--methods=online_dl trains no SAE", "real", "--methods=online_dl", *flags)
    assert not any(tmp_path.iterdir())
