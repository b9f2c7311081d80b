"""The binary on a recording of a tiny model: what it leaves, that it goes on, and one sentence for
whatever is wrong.
"""

import csv
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

import sae_gap
from benchmarks.real import inputs
from sae_gap.analysis import RIVAL
from sae_gap.core import Coded
from sae_gap.encoders import MatchingPursuit, lasso
from sae_gap.lm import record
from sae_gap.study import scoring
from tests import tiny
from tests.conftest import lines_of, refused, succeed


@pytest.fixture(scope="module")
def made(recorded):
    """A finished run on the SAE, with a control."""
    folder, model = recorded.folder, recorded.model
    sae_gap.save_sae(model, folder / "before", metadata={"hook_name": "blocks.1.hook_resid_pre"})
    sae_gap.save_sae(model, folder / "mlp", metadata={"hook_name": "blocks.1.hook_mlp_out"})
    atoms = np.asarray(model.decoder)
    for name, part in {"D": atoms, "narrow": atoms[1:], "few": atoms[:, :8]}.items():
        np.save(folder / f"{name}.npy", part)
    mine = (*recorded.flags, f"--sae={folder / 'mine'}", "--controls=samples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lasso, "find_weight", tiny.weight)
        out = succeed("downstream", *mine)
    return SimpleNamespace(
        folder=folder, found=recorded.found, arguments=recorded.flags, mine=mine, out=out
    )


def test_what_it_leaves(made, monkeypatch):
    results = made.folder / "results" / "downstream"
    files = {path.name for path in results.iterdir()}
    assert files == {
        "rows",
        *["summary.csv", "splits.csv", "curve.png", "curve.pdf", "parts.png", "parts.pdf"],
    }
    assert image.imread(results / "curve.png").std() > 0.01
    with (results / "summary.csv").open(newline="") as file:
        lines = {
            (line["dictionary"], line["codes"], line["level"]): line
            for line in csv.DictReader(file)
        }
    best = [
        (name, codes, "4")
        for name in ("mine", "samples")
        for codes in ("lasso", "lasso_refit", "omp", "screened")
    ]
    own = [("mine", codes, "4") for codes in ("own", "own_refit", "proposed")]
    assert set(lines) == {*own, *best}
    assert float(lines["mine", "own", "4"]["l0"]) == 4
    assert [line["loss"] for line in lines_of(results / "splits.csv")] == ["kl", "ce", "fvu"]
    assert "selection part" in made.out and "screening part" in made.out
    # What is scored was held out, of which there is a tenth.
    row = sae_gap.Store(results).rows()[0]
    held = np.unique(made.found.activations(1).split()[1].documents)
    assert len(row["tokens"]) == len(held) == 2
    within = np.isin(made.found.documents, held) & (made.found.positions >= 8)
    assert 0 < sum(row["tokens"]) <= within.sum()
    # The same command measures nothing again.
    monkeypatch.setattr(scoring, "Inference", None)
    assert succeed("downstream", *made.mine) == made.out


def test_a_transcoder_and_an_sae_of_the_mlps_output_replace_it(recorded, tmp_path):
    found = record(
        recorded.lm, recorded.texts, recorded.folder / "r", layers=(1,), mlps=(1,), context=32
    )
    places = recorded.folder / "r" / "mlp1_in", recorded.folder / "r" / "mlp1_out"
    flags = ("--width=96", "--sparsity=4", "--epochs=20", "--samples=50", "--batch_size=32")
    names = "relu_skip_transcoder", "topk_transcoder", "topk"
    given = f"--activations={places[0]}", f"--targets={places[1]}"
    succeed(
        "train_real", *given, *flags, f"--methods={','.join(names)}", f"--results_dir={tmp_path}"
    )
    trained = tmp_path / "train_real"
    notes = sae_gap.load_sae(trained / names[0]).notes
    assert notes["hook_name"] == "model.layers.1.mlp.input"
    assert notes["hook_name_out"] == "blocks.1.hook_mlp_out"
    mine = (*recorded.flags[:-1], f"--results_dir={tmp_path}", "--mlp")
    mine += (f"--sae={','.join(str(trained / name) for name in names)}",)
    out = succeed("downstream", *mine, "--anyway")
    splits = lines_of(tmp_path / "downstream" / "splits.csv")
    for line in splits:
        lost = [float(line[f"{part}_part"]) for part in ("values", "support", "amortisation")]
        assert lost[0] + lost[1] == pytest.approx(lost[2], abs=1e-6)
    assert "amortisation part" in out and len(splits) == 9
    sae, mine = mine[-1], mine[:-1]
    plain = [each for each in mine if each != "--mlp"]
    for words, *arguments in (
        ("is a transcoder, whose inputs are not there; give what it explains as", *plain, sae),
        ("mlp0_in is not in", *mine, sae, "--layer=0"),
        (
            "trained at blocks.1.hook_resid_post; give an SAE of the MLP",
            *mine,
            "--anyway",
            f"--sae={recorded.folder / 'mine'}",
        ),
    ):
        refused(words, "downstream", *arguments)
    # The MLP itself predicts the targets, to the digits that were recorded.
    x, y = (part.take(np.arange(part.num_samples)) for part in found.mlp(1))
    block = jax.tree.map(lambda leaf: leaf[1], recorded.lm.model.blocks)
    guess = (jax.nn.silu(x @ block.gate) * (x @ block.up)) @ block.down
    np.testing.assert_allclose(guess, y, atol=2e-3 * np.abs(y).max())
    # So nothing else does, and a dictionary without a skip does not judge one with it.
    given = *given, sae, "--anyway", "--controls=samples", f"--results_dir={tmp_path}"
    assert "so all that their encoders lose is amortisation" in succeed("measure_sae", *given)
    rows = sae_gap.Store(tmp_path / "measure_sae").rows()
    assert "predicted" not in {row["codes"] for row in rows}
    assert {row["dictionary"] for row in rows if row.get("skip")} == {names[0]}
    rows = [row | ({"dictionary": RIVAL} if row["family"] == "control" else {}) for row in rows]
    said = {each.dictionary: each for each in sae_gap.measure.verdict(rows)}
    assert [name for name in names if "dictionary" in said[name].losses] == [*names[1:]]
    assert "not judged, since its skip explains without atoms" in str(said[names[0]])


def test_codes_that_are_not_finite_are_left_out(made, monkeypatch, caplog):
    def nan(encoder, model, signals, *begun):
        return Coded(jnp.full((len(signals), model.decoder.shape[1]), jnp.nan))

    monkeypatch.setattr(MatchingPursuit, "infer", nan)
    atoms = f"--dictionary={made.folder / 'D.npy'}"
    for each in ("downstream", "encoder_cost"):
        results = f"--results_dir={made.folder / 'nan'}"
        out = succeed(each, *made.arguments, atoms, results, "--codes=omp,mp")
        assert "left out mp of D" in caplog.text
        assert "omp" in out and " mp " not in out, out
        caplog.clear()


def test_what_is_wrong_is_told_in_a_sentence(made):
    folder = made.folder
    tiny.write_lm(folder / "other.gguf", seed=1)
    atoms = f"--dictionary={folder / 'D.npy'}"
    for wrong, told in (
        ((), "there is nothing to measure; give --recording and --sae or --dictionary."),
        (
            (f"--sae={folder / 'before'}",),
            "blocks.1.hook_resid_pre, not behind block 1; give its own as --layer.",
        ),
        (
            (f"--sae={folder / 'mlp'}",),
            "mlp was trained at blocks.1.hook_mlp_out; give an SAE of the residual stream",
        ),
        (
            (f"--dictionary={folder / 'narrow.npy'}",),
            "(64, num_latents), but it is (63, 96); give one of that layer",
        ),
        ((f"{atoms},{folder / 'few.npy'}", "--l0=8"), "8 atoms of few; ask for at most 7."),
        ((atoms, atoms.replace("dictionary", "sae")), "is both a --sae and a --dictionary"),
        (
            (atoms, f"--model={folder / 'other.gguf'}"),
            "is of another model than other; give that of tiny as model.",
        ),
    ):
        refused(told, "downstream", *made.arguments, *wrong)


def test_a_folder_of_sparsify_may_be_called_anything():
    """Where it is not called after a module, its name tells no place."""
    inputs.check_place("mine", "mine", 1)
    with pytest.raises(ValueError, match="mine was trained at layers"):
        inputs.check_place("mine", "layers.3.mlp", 1)
