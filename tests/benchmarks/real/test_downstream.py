"""The binary on a recording of a tiny model: what it leaves, that it goes on, and one sentence for
whatever is wrong.
"""

import itertools
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import sae_gap
from benchmarks.real import inputs
from sae_gap.analysis import RIVAL
from sae_gap.core import Coded
from sae_gap.encoders import MatchingPursuit, lasso
from sae_gap.lm import record
from sae_gap.measure import together
from sae_gap.study import scoring
from tests import tiny
from tests.conftest import lines_of, refused, succeed


@pytest.fixture(scope="module")
def made(recorded):
    """A finished run on the SAE, with a control."""
    folder, model = recorded.folder, recorded.model
    for name, hook in (("before", "resid_pre"), ("mlp", "mlp_out")):
        sae_gap.save_sae(model, folder / name, metadata={"hook_name": f"blocks.1.hook_{hook}"})
    atoms = np.asarray(model.decoder)
    for name, part in {"D": atoms, "narrow": atoms[1:], "few": atoms[:, :8]}.items():
        np.save(folder / f"{name}.npy", part)
    mine = (*recorded.flags, f"--sae={folder / 'mine'}", "--controls=samples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lasso, "find_weight", tiny.weight)
        out = succeed("downstream", *mine)
    return SimpleNamespace(folder=folder, mine=mine, out=out)


def test_what_it_leaves(made, recorded, monkeypatch):
    results = made.folder / "results" / "downstream"
    lines = {
        (line["dictionary"], line["codes"], line["level"]): line
        for line in lines_of(results / "summary.csv")
    }
    codes = "lasso", "lasso_refit", "omp", "screened"
    own = [("mine", codes, "4") for codes in ("own", "own_refit", "proposed")]
    assert set(lines) == {*own, *itertools.product(("mine", "samples"), codes, ("4",))}
    assert float(lines["mine", "own", "4"]["l0"]) == 4
    assert [line["loss"] for line in lines_of(results / "splits.csv")] == ["kl", "ce", "fvu"]
    assert (results / "curve.png").exists() and "screening part" in made.out
    assert "Nats above a clean loss of" in made.out and "mine loses" in made.out
    # What is scored was held out, of which there is a tenth.
    row = sae_gap.Store(results).rows()[0]
    held = np.unique(recorded.found.activations(1).split()[1].documents)
    within = np.isin(recorded.found.documents, held) & (recorded.found.positions >= 8)
    assert len(row["tokens"]) == len(held) and 0 < sum(row["tokens"]) <= within.sum()
    # Whatever the seed, since an SAE of `train_real` may have learned from the others.
    names = {"recording": "r", "model": "tiny.gguf", "dictionary": ("D.npy",)}
    monkeypatch.chdir(made.folder)
    source, _ = inputs.PutBack(**names, layer=1, seed=1).begin((4,))
    assert {*source.documents()} == {*held}
    # The same command measures nothing again.
    monkeypatch.setattr(scoring, "Inference", None)
    assert succeed("downstream", *made.mine) == made.out


def test_a_transcoder_and_an_sae_of_the_mlps_output_replace_it(recorded, tmp_path):
    record(recorded.lm, recorded.texts, recorded.folder / "r", layers=(1,), mlps=(1,), context=32)
    places = recorded.folder / "r" / "mlp1_in", recorded.folder / "r" / "mlp1_out"
    flags = ("--width=96", "--sparsity=4", "--epochs=20", "--samples=50", "--batch_size=32")
    names, results = ("relu_skip_transcoder", "topk"), f"--results_dir={tmp_path}"
    given = f"--activations={places[0]}", f"--targets={places[1]}"
    succeed("train_real", *given, *flags, f"--methods={','.join(names)}", results)
    trained = tmp_path / "train_real"
    notes = sae_gap.load_sae(trained / names[0]).notes
    assert notes["hook_name"] == "model.layers.1.mlp.input"
    assert notes["hook_name_out"] == "blocks.1.hook_mlp_out"
    plain = (*recorded.flags[:-1], results)
    sae = f"--sae={','.join(str(trained / name) for name in names)}"
    succeed("downstream", *plain, "--mlp", sae, "--anyway")
    assert len(lines_of(tmp_path / "downstream" / "splits.csv")) == 6
    other = f"--sae={recorded.folder / 'mine'}"
    for words, *arguments in (
        ("is a transcoder, whose inputs are not there; give what it explains as", sae),
        ("mlp0_in is not in", "--mlp", sae, "--layer=0"),
        ("hook_resid_post; give an SAE of the MLP", "--mlp", "--anyway", other),
    ):
        refused(words, "downstream", *plain, *arguments)
    # The MLP itself predicts the targets, so nothing else does, and a dictionary without a skip
    # does not judge one with it.
    given = *given, sae, "--anyway", "--controls=samples", results
    assert "so all that their encoders lose is amortisation" in succeed("measure_sae", *given)
    rows = sae_gap.Store(tmp_path / "measure_sae").rows()
    assert "predicted" not in {row["codes"] for row in rows}
    assert {row["dictionary"] for row in rows if row.get("skip")} == {names[0]}
    rows = [row | ({"dictionary": RIVAL} if row["family"] == "control" else {}) for row in rows]
    said = {each.dictionary: each for each in sae_gap.measure.verdict(rows)}
    skip, plain = (said[name] for name in names)
    assert "dictionary" in plain.losses and "dictionary" not in skip.losses
    assert "not judged, since its skip explains without atoms" in str(skip)


def test_saes_of_several_layers_stand_alone_and_together(recorded, monkeypatch, tmp_path):
    sae_gap.save_sae(recorded.model, tmp_path / "first")
    mine = recorded.folder / "mine"
    flags = (*recorded.flags[:-1], f"--results_dir={tmp_path}", "--anyway")
    both = f"--sae={tmp_path / 'first'},{mine}", "--layers=0,1", "--codes=omp"
    out = succeed("measure", *flags, *both)
    lines = lines_of(tmp_path / "measure" / "together" / "together.csv")
    codes, of = (
        ("own", "screened", "omp"),
        ("block 0", "block 1", "the sum of these", "all together"),
    )
    assert [(each["codes"], each["replaced"]) for each in lines] == [*itertools.product(codes, of)]
    # A layer alone costs what `downstream` says.
    succeed("downstream", *flags, f"--sae={mine}", "--controls=none")
    alone = {row["codes"]: row for row in lines_of(tmp_path / "downstream" / "summary.csv")}
    for first, line, summed, whole in zip(*[iter(lines)] * 4, strict=True):
        for name in ("kl", "delta_ce", "l0"):
            assert float(line[name]) == pytest.approx(float(alone[line["codes"]][name]), abs=1e-5)
        assert float(summed["kl"]) == pytest.approx(float(first["kl"]) + float(line["kl"]))
        assert float(whole["ratio"]) == pytest.approx(float(whole["kl"]) / float(summed["kl"]))
        assert f"{float(whole['kl']):.3f} ± " in out.splitlines()[-1]
    # The same command codes nothing again.
    monkeypatch.setattr(together, "score_together", None)
    assert succeed("measure", *flags, *both) == out
    for words, *wrong in (
        ("must ascend, with one --sae for each", "--layers=1,0"),
        ("must ascend, with one --sae for each", "--layers=1"),
        ("leave --mlp out", "--mlp"),
        ("block2 is not in", "--layers=0,2"),
    ):
        refused(words, "measure", *flags, *both, *wrong)


def test_codes_that_are_not_finite_are_left_out(made, recorded, monkeypatch, caplog):
    def nan(encoder, model, signals, *begun):
        return Coded(jnp.full((len(signals), model.decoder.shape[1]), jnp.nan))

    monkeypatch.setattr(MatchingPursuit, "infer", nan)
    atoms = f"--dictionary={made.folder / 'D.npy'}"
    for each in ("downstream", "encoder_cost"):
        results = f"--results_dir={made.folder / 'nan'}"
        out = succeed(each, *recorded.flags, atoms, results, "--codes=omp,mp")
        assert "left out mp of D" in caplog.text
        assert "omp" in out and " mp " not in out, out
        caplog.clear()


def test_what_is_wrong_is_told_in_a_sentence(made, recorded):
    folder = made.folder
    tiny.write_lm(folder / "other.gguf", seed=1)
    atoms, sae = f"--dictionary={folder / 'D.npy'}", f"--sae={folder}"
    # Where a folder of sparsify is not called after a module, its name tells no place.
    inputs.check_place("mine", "mine", 1)
    for told, *wrong in (
        ("there is nothing to measure; give --recording and --sae or --dictionary.",),
        ("blocks.1.hook_resid_pre, not behind block 1; give its own as", f"{sae}/before"),
        ("at blocks.1.hook_mlp_out; give an SAE of the residual stream", f"{sae}/mlp"),
        ("but it is (63, 96); give one of that layer", f"--dictionary={folder}/narrow.npy"),
        ("8 atoms of few; ask for at most 7.", f"{atoms},{folder / 'few.npy'}", "--l0=8"),
        ("is both a --sae and a --dictionary", atoms, atoms.replace("dictionary", "sae")),
        ("is of another model than other", atoms, f"--model={folder / 'other.gguf'}"),
    ):
        refused(told, "downstream", *recorded.flags, *wrong)
