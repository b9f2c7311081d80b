"""Every column of every table of `measure`, of rows written by hand, beside plain NumPy; and the
page and what is printed, whose words stand in golden.txt with a sign for each number.
"""

import json
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from numpy.random import default_rng
from pytest import approx, fixture

from benchmarks.real import measure, measurement_page
from sae_gap import figures
from sae_gap.storage import Folder
from tests import tiny
from tests.benchmarks.reference import ends, halves, held, split
from tests.conftest import lines_of

GOLDEN = pathlib.Path(__file__).with_name("golden.txt")
RNG = default_rng(0)
VARIANCE = np.array([40.0, 25, 7, 60, 13, 30, 22, 9, 51, 18, 33])
TOKENS = np.array([100, 300, 50, 200, 10, 70, 90, 130, 40, 60, 110])
GAP = (
    "gap scale relative_gap scale_share values_share support_share support_slack optimum_slack "
    "jaccard overlap_precision overlap_recall fired_only used_only unused"
)
BEST = ("lasso_refit", "screened")
# The L0 of each encoder; whether it is dead; its model; the FVU of its own and of the best codes.
SUBJECTS = {
    "mine": (7.4, False, "aaaa1", 0.5),
    "other/sae": (6.6, False, "bbbb2", 0.4),
    "dead": (0.3, True, "cccc3", 0.9),
    "atoms": (None, False, "dddd4", 0.6),
    "online_dl": (None, False, None, 0.35),
    "past": (7.3, False, "eeee5", 0.2),
}
SHARED = {"activations": "0123456789", "samples": 5000, "seed": 3, "split_seed": 3}
SHARED |= {"keep_outliers": False, "num_scored": 1_234, "input_dim": 16}


def rows_of(name):
    l0, dead, model, fvu = SUBJECTS[name]
    about = SHARED | {
        "dictionary": name,
        "family": "sae" if model else "control",
        "dead": dead,
        "num_latents": 64 + len(name),
        "learned_from": 9_000,
        "cost": len(name) / 7,
        "fired": 60,
        "learner": {"model": model} if model else {"num_steps": 3},
    }
    levels = {"own": l0, "common": 7.4} if l0 else {"common": 7.4}
    kinds = {
        "lasso": 0.9,
        "lasso_refit": 0.8,
        "screened": 0.7 if name == "mine" else 0.85,
    }
    rows = []
    for level, at in levels.items():
        own = (
            {"own": 1.0, "own_refit": 0.82, "proposed": 0.88} if level == "own" else {}
        )
        for codes, share in (own | kinds).items():
            errors = share * fvu * VARIANCE * RNG.uniform(0.8, 1.2, len(VARIANCE))
            row = about | {
                "codes": codes,
                "level": level,
                "l0": at + RNG.uniform() / 100,
                "errors": [*errors],
                "variance": [*VARIANCE],
                "mse": RNG.uniform(),
                "fvu": errors.sum() / VARIANCE.sum(),
                "fvu_outliers": RNG.uniform(),
            }
            row |= {"own_certificate": RNG.uniform() / 1e6} if codes == "lasso" else {}
            rows.append(row)
    middle = next(row for row in rows if row["codes"] == "lasso")
    middle |= {column: RNG.uniform() for column in GAP.split()} if model else {}
    middle |= {
        "lam": RNG.uniform(),
        "unconverged": 0.25,
        "unused": 5,
        "worst": [2, 0],
        "worst_gap": [0.5, 0.25],
        "worst_relative_gap": [2.0, 1.5],
    }
    # Of a single live atom none is known.
    shares = [*RNG.uniform(size=101)] * (name != "atoms")
    middle |= {"coherence": shares, "dead_atoms": 2, "duplicates": 1}
    middle |= {"agreement": RNG.uniform()} if model else {}
    return [*rows, middle | {"times": 2.0, "fvu": 1e-3, "l0": 1.0}]


@fixture(scope="module")
def written(tmp_path_factory):
    every = {name: rows_of(name) for name in SUBJECTS}
    rows = [row for name, found in every.items() if name != "past" for row in found]
    held_out = SimpleNamespace(documents=np.arange(9) // 2, numbers=np.arange(9) + 40)
    source = SimpleNamespace(
        activations=SimpleNamespace(of_mlp=True),
        whole=SimpleNamespace(documents=None),
        parts=(None, held_out),
        places=np.array([8, 1, 5]),
    )
    loaded = {
        name: SimpleNamespace(
            wrong=[f"{name} is odd."] * (name == "mine"),
            columns={
                "library": "sparsify",
                "architecture": "topk",
                "normalisation": "none",
            }
            | {"fvu": 0.5 + place / 7, "l0": 3.5 + place, "dead": 0.25 + place / 8},
        )
        for place, name in enumerate(("mine", "other/sae", "dead"))
    }
    folder = Folder(tmp_path_factory.mktemp("measured"))
    notes = {"seconds": "12"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save", keep)
        stored = [*rows, *every["past"]]
        found = measurement_page.Measurement(rows, stored, source, loaded)
        printed = measurement_page.write(folder, found, "a command", notes)
    return SimpleNamespace(
        every=every, rows=rows, folder=folder, printed=printed, loaded=loaded
    )


def keep(figure, folder, stem):
    """Stands for a picture."""
    folder.write(f"{stem}.png", b"")
    return [f"{stem}.png"]


def one(rows, codes, level="own"):
    there = [row for row in rows if row["codes"] == codes and "times" not in row]
    return next(
        (row for row in there if row["level"] == level), there[0] if there else None
    )


def best(rows, level="own"):
    return min((one(rows, codes, level) for codes in BEST), key=lambda row: row["fvu"])


def reference(rows):
    """All columns of a dictionary by their names."""
    lasso = one(rows, "lasso")
    refit = one(rows, "lasso_refit")
    top = best(rows)
    own = one(rows, "own")
    again = one(rows, "own_refit")
    # Of all of the lasso's codes in the curve's table; of those in its middle otherwise.
    proofs = [row["own_certificate"] for row in rows if row["codes"] == "lasso"]
    known = {
        "dictionary": top["dictionary"],
        "family": top["family"],
        "samples": 1_234,
        "at_l0": lasso["l0"],
        "curve_fvu": lasso["fvu"],
        "curve_refit_fvu": refit["fvu"],
        "best_codes": top["codes"],
        "best_fvu": top["fvu"],
        "mse": (own or top)["mse"],
        "certificate": max(proofs),
    }
    if own:
        known |= {
            "l0": own["l0"],
            "fvu": own["fvu"],
            "refit_fvu": again["fvu"],
            "fvu_ratio": own["fvu"] / top["fvu"],
            "refit_fvu_ratio": again["fvu"] / top["fvu"],
            **{column: lasso[column] for column in GAP.split()},
        }
    if top["family"] != "control":
        known |= {
            name: lasso[name]
            for name in ["lam", "unconverged", "seed", "input_dim", "unused"]
        }
        known |= {"optimum_l0": lasso["l0"], "optimum_fvu": lasso["fvu"]}
    if spread := lasso["coherence"]:
        known |= {"coherence_median": spread[50], "coherence_95": spread[95]}
    known |= {name: lasso[name] for name in ("num_latents", "dead_atoms", "duplicates")}
    return known | {"agreement": lasso.get("agreement")}


def sums(row, column="errors"):
    return np.array(row[column], float)


def parts(every, name):
    """The split of an encoder's FVU, beside the learned dictionary where it is at the same L0."""
    rows = every[name]
    own = one(rows, "own")
    again = one(rows, "own_refit")
    top = best(rows)
    kept = min(own, again, key=lambda row: row["fvu"])
    losses = {"own": own, "kept": kept, "best": top, "proposed": one(rows, "proposed")}
    return split(
        VARIANCE, True, **{name: sums(row) for name, row in losses.items()}
    ), losses


def tables(written):
    page = json.loads(written.folder.read("page.json"))
    every = [*page["answers"], *page["tables"]]
    return {title: (columns, lines) for title, columns, lines in every}


def bare(lines):
    return [
        {name.removesuffix("_mean"): value for name, value in line.items()}
        for line in lines
    ]


def flat(row):
    kinds = (list, dict)
    return {name: value for name, value in row.items() if not isinstance(value, kinds)}


def chosen(rows, columns):
    return [{name: row.get(name) for name in columns} for row in rows]


def test_files_have_what_the_rows_say(written):
    wanted = []
    for name, rows in written.every.items():
        if name != "past":
            known = reference(rows)
            middle = one(rows, "lasso")["own_certificate"]
            known |= {"certificate": middle} if known["family"] != "control" else {}
            wanted.append(known)
    held(lines_of(f"{written.folder}/summary.csv"), wanted)
    held(lines_of(f"{written.folder}/codes.csv"), [*map(flat, written.rows)])


def test_tables_have_what_the_rows_say(written):
    found = tables(written)
    every = {name: reference(rows) for name, rows in written.every.items()}
    every.pop("past")
    alive = [name for name in every if name not in ("dead", "atoms", "online_dl")]
    for title, names in (
        ("Reconstruction", every),
        (
            "The gap of the lasso's objective and its parts, as shares of the best",
            alive,
        ),
        ("Supports: the encoder's beside the best", alive),
        ("Atoms", every),
    ):
        columns, lines = found.pop(title)
        held(bare(lines), chosen([every[name] for name in names], columns))
    columns, lines = found.pop("All codes")
    rows = [row for row in written.rows if "times" not in row]
    held(bare(lines), chosen(rows, columns))
    _, lines = found.pop("Samples of the largest gaps")
    # Numbers in the file of the held-out rows that were drawn.
    places = [(45, 2, 0.5, 2.0), (48, 4, 0.25, 1.5)]
    names = "dictionary", "index", "document", "gap", "relative_gap"
    wanted = [(name, *place) for name in (*alive, "atoms") for place in places]
    held(bare(lines), [dict(zip(names, each, strict=True)) for each in wanted])
    _, lines = found.pop("As loaded")
    loaded = written.loaded.items()
    held(bare(lines), [{"dictionary": name} | each.columns for name, each in loaded])
    _, lines = found.pop(
        "What each SAE loses at its own L0, and its parts ± half their 95 % intervals"
    )
    wanted = []
    for name in alive:
        line, losses = parts(written.every, name)
        known = {
            "dictionary": name,
            "loss": "FVU",
            "best": name,
            "l0_mean": losses["own"]["l0"],
            "own_best_codes": losses["best"]["codes"],
        }
        wanted.append(halves(line) | known)
    held(lines, wanted)
    ((title, (_, lines)),) = found.items()
    common = best(written.every["mine"], "common")["l0"]
    assert title.endswith(f": 1,234 rows of 012345, seed 3, L0 {common:.3g}")
    held(bare(lines), standings(written.every))


def standings(every):
    """How all stand, with the one of an earlier run, the best first and the dead last."""
    tops = {
        name: best(rows, "common")
        for name, rows in every.items()
        if name != "online_dl"
    }
    rival = best(every["online_dl"], "common")
    lines = []

    def is_better(one, other):
        low = ends(sums(other) - sums(one), VARIANCE)[1]
        more = max(0, one["l0"] - other["l0"]) / other["l0"]
        return low > more * (1 - other["fvu"])

    for name in sorted(tops, key=lambda name: (name == "dead", tops[name]["fvu"])):
        own = one(every[name], "own")
        top = best(every[name])
        line = {"dictionary": name}
        others = [each for other, each in tops.items() if other != "dead"]
        first = 1 + sum(is_better(each, tops[name]) for each in others)
        last = len(others) - sum(is_better(tops[name], each) for each in others)
        line["best_fvu"] = top["fvu"]
        if own:
            line |= {"own_fvu": own["fvu"], "l0": own["l0"], "cost": own["cost"]}
            line["dead_latents"] = own["num_latents"] - 60
        if name != "dead":
            line["rank"] = f"{first}" if first == last else f"{first} to {last}"
            line["dictionary_part"] = 100 * (tops[name]["fvu"] - rival["fvu"])
        if own and name != "dead":
            found, _ = parts(every, name)
            line |= {
                f"{part}_part": 100 * found[f"{part}_part"]
                for part in ("values", "support")
            }
            whole = line["values_part"] + line["support_part"]
            assert whole == approx(100 * found["amortisation_part"])
        lines.append(line)
    return lines


def test_a_model_card_has_the_numbers_of_its_standing(written):
    for line in standings(written.every):
        name = line["dictionary"]
        if name == "past":
            continue
        text = written.folder.read(f"{name.replace('/', '_')}.model_card.md").decode()
        (model,) = yaml.safe_load(text.split("---\n")[1])["model-index"]
        (result,) = model["results"]
        found = {metric["type"]: metric["value"] for metric in result["metrics"]}
        wanted = {
            key: value for key, value in line.items() if not isinstance(value, str)
        }
        assert found == approx(wanted, rel=1e-3) and model["name"] == name
        assert result["dataset"]["name"] == "1,234 rows of 11 held-out runs"


def golden(name, text):
    """Holds a text to the golden one of a name, in which each number is a sign."""
    known = dict(part.split("\n", 1) for part in GOLDEN.read_text().split("===== ")[1:])
    assert "\n".join(tiny.masked(text)) + "\n" == known[name]


def test_the_page_and_what_is_printed_have_their_sections_in_order(written):
    golden("print", written.printed)
    golden("page", written.folder.read("README.md").decode())
    notes = json.loads(written.folder.read("page.json"))["notes"]
    assert notes == {
        "seconds": "12",
        "scored": "1,234 rows of 11 held-out runs are scored",
    }


# Codes with their nats, and whose encoder is dead.
NATS = {
    ("mine", "own"): 1.0,
    ("mine", "own_refit"): 0.9,
    ("mine", "proposed"): 0.85,
    ("mine", "lasso"): 0.2,
    ("mine", "screened"): 0.7,
    ("mine", "omp"): 0.75,
    ("samples", "screened"): 0.6,
    ("dead", "own"): 3.0,
}
CLEAN = TOKENS * np.linspace(1, 3, len(TOKENS))
SUMS = {
    "kl": ("kl_sums", TOKENS),
    "ce": ("ce_sums", TOKENS),
    "fvu": ("errors", VARIANCE),
}


def nats_rows():
    rows = []
    for (name, codes), kl in NATS.items():
        noise = RNG.uniform(0.9, 1.1, (3, len(TOKENS)))
        # The best codes in nats are not those of the least variance.
        fvu = 1 - kl / 4 if codes in ("screened", "omp") else kl / 4
        row = {
            "dictionary": name,
            "codes": codes,
            "level": 7.4,
            "l0": 7.4 + kl,
            "family": "sae",
            "dead": name == "dead",
            "tokens": [*TOKENS],
            "variance": [*VARIANCE],
            "kl_sums": [*(kl * TOKENS * noise[0])],
            "ce_clean": [*CLEAN],
            "ce_sums": [*(CLEAN + kl * TOKENS * noise[1])],
            "errors": [*(fvu * VARIANCE * noise[2])],
            "ce_zero": 9.25,
            "ce_mean": 7.125,
            "products": None if codes == "lasso" else 8 / kl,
        }
        for loss, (column, unit) in SUMS.items():
            row[loss] = sum(row[column]) / unit.sum()
        names = "delta_ce kl_score ce_score ce_score_mean processor seconds objective_gap shared"
        row |= {column: RNG.uniform() for column in names.split()}
        rows.append(row | ({"own_certificate": 1e-7} if codes == "lasso" else {}))
    return rows


@fixture(scope="module")
def nats(tmp_path_factory):
    rows = nats_rows()
    folder = Folder(tmp_path_factory.mktemp("nats"))
    saes = [SimpleNamespace(name=name) for name in ("mine", "samples")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save", keep)
        patch.setattr(figures, "loss_by_cost", lambda rows: None)
        patch.setattr(measure.measure, "put_back", lambda *_: rows)

        def given(_, sae, *__):
            return [row for row in rows if row["dictionary"] == sae.name]

        patch.setattr(measure.measure, "priced", given)
        shown = measure.report(measure.nats(folder / "nats", None, saes, (7,), (), ()))
        shown += measure.costs(folder / "costs", None, saes, 7, ["own", "mp"])
    return SimpleNamespace(rows=rows, shown=shown, folder=folder)


def test_nats_and_costs_have_what_the_rows_say(nats):
    rows = {(row["dictionary"], row["codes"]): row for row in nats.rows}
    held(lines_of(f"{nats.folder}/nats/summary.csv"), [*map(flat, nats.rows)])
    priced = [flat(row) for row in nats.rows if row["dictionary"] != "dead"]
    held(lines_of(f"{nats.folder}/costs/summary.csv"), priced)
    priced.sort(key=lambda row: row["products"] or np.inf)
    wanted = []
    own = rows["mine", "own"]
    for loss, (column, unit) in SUMS.items():
        top = rows["mine", "omp" if loss == "fvu" else "screened"]
        last = rows["samples", "screened"] if loss != "fvu" else top
        codes = {
            "own": own,
            "kept": rows["mine", "own_refit"],
            "proposed": rows["mine", "proposed"],
        }
        losses = {
            name: sums(row, column)
            for name, row in (codes | {"best": top, "last": last}).items()
        }
        losses = {name: each - CLEAN * (loss == "ce") for name, each in losses.items()}
        about = {
            "loss": loss,
            "level": 7.4,
            "l0": own["l0"],
            "dictionary": "mine",
            "support_codes": "own_refit",
            "best": last["dictionary"],
            "own_best_codes": top["codes"],
            "best_codes": last["codes"],
        }
        wanted.append(split(unit, True, **losses) | about)
    held(lines_of(f"{nats.folder}/nats/splits.csv"), wanted)
    lost, scores, _, *costs = nats.shown
    labels = {"kl": "KL", "ce": "ΔCE", "fvu": "FVU"}
    shown = []
    for line in wanted:
        names = "dictionary", "best", "own_best_codes"
        cells = (
            halves(line)
            | {name: line[name] for name in names}
            | {"l0_mean": line["l0"]}
        )
        if line["best"] == "mine":
            del cells["dictionary_part_mean"]
        shown.append(cells | {"loss": labels[line["loss"]]})
    held(lost.lines, shown)
    assert (
        "over 11 documents; left out, since their encoders are dead: dead" in lost.title
    )
    assert (
        scores.title
        == f"Nats above a clean loss of {CLEAN.sum() / TOKENS.sum():.3f} (zeros 9.250, the mean 7.125)"
    )
    every = sorted(nats.rows, key=lambda row: (row["dead"], row["kl"]))
    held(bare(scores.lines), chosen(every, scores.columns))
    for table, name in zip(costs, ("mine", "samples"), strict=True):
        there = [row for row in priced if row["dictionary"] == name]
        held(bare(table.lines), chosen(there, table.columns))
    golden("nats", "\n\n".join(map(str, nats.shown)))
