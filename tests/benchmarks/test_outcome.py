"""The parts of a study's outcome, and its declarations beside a table written by hand."""

import pathlib
from dataclasses import replace
from types import SimpleNamespace

from pytest import mark

from benchmarks.harness import outcome
from sae_gap.storage import CELL as SIZES
from tests.benchmarks.test_grammar import STUDIES, read

# A value of each option that is not the published one.
OTHER = {
    "lam": 0.2,
    "seeds": (0,),
    "epochs": 7,
    "rounds": 7,
    "blocks": 7,
    "input_dim": (9,),
    "noise_db": (20.0,),
    "width": (7,),
    "stream": True,
    "world": "synthsae",
    "world_file": "there",
    "protocol": "strict",
}


@mark.parametrize("name", OTHER)
def test_each_condition_of_the_paper_decides_whether_a_run_is_held_against_it(name):
    run = read("vary_latents", "--protocol=paper")
    assert outcome.is_comparable(run)
    preset = SimpleNamespace(**{**vars(run.preset), name: OTHER[name]})
    assert not outcome.is_comparable(run._replace(preset=preset))
    options = replace(run.options, data="x.npz")
    assert not outcome.is_comparable(run._replace(options=options))


def test_refined_codes_are_left_out_where_frozen_ones_are_certified_too():
    lines = [
        {"method": name}
        for name in ("frozen_topk", "refined_topk", "refined_mp", "sae_topk")
    ]

    def shown(*names, protocol="strict"):
        run = SimpleNamespace(names=names, preset=SimpleNamespace(protocol=protocol))
        return [line["method"] for line in outcome._distinct(run, lines)]

    assert shown("frozen_topk") == ["frozen_topk", "refined_mp", "sae_topk"]
    assert len(shown("sae_topk")) == len(shown("frozen_topk", protocol="paper")) == 4


CELL = {"num_latents": 20, "sparsity": 3, "num_samples": 9, "input_dim": 8}


@mark.parametrize(
    ("first", "second", "found"),
    [
        ({}, {}, []),
        ({"noise_db": None, "stream": False}, {}, []),
        ({"noise_db": 20.0}, {"noise_db": 20.0}, ["noise_db"]),
        ({"stream": True}, {}, ["stream"]),
        ({"world": "a"}, {"world": "a"}, []),
        ({"world": "a"}, {"world": "b"}, ["world"]),
        ({"width": 30}, {}, ["width"]),
        ({"input_dim": 9}, {}, ["input_dim"]),
        # Another size has its own dimension.
        ({"input_dim": 9, "num_latents": 30}, {}, []),
        ({"stream": True, "world": "a", "width": 5}, {}, ["stream", "world", "width"]),
    ],
)
def test_conditions_are_what_tells_lines_apart(first, second, found):
    rows = [CELL | first, CELL | second]
    assert outcome._conditions(rows, ()) == found
    assert outcome._conditions(rows, found[:1]) == found[1:]


def test_headings_name_a_split_only_beside_the_other_and_columns_that_are_there():
    lines = [
        {"mcc_id_mean": 0.5, "mcc_ood_mean": 0.5, "mse_id_mean": None, "l0_id": 3},
        {},
    ]
    names = ["mcc_id", "mcc_ood", "mse_id", "l0_id"]
    found = outcome._headings(names, lines)
    assert [*found] == ["mcc_id", "mcc_ood", "l0_id"]
    assert found["mcc_id"].endswith(" ID") and found["mcc_ood"].endswith(" OOD")
    assert not outcome._headings(["mcc_id"], lines)["mcc_id"].endswith(" ID")


def test_an_answer_has_a_line_for_each_sae_of_one_size():
    one = {
        "method": "sae_topk",
        "units": 3,
        "total": 0.5,
        "rest": 0.1,
        "amortisation_part": 0.3,
        "dictionary_part": 0.1,
    }
    question, line, other = outcome._answer(
        [one, one | {"method": "sae_mp", "total": 0.1}]
    ).splitlines()[-3:]
    assert (line, other) == (
        "- TopK SAE: 0.400, 75 % encoder, 25 % dictionary",
        "- MP SAE: 0.000",
    )
    assert outcome._answer([]) == outcome._answer([one, one]) == "" == question


def declared(name):
    """What a study declares, as lines of text."""
    one = STUDIES[name]
    lines = [
        f"{name}: {one.title}",
        f"varies {' '.join(one.varies)}; slow {' '.join(one.slow)}",
    ]
    lines += [f"table {title}: {names}" for title, names in one.tables.items()]
    for stem, each in one.figures.items():
        told = " ".join(f"{key}={value}" for key, value in each.options.items())
        lines.append(f"figure {stem}: {each.name} {told}; cells {' '.join(each.cells)}")
    for preset, sizes in one.presets.items():
        sources = [source.asdict() for source in sizes.sources()]
        values = {
            key: [*dict.fromkeys(str(each.get(key)) for each in sources)]
            for key in sources[0]
        }
        told = " ".join(
            f"{key}={','.join(each)}"
            for key, each in values.items()
            if len(each) > 1 or key in SIZES
        )
        lines.append(f"{preset}: {len(sources)} sources, {told}; λ {sizes.lam:g}")
    return "\n".join(" ".join(line.split()) for line in lines) + "\n"


def test_studies_declare_what_the_table_says():
    known = pathlib.Path(__file__).with_name("studies.txt").read_text().split("\n\n")
    found = {name: declared(name).strip() for name in STUDIES}
    for text in known:
        assert found.pop(text.partition(":")[0]) == text.strip()
    assert not found
