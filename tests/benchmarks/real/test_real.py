"""The page: its three sentences on a tiny model, and on rows whose answer is known."""

import json
import string
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from numpy.random import default_rng
from pytest import approx, fixture, mark

import sae_gap
from benchmarks.real import real
from sae_gap.analysis import best_at
from sae_gap.encoders import lasso
from sae_gap.lm import recording
from sae_gap.probing import concepts
from sae_gap.study import models, scoring
from tests import tiny
from tests.benchmarks.reference import ends
from tests.conftest import call_binary, refused, succeed

L0 = 4


@fixture(scope="module")
def options(tmp_path_factory):
    """A model and letters of two topics."""
    folder = tmp_path_factory.mktemp("real")
    rng = default_rng(0)
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
        f"--model={folder / 'tiny.gguf'}",
        f"--tokenizer={folder / 'tokenizer.json'}",
        f"--text={folder / 'text'}",
        f"--results_dir={folder / 'with, comma'}",
        *f"--preset=smoke --layer=1 --sparsity={L0} --dtype=float32".split(),
    )
    return folder / "with, comma" / "real" / "smoke", flags


@fixture
def small(monkeypatch):
    monkeypatch.setattr(concepts, "FEWEST", 3)
    preset = {
        "record": {},
        "train_real": {
            "methods": ("topk", "online_dl"),
            "width": 80,
            "epochs": 1,
            "visits": 2.0,
        },
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
    (recorded,) = (folder / "record").iterdir()
    found = recording.open_recording(recorded)
    assert found.dtype == "float32" and real.RealOptions().dtype == "float16"
    # What the numbers stand for is told of rows by hand, below.
    rows = [
        row for row in sae_gap.Store(folder / "measure" / "nats").rows() if "kl" in row
    ]
    (own,) = (row for row in rows if row["codes"] == "own")
    assert own["dictionary"] == "topk" and own["l0"] == approx(L0, abs=0.01)
    encoder, dictionary, probing = out.strip().split("\n\n")
    assert encoder.startswith(f"topk loses {own['kl']:.3f} nats of KL at L0 {L0}")
    names = ("topk", "online_dl", "samples", "random")
    least = min(names, key=lambda name: best_at(rows, L0, name)["kl"])
    assert (
        f"best codes of {least} lose" in dictionary and "of topk's latents" in probing
    )

    # The same command fits, runs and codes nothing again.
    for module, name in ((recording, "_run"), (scoring, "Inference"), (models, "_fit")):
        monkeypatch.setattr(module, name, None)
    assert succeed("real", *arguments) == out
    # A text that is too short for concepts leaves the rest.
    monkeypatch.setattr(
        real.probe_real, "measure", mock.Mock(side_effect=ValueError("short"))
    )
    left = succeed("real", *arguments)
    assert out.startswith(left[: left.index("Probing was left out")])


def test_an_l0_beyond_a_quarter_of_the_dimensions_is_refused(options, small):
    flags = (*options[1], "--methods=topk", "--width=17", "--sparsity=17")
    refused("--sparsity 17 is too much for this width and this model", "real", *flags)


@mark.parametrize(
    ("l0s", "best"),
    # 28.8 and 35.2 are a tenth away.
    [
        ((50, 36, 35, 29, 28), 3),
        ((50, 35, 36, 30), 3),
        ((50, 36, 28), 2),
        ((28.7, 35.3, 40), 2),
    ],
)
def test_the_best_sae_is_one_at_the_l0_that_was_asked_for_if_any_is(l0s, best):
    # Those with more latents come first, the last loses least.
    lines = [{"loss": "kl", "l0": l0, "total": -place} for place, l0 in enumerate(l0s)]
    other = {"loss": "fvu", "l0": 32.0, "total": -9.0}
    assert real.best_sae([other, *lines], 32) == lines[best]
    assert real.best_sae([other], 32) is None


def patched_rows(losses):
    tokens = np.array([10.0, 30, 5, 20])
    rows = []
    for (name, codes, level), kl in losses.items():
        sums = kl * tokens * default_rng(len(rows)).uniform(0.8, 1.2, 4)
        row = {"dictionary": name, "codes": codes, "level": level, "l0": level + 0.25}
        row |= {"kl_sums": sums, "tokens": tokens, "kl": sums.sum() / tokens.sum()}
        rows.append(row)
    return rows


def test_the_best_dictionary_leads_the_second_by_their_best_codes_at_the_l0_of_training():
    losses = {("a", "screened", 32): 0.9, ("a", "omp", 32): 0.5, ("b", "omp", 32): 0.7}
    # Own codes, and those at another L0, do not count; a third is behind.
    losses |= {("c", "omp", 32): 0.8, ("c", "own", 32): 0.1, ("b", "omp", 64): 0.2}
    rows = patched_rows(losses)
    _, first, second, *_ = rows
    more, low, high = ends(second["kl_sums"] - first["kl_sums"], first["tokens"])
    assert real.best_dictionary(rows, 32) == (
        f"Of the dictionaries at L0 32, the best codes of a lose least: {first['kl']:.3f} nats of "
        f"KL, {more:.3f} ({low:.3f} to {high:.3f}, over only 4 documents) less than those of b."
    )


@mark.parametrize("best", ["topk", "online_dl"])
def test_probes_change_by_certified_codes_on_either_dictionary(best):
    scores = ("auc_ood", "drop", "more_auc_ood", "more_drop")
    lines = []
    kinds = "topk own k=5/topk lasso_refit k=5/online_dl lasso_refit k=5/topk own k=1/topk omp k=5"
    for place, words in enumerate(kinds.split("/")):
        name, codes, probe = words.split()
        line = {"dictionary": name, "codes": codes, "probe": probe}
        for at, score in enumerate(scores):
            line[score] = (10 * place + at) / 100
            line[f"{score}_half"] = None if at % 2 else 0.5
        lines.append(line)
    said = real.probing_change(lines, {"dictionary": "topk", "best": best}, 32)
    changes = ["certified codes on topk change these by 0.120 ± 0.500 and 0.130"]
    changes += ["certified codes on online_dl change these by 0.220 ± 0.500 and 0.230"]
    assert said == (
        "Out of distribution, probes of five of topk's latents have an AUC of 0.000 ± 0.500, a drop "
        f"of 0.010; at L0 32 {', and '.join(changes[: 1 + (best != 'topk')])}."
    )


# Options of `real`, and where each step has them.
REACHES = {
    ("model", "m"): ("record.model", "measure.model", "probe_real.model"),
    ("tokenizer", "t"): (
        "record.tokenizer",
        "measure.tokenizer",
        "probe_real.tokenizer",
    ),
    ("text", "x"): ("record.text",),
    ("seed", 7): ("train_real.seed",),
    ("layer", 4): ("measure.layer", "probe_real.layer"),
    ("width", 99): ("train_real.width",),
    ("sparsity", 9): ("train_real.sparsity", "probe_real.l0"),
    ("methods", ("relu",)): ("train_real.methods",),
    ("dtype", "float32"): ("record.dtype",),
}


@mark.parametrize("preset", real.PRESETS)
def test_every_option_reaches_its_steps_and_leaves_the_others_alone(preset):
    usual = real.steps_of(real.RealOptions(preset=preset))
    for (name, value), places in REACHES.items():
        steps = real.steps_of(real.RealOptions(**{"preset": preset, name: value}))
        changed = {
            f"{step}.{field}"
            for step, options in steps._asdict().items()
            for field, one in vars(options).items()
            if one != getattr(getattr(usual, step), field)
        }
        assert changed == {*places, *(["record.layers"] if name == "layer" else [])}
        for place in places:
            step, field = place.split(".")
            assert getattr(getattr(steps, step), field) == value
    assert {name for name, _ in REACHES} | {"preset", "results_dir", "dry_run"} == {
        *vars(real.RealOptions())
    }
    steps = real.steps_of(real.RealOptions(preset=preset, results_dir="here", layer=4))
    assert {step.results_dir for step in steps} == {f"here/real/{preset}"}
    assert (
        steps.record.layers == (4,) and steps.measure.anyway and steps.probe_real.anyway
    )
    assert steps.measure.controls == steps.probe_real.controls == ("samples", "random")
    for step, fields in real.PRESETS[preset].items():
        assert {name: getattr(getattr(usual, step), name) for name in fields} == fields


@mark.parametrize(("input_dim", "levels"), [(127, [9]), (128, [9, 32])])
def test_each_step_is_given_what_those_before_it_left(
    monkeypatch, tmp_path, input_dim, levels
):
    """Methods with codes of their own come first, and no L0 above a quarter of the dimensions."""
    given = {}
    rows = object()
    recorded = SimpleNamespace(
        folder="there", activations=lambda layer: SimpleNamespace(input_dim=input_dim)
    )
    monkeypatch.setattr(real.record, "main", lambda options: recorded)
    monkeypatch.setattr(
        real.train_real, "train", lambda options: given.update(train=options)
    )
    monkeypatch.setattr(real, "probe", lambda options: given.update(probe=options))
    begin = lambda self, *asked: (given.update(measure=self, asked=asked), "saes")  # noqa: E731
    monkeypatch.setattr(real.measure.MeasureOptions, "begin", begin)
    monkeypatch.setattr(
        real.measure, "nats", lambda *told: (given.update(nats=told), rows)[1]
    )
    monkeypatch.setattr(real, "write", lambda *told: given.update(written=told))
    methods = ("online_dl", "topk")
    options = {"preset": "quick", "layer": 3, "sparsity": 9, "methods": methods}
    real.main(real.RealOptions(results_dir=str(tmp_path), **options))
    home = f"{tmp_path}/real/quick"
    assert given["train"].activations == "there/block3"
    for step in ("measure", "probe"):
        assert given[step].recording == "there" and given[step].layer == 3
        assert given[step].sae == (
            f"{home}/train_real/topk",
            f"{home}/train_real/online_dl",
        )
    controls = ("samples", "random")
    assert given["asked"] == (levels, controls)
    folder, _, saes, *told = given["nats"]
    assert str(folder) == f"{home}/measure/nats" and saes == "saes"
    assert told == [levels, real.BETTER, controls]
    assert given["written"][1:4] == (rows, None, 9) and str(given["written"][0]) == home


def test_a_dry_run_says_how_much_would_run_and_writes_nothing(tmp_path):
    flags = ("--layer=7", "--sparsity=16", f"--results_dir={tmp_path / 'results'}")
    code, out, err = call_binary("real", "--dry_run", *flags)
    first, second, *_, last = out.splitlines()
    assert (code, err) == (0, "") and "34 minutes" in out
    assert "record" in first and "--layers=7 --tokens=200000" in first
    assert "train_real" in second and "--sparsity=16 --epochs=3 --visits=75.0" in second
    assert last == f"The page: {tmp_path}/results/real/quick/report.html"
    # Methods that leave no SAE to read are refused before anything is recorded.
    refused("--methods=online_dl trains no SAE", "real", "--methods=online_dl", *flags)
    assert not any(tmp_path.iterdir())
