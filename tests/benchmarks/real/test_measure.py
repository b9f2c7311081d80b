"""The binary on an SAE of this suite: what it leaves, that it goes on, and one sentence for
whatever is wrong.
"""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from matplotlib import image
from pytest import fixture, mark

import sae_gap
from benchmarks.real import inputs, measurement_page
from benchmarks.real import measure as binary
from sae_gap import save_activations
from sae_gap.encoders import TopK
from sae_gap.metrics import reconstruction
from sae_gap.storage import Store
from tests import tiny
from tests.conftest import lines_of, refused, succeed

FIGURES = ("curve", "gap_parts", "coherence")
FILES = {"README.md", "codes.csv", "page.json", "report.html", "rows", "summary.csv"}
FILES |= {"mine.model_card.md", "other.model_card.md"}
FILES |= {f"{stem}.{ending}" for stem in FIGURES for ending in ("png", "pdf")}


@fixture(scope="module")
def files(task, tmp_path_factory):
    """SAEs that reconstruct, a decoder alone, and activations of 30 documents."""
    folder = tmp_path_factory.mktemp("files")
    model = tiny.noisy_model(task)
    sae_gap.save_sae(model, folder / "mine")
    sae_gap.save_sae(replace(model, encode=TopK(3)), folder / "other")
    x = tiny.signals(task) + np.asarray(model.bias)
    save_activations(folder / "x.npz", x, np.repeat(np.arange(30), 10))
    np.save(folder / "D.npy", model.decoder)
    return folder


@fixture(scope="module")
def done(files, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    arguments = (
        f"--sae={files / 'mine'},{files / 'other'}",
        f"--activations={files / 'x.npz'}",
        "--controls=random,samples",
    )
    out = succeed("measure", *arguments, f"--results_dir={results}")
    return arguments, results, out


def test_what_it_leaves(done, monkeypatch):
    arguments, results, out = done
    folder = results / "measure"
    assert {path.name for path in folder.iterdir()} == FILES
    for stem in FIGURES:
        assert image.imread(folder / f"{stem}.png").std() > 0.01
    lines = {line["dictionary"]: line for line in lines_of(folder / "summary.csv")}
    assert list(lines) == ["mine", "other", "random", "samples"]
    codes = lines_of(folder / "codes.csv")
    assert {line["codes"] for line in codes if line["dictionary"] == "mine"} == {
        *("own", "own_refit", "lasso", "lasso_refit", "screened", "proposed")
    }
    page = (folder / "report.html").read_text()
    # A product of a TopK with its dictionary has 12 times as many multiply-adds as latents.
    assert [line.split()[-1] for line in out.splitlines()[3:5]] == ["2.4e-04"] * 2
    # On the page the verdict stands before all else.
    places = [
        page.index(word)
        for word in ("Of the dictionaries", "Loading: ", "<caption", "<img")
    ]
    assert places == sorted(places) and "not better features" in page
    # The same command measures nothing again.
    monkeypatch.setattr(reconstruction, "explained", None)
    assert succeed("measure", *arguments, f"--results_dir={results}") == out


def test_saes_of_earlier_runs_stand_beside_those_of_this_one(done):
    stored = Store(done[1] / "measure").rows()
    now = [row for row in stored if row["dictionary"] != "other"]
    models = [row for row in stored if "model" in row["learner"]]
    mine = [row for row in models if row in now]
    twins = [row | {"learner": {"model": "abcdef"}} for row in mine]
    killed = [
        row | {"learner": {"model": "x"}} for row in models if row["codes"] == "own"
    ]
    # At another L0, or of other rows, nothing is compared.
    other = {"learner": {"model": "other"}, "dictionary": "there"}
    denser = [row | other | {"l0": 2 * row["l0"]} for row in mine]
    elsewhere = [row | other | {"activations": "0123456789"} for row in mine]
    skips = [
        row | other | {"learner": {"model": "skips"}, "skip": True} for row in mine
    ]
    (first, lines), (second, there) = measurement_page.standings(
        now, [*stored, *twins, *killed, *denser, *elsewhere, *skips]
    )
    found = [(line["dictionary"], line["rank"]) for line in lines]
    assert found == [(name, "1 to 3") for name in ("mine", "mine (abcd)", "other")]
    assert re.fullmatch(r"30 rows of \w{6}, seed 0, L0 [\d.]+", first)
    assert second == f"{first}, with a skip" and [line["rank"] for line in there] == [
        "1"
    ]


def test_an_sae_that_explains_nothing_is_measured_if_it_must_be(
    files, tmp_path, monkeypatch
):
    x = np.load(files / "x.npz")
    np.savez(tmp_path / "moved.npz", activations=x["activations"] - 0.7)
    arguments = (
        f"--sae={files / 'mine'}",
        f"--activations={tmp_path / 'moved.npz'}",
        "--anyway",
    )
    out = succeed("measure", *arguments, "--controls=none", f"--results_dir={tmp_path}")
    assert "Loading: suspicious, because" in out and out.count("name no documents") == 1
    assert re.search(r"Only 300 rows of \d+ runs are scored", out)
    page = (tmp_path / "measure" / "report.html").read_text()
    # A terminal shows one SAE's tables, but no samples.
    assert "All codes" in out and "largest gaps" not in out and "largest gaps" in page
    # By default no dictionary is learned that takes hours.
    monkeypatch.setattr(binary, "AFFORDABLE", 0)
    mine = str(files / "mine")
    rows = str(files / "x.npz")

    def planned(**options):
        given = binary.MeasureOptions(sae=(mine,), activations=rows, **options)
        return binary.plan_of(given)[0]

    assert planned().controls == ("samples", "random")
    # Random atoms learn nothing, and need no held-out documents.
    for bare in (
        {"controls": ("random",)},
        {"controls": ("random",), "held_out": "all"},
    ):
        plan = planned(**bare)
        assert len(plan.source.scored) == plan.source.activations.num_samples
    # Codes that are trained do not learn from what is scored.
    plan = planned(controls=("random",), codes=("retrained_refit",))
    again = replace(plan, source=plan.source.activations)
    assert plan.source.held_out == again.source.held_out == 0.1


MINE = ["--sae={m}", "--activations={x}"]
BAD = {
    "nothing to measure": [],
    "too few to judge by": ["--dictionary={D}", "--activations={few}"],
    "no rows for controls or codes": [
        *MINE,
        "--held_out=all",
        "--codes=retrained",
        "--controls=none",
    ],
    "a share between 0 and 1, or all": [*MINE, "--held_out=some"],
    "holds no recording.json": [*MINE, "--recording={D}"],
    "--layer is of the network; give its --recording": [*MINE, "--layer=3"],
    "--costs is of the network; give its --recording": [*MINE, "--costs=all"],
    "a control must be one of": [*MINE, "--controls=none,random"],
    "--anyway measures it all the same": ["--sae={m}", "--activations={moved}"],
}


@mark.parametrize("words", BAD)
def test_whatever_is_wrong_is_one_sentence_and_leaves_nothing(words, files, tmp_path):
    x = np.load(files / "x.npz")["activations"]
    np.save(tmp_path / "moved.npy", x - 0.7)
    np.save(tmp_path / "few.npy", x[:9])
    places = {name: f"{tmp_path}/{name}.npy" for name in ("moved", "few")}
    places |= {name[0]: f"{files}/{name}" for name in ("D.npy", "mine", "x.npz")}
    given = [text.format(**places) for text in BAD[words]]
    refused(words, "measure", *given, f"--results_dir={tmp_path / 'results'}")
    assert not (tmp_path / "results").exists()


def test_names_tell_paths_apart(tmp_path):
    for name in ("a/x/ae.pt", "b/x/ae.pt", "D.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    one, two, atoms = (str(tmp_path / name) for name in ("a/x/ae.pt", "b/x", "D.npy"))
    assert inputs.names([one, atoms]) == ["x", "D"] and inputs.names([one, two]) == [
        "a/x",
        "b/x",
    ]
    # A control is called so, and its rows are apart from those of the user's own.
    assert inputs.names(["/home/random"], ["random"]) == ["home/random"]
    # A dictionary is learned unless it takes hours.
    sizes = [
        SimpleNamespace(num_latents=width, input_dim=2_304) for width in (2_000, 3_000)
    ]
    assert [*map(binary.is_affordable, sizes)] == [True, False]
