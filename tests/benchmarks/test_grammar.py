"""What holds of every study by its declaration alone, how a command line changes it, and any
learner crossed with any encoder by name.
"""

import itertools
import json
import pathlib
import re
import sys
import types
from dataclasses import replace

from pytest import mark, raises

from benchmarks import options, studies
from benchmarks.harness import learners, main
from benchmarks.harness.methods import method_of
from benchmarks.harness.outcome import is_comparable
from benchmarks.harness.preset import PRESETS, Preset
from benchmarks.studies import attribution, warmstart_encoder
from sae_gap import Method, Models, Setting, Store, catalogue
from sae_gap.analysis import published
from sae_gap.core import describe
from sae_gap.encoders import OMP, Lasso, OnSupport, ScreenedPursuit
from sae_gap.learners import Amortised, DLFista, Oracle, Random, SparseAutoencoder
from sae_gap.storage import key
from sae_gap.study import PROTOCOLS, jobs
from tests import tiny
from tests.conftest import flags_of, refused, succeed
from tests.study.test_models import OnHost

STUDIES = studies.found()
RECORD = pathlib.Path(__file__).with_name("studies.json")


def methods(name, preset="paper", source=None, **changes):
    one = STUDIES[name]
    sizes = replace(one.presets.get(preset, one.presets["quick"]), **changes)
    return one.methods(source or sizes.sources()[0], sizes)


def read(name, *arguments):
    """What a study reads from a command line."""
    kind = main.options_of(STUDIES[name])
    return main.read(STUDIES[name], options.parse(kind, [name, *arguments]))


def digests(name):
    """What its presets make of a study in each protocol: the first source and all methods."""
    found = {}
    for preset, protocol in itertools.product(STUDIES[name].presets, PROTOCOLS):
        sizes = replace(STUDIES[name].presets[preset], protocol=protocol)
        source = sizes.sources()[0]
        parts = [
            [
                one.name,
                one.family,
                one.at,
                describe(one.learner),
                describe(one.encoder),
                one.row,
            ]
            for one in STUDIES[name].methods(source, sizes)
        ]
        text = json.dumps([source.asdict(), parts], sort_keys=True)
        found[f"{preset} {protocol}"] = key([re.sub(r'"version": \d+', "", text)])
    return found


@mark.parametrize("name", STUDIES)
def test_a_study_has_the_methods_that_its_stored_rows_are_known_by(name):
    """Where they are meant to change, `python -m tests.benchmarks.test_grammar` records them anew;
    a study that was just dropped in passes.
    """
    assert json.loads(RECORD.read_text()).get(name) in (None, digests(name))


def test_every_stored_fit_keeps_the_models_that_any_study_scores():
    for name, protocol in itertools.product(STUDIES, PROTOCOLS):
        for method in methods(name, protocol=protocol):
            assert {*method.at} <= {*method.learner.snapshots, method.learner.num_steps}


def test_only_what_the_paper_published_is_held_against_it():
    for name in {line["study"] for line in published.published()}:
        assert is_comparable(read(name, "--protocol=paper", "--num_latents=50,70"))


@mark.parametrize("name", STUDIES)
def test_the_weight_of_the_command_line_is_that_of_codes_and_of_what_they_are_held_against(
    name,
):
    found = read(name, "--preset=smoke", "--lam=0.3")
    encoders = [one.encoder for one in found.study.methods(found.study.sources[0])]
    # Where λ varies, own codes are held against the optimum at the suite's usual one.
    shares = (
        attribution.WEIGHTS if name in ("attribution", "training_budget") else (1.0,)
    )
    weights = {one.lam for one in encoders if isinstance(one, Lasso)}
    assert weights == {0.3 * share for share in shares}
    assert (
        found.preset.lam
        == found.study.lam
        == (0.1 if name == "lambda_sensitivity" else 0.3)
    )


def test_options_of_a_preset_are_those_of_its_learners():
    preset = Preset(families={"num_slots": 8}, sae_steps=9)
    assert learners.pruned(preset).num_slots == learners.families(preset).num_slots == 8
    # Of four steps each, whole epochs.
    source = Setting(20, 3, 8 * SparseAutoencoder.batch_size)
    assert learners.tuned_sae("topk", source, preset).num_steps == 3
    many = Setting(100, 10, 1_000_000, stream=True)
    found = {
        one.name: one.learner for one in methods("dictionary_challenge", "quick", many)
    }
    assert (found["sae_topk"].num_steps, found["sae_topk"].renormalise_every) == (4, 1)
    found = methods("dictionary_challenge", visits=7, peer_steps=9, lam=0.3)
    found = {one.name: one.learner for one in found}
    assert found["online_dl"].visits == found["online_dl_families"].base.visits == 7
    assert (found["spams"].lam, found["sklearn"].num_steps) == (0.3, 9)


# Two values of each flag that are not the default, beside those with which a run goes.
FLAGS = {
    "vary_latents": "num_latents=40/50 sparsity=2/4 num_samples=100/300 input_dim=9/10 "
    "noise_db=20/none,20 width=30/40 seeds=3/4 stream=true lam=0.2/0.3 protocol=paper epochs=6/7 "
    "rounds=6/7 visits=5/6 blocks=3/4 methods=raw/topk:omp,raw world=correlated/synthsae",
    "worlds": "law=roots=1/most=0.3",
    "dictionary_challenge": "sae_steps=300/400 peer_steps=12/13",
    "encoder_budget": "dictionary=dl_fista/online_dl",
    "phase_transition": "ratios=1/2,3",
    "warmstart_encoder": "tuned=relu/topk",
    "lambda_sensitivity": "lam=0.2/0.3",
}
# How and where a run goes, and files.
OTHERS = (
    "preset shard dry_run data world_file distributed coordinator num_processes process_id "
    "minutes measured"
)


def test_each_value_of_a_flag_is_another_run():
    tested = {*OTHERS.split(), "models_dir", "results_dir"}
    for name, table in FLAGS.items():
        given = dict(pair.split("=", 1) for pair in table.split())
        tested |= {*given}
        flags = [
            f"--{flag}={value}" for flag in given for value in given[flag].split("/")
        ]
        found = set()
        for flag in ("--methods=all", *flags):
            every = () if "methods" in flag else ("--methods=all",)
            study = read(name, "--preset=smoke", flag, *every).study
            found.add(frozenset(line.key for job in jobs(study) for line in job.lines))
        assert len(found) == 1 + len(flags), name
    assert {flag for name in STUDIES for flag in flags_of(name)} - {"help"} <= tested


@mark.parametrize(
    ("flags", "folder"),
    [
        # Where results go, and how they are made, decide nothing that a page shows.
        ("--results_dir=x --models_dir=y --shard=1/2 --dry_run", ""),
        ("--seeds=0 --preset=smoke", "/preset=smoke_seeds=0"),
        ("--methods=topk:omp", "/methods=topk-omp"),
        ("--noise_db=none,-5.0", "/noise_db=none,-5.0"),
        # What is long is cut, and told apart by a hash.
        (f"--seeds={','.join(map(str, range(99)))}", None),
    ],
)
def test_a_page_has_a_folder_for_each_choice_of_flags(flags, folder):
    found = read("vary_latents", *flags.split())
    path = str(found.page).removeprefix(str(found.store.folder))
    assert (
        path == folder if folder is not None else len(path) < 101 and path[-17] == "-"
    )


def test_sources_are_the_cells_of_a_grid_or_vary_one_size_at_a_time():
    found = Preset((20, 30), (3,), (200,), width=(None, 40), seeds=(0, 1)).sources()
    assert found[0] == Setting(20, 3, 200, 0) and found[2] == Setting(
        20, 3, 200, 0, width=40
    )
    assert len(found) == 8 == len(set(found)) and found[-1] == Setting(
        30, 3, 200, 1, width=40
    )
    found = attribution.OneAtATime((9, 7), (3, 2), (40, 50), seeds=(4, 5)).sources()
    cells = [(9, 3, 40), (7, 3, 40), (9, 3, 50), (9, 2, 40)]
    assert found == [Setting(*cell, seed) for cell in cells for seed in (4, 5)]
    dims = {
        source.input_dim
        for source in read("phase_transition", "--preset=smoke").study.sources
    }
    # c 3 ln(20 / 3) for c = 1, 2, 3.
    assert dims == {6, 12, 18}


@mark.parametrize(
    ("flags", "num_latents", "width"),
    [
        ("--world=hedging", 2, 1),
        ("--world=absorption --width=3", 2, 3),
        ("--world=correlated --num_latents=30", 30, None),
        ("--num_latents=40 --width=80", 40, 80),
        ("--seeds=0", 64, None),
    ],
)
def test_a_world_has_its_own_size_unless_one_is_given(flags, num_latents, width):
    sources = read("worlds", "--preset=smoke", *flags.split()).study.sources
    assert {(one.num_latents, one.width) for one in sources} == {(num_latents, width)}


# Of options that are wrong alone, tests/benchmarks/test_cli.py.
BAD_FLAGS = {
    "amortisation_gap --num_latents=3": "sparsity must be below num_latents",
    "amortisation_gap --width=3": "sparsity must be below width",
    "amortisation_gap --input_dim=21": "input_dim 21 is above num_latents 20",
    "amortisation_gap --num_latents=none": "--num_latents=none is for a world of its own size",
    "amortisation_gap --world_file=there --law=roots=2": "--law and --world_file exclude each",
    "amortisation_gap --data=x.npz --noise_db=20": "--noise_db and --data exclude each other",
    "amortisation_gap results": "'results' is not a flag",
    "amortisation_gap --dictionary=oracle": "Unknown command line flag 'dictionary'",
    "encoder_budget --width=40": "--width is of a dictionary that is learned",
    "encoder_budget --dictionary=nope": "'nope' is no method of this study, no learner (",
    "phase_transition --ratios=9": "no setting is left of these sizes",
    "worlds --world=heaven": "world must be one of absorption, correlated",
    "worlds --law=most=1.5": "most must be a finite number above 0 and below 1",
    "worlds --data=mine.npz": "data",
    "vary_latents --law=roots=2": "give --world=synthsae with it",
    "vary_latents --world=synthsae --sparsity=3": "--sparsity and --world exclude",
}


@mark.parametrize("flag", BAD_FLAGS)
def test_a_bad_flag_is_refused_in_one_sentence(flag):
    name, *flags = flag.split()
    with raises(ValueError, match=rf"^[^\n]*{re.escape(BAD_FLAGS[flag])}[^\n]*\.$"):
        read(name, "--preset=smoke", *flags)


def test_the_default_needs_no_other_package_and_an_absent_one_is_one_sentence(
    monkeypatch, tmp_path
):
    for module in ("spams", "sklearn.decomposition"):
        monkeypatch.setitem(sys.modules, module, None)
    options = ("dictionary_challenge", "--preset=smoke", f"--results_dir={tmp_path}")
    out = succeed(*options, "--dry_run")
    assert ": spams: " not in out and ": online_dl: " in out
    refused("spams needs spams", *options, "--methods=spams,fista_oracle")


def test_costs_count_products_with_the_dictionary():
    size = {
        "num_latents": 40,
        "input_dim": 20,
        "sparsity": 3,
        "family": "sae",
        "dictionary": "tuned_topk",
    }
    fista = {"inference": "fista", "iterations": 5}
    pursuit = ScreenedPursuit(3, screens=3).flops(20, 40)
    cases = [
        ({"inference": "own"}, ("own", 1)),
        (fista | {"start": "cold"}, ("cold", 9)),
        (fista | {"start": "warm"}, ("warm", 11)),
        (fista | {"start": "cold", "iterations": 0}, None),
        ({"inference": "screened_pursuit", "screens": 3}, ("screens", pursuit / 1_600)),
        ({"inference": "lasso"}, None),
        (fista | {"start": "cold", "family": "oracle"}, None),
        (fista | {"start": "warm", "dictionary": "mp"}, ("warm", 3 + 10)),
    ]
    found = warmstart_encoder.by_products([size | row for row, _ in cases])
    wanted = [place for _, place in cases if place]
    assert [(row["codes"], row["products"]) for row in found] == wanted


def test_a_model_that_several_jobs_need_is_counted_with_the_first(tmp_path):
    base = OnHost(num_steps=1)
    kinds = [base, OnHost(num_steps=2, base=base), base, OnHost(num_steps=3)]
    listed = [
        Method(f"m{place}", "", learner, Lasso()) for place, learner in enumerate(kinds)
    ]
    run = types.SimpleNamespace(
        study=tiny.make(methods=listed), store=Store(tmp_path), models=Models(tmp_path)
    )
    said = main.plan(run).splitlines()
    # Methods of one learner are one job.
    counts = [line.rpartition(": ")[2] for line in said[:-1]]
    assert counts == [f"0/{number} rows there, 2 to fit" for number in (4, 2, 2)]
    assert said[-1] == "3 jobs, 6 models to fit"


SOURCE = Setting(20, 3, 200)
# Of a weight that is not the default.
SMOKE = replace(PRESETS["smoke"], lam=0.2)


def made(name, study="amortisation_gap", preset=SMOKE):
    preset = type(STUDIES[study].presets["smoke"])(**vars(preset))
    return method_of(name, STUDIES[study].methods(SOURCE, preset), SOURCE, preset)


TOPK = catalogue.make_encoder("topk", sparsity=3)
SAE = catalogue.paper_sae("topk", sparsity=3, num_steps=5)
TUNED = catalogue.tuned_sae(
    "gated", sparsity=3, input_dim=SOURCE.input_dim, num_steps=5
)
COLD = DLFista(0.2, num_steps=5)
ON_COLD = Amortised((TOPK,), 0.2, base=COLD, num_steps=5)
# By its own loss, as its batches leave a threshold behind.
BATCHTOPK = catalogue.make_encoder("batchtopk", sparsity=3)
BY_BATCHES = SparseAutoencoder(BATCHTOPK, base=Oracle(), frozen=True, num_steps=5)
# The learner, the encoder, the family and the name of the inference of each.
CROSSINGS = {
    "oracle:omp": (Oracle(), OMP(3), "oracle", "omp"),
    # A learner alone has the certified lasso.
    "random": (Random(), Lasso(0.2), "baseline", "lasso"),
    # A dictionary that the study has is the study's.
    "topk:omp": (SAE, OMP(3), "frozen", "omp"),
    # An SAE has its own codes, and its encoder is not trained twice.
    "topk:topk": (SAE, SAE.encoder, "frozen", "own"),
    "sae_gated": (TUNED, TUNED.encoder, "sae", "own"),
    "gated": (TUNED, Lasso(0.2), "frozen", "lasso"),
    "topk:support": (SAE, OnSupport(TOPK, 0.2), "frozen", "support"),
    # An encoder with parameters is trained on the dictionary.
    "oracle:batchtopk": (BY_BATCHES, BATCHTOPK, "oracle", "batchtopk"),
    "dl_fista:topk": (ON_COLD, ON_COLD.members[0], "dictionary_learning", "topk"),
}


@mark.parametrize("name", CROSSINGS)
def test_a_crossing_is_the_learner_with_the_encoder_at_the_sparsity_of_the_source(name):
    method = made(name)
    inference = method.coordinates["inference"]
    found = method.learner, method.encoder, method.family, inference
    assert found == CROSSINGS[name] and method.name == name


def test_options_of_the_study_and_the_protocol_are_those_of_its_crossings():
    assert made("topk:omp", "dictionary_challenge").learner.num_steps == 50
    # Cold, and not what goes on from another dictionary.
    assert made("dl_fista:omp", "warmstart_decoder").learner == COLD
    published = made("random:lasso", preset=replace(SMOKE, protocol="paper"))
    assert published.encoder.iterations == 100
    # Names run in the order of the study, and crossings behind them.
    found = read("amortisation_gap", "--methods=oracle:omp,fista_oracle,linear_probe")
    assert found.names == ["linear_probe", "fista_oracle", "oracle:omp"]


def test_methods_of_other_studies_run_in_every_study():
    names = "linear_probe raw sae_topk online_dl_families fista_oracle spams batchtopk"
    for name, study in itertools.product(names.split(), STUDIES):
        method = made(name, study)
        assert method.name == name and getattr(method.learner, "lam", 0.2) == 0.2
    for name in {*catalogue.encoders()} - {"lookup", "linear"}:
        assert made(f"topk:{name}").name == f"topk:{name}"


@mark.parametrize(
    "name",
    [
        "nope",
        "sae_nope",
        "sae_online_dl",
        "topk:nope",
        "surgery",
        ":omp",
        "oracle:support",
    ],
)
def test_what_cannot_be_made_is_one_sentence(name):
    with raises(ValueError, match=r"^[^\n]*\.$"):
        made(name)


if __name__ == "__main__":
    RECORD.write_text(
        json.dumps({name: digests(name) for name in STUDIES}, indent=1) + "\n"
    )
