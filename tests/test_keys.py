"""Whatever decides a stored number is in its key, at every door: one input is changed at a time,
and nothing is measured.
"""

import dataclasses
import itertools
from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
from numpy.random import default_rng
from pytest import mark, param, raises

from benchmarks.real import measure as binary
from benchmarks.real import probe_real, train_real
from sae_gap import Setting, Store, World, catalogue, measure, open_activations
from sae_gap.core import Model, identity
from sae_gap.data import HeldOut, Recording
from sae_gap.encoders import LISTA, Affine, TopK
from sae_gap.learners import Lista, Oracle
from sae_gap.lm import OnNetwork, Recorded, Texts, recording
from sae_gap.measure import learner_at, methods_of, study_of
from sae_gap.metrics import nats
from sae_gap.probing import Probed, Tokens, concepts
from sae_gap.saes import SAE
from sae_gap.storage import digests
from sae_gap.study import Method, Models, Study, jobs, runner

ROWS = 400
DIM = 8
WIDTH = 12
RNG = default_rng(0)
X = RNG.normal(size=(ROWS, DIM)).astype(np.float32)
X[3] *= 100
ATOMS = RNG.normal(size=(DIM, WIDTH)).astype(np.float32)
DOCUMENTS = np.arange(ROWS) // 10


class StoppedError(Exception):
    """Nothing is computed from here on."""


def stop(*_, **__):
    raise StoppedError


def data(row=None, document=None):
    """The rows and their documents; one of either may be another."""
    x = X.copy()
    documents = DOCUMENTS.copy()
    if row is not None:
        x[row, 2] = np.nextafter(x[row, 2], 9)
    if document is not None:
        documents[document] = 7
    return x, documents


def write(folder, row, document):
    """Writes them as files. The rows are written once if they stay, as their time tells."""
    x, documents = data(row, document)
    if row is not None or not (folder / "x.npy").exists():
        np.save(folder / "x.npy", x)
    np.save(folder / "x.documents.npy", documents)
    return str(folder / "x.npy")


def sae(k=2, scale=1.0, signed=False, encode=None):
    weight = Affine(jnp.asarray(ATOMS), jnp.zeros(WIDTH))
    model = Model(jnp.asarray(scale * ATOMS), jnp.zeros(DIM), weight, encode or TopK(k))
    return replace(SAE.of_model(model, name="mine"), signed=signed)


# How an SAE is made, so that none is as the tests are collected.
USUAL: dict = {}


def function(share):
    def encode(model, signals):
        return share * jnp.maximum(signals @ model.dictionary, 0)

    return encode


def function_on_rows(share):
    """It has no codes of any other rows."""

    def encode(model, signals):
        return jnp.isin(signals[:, :1], X[:, :1]) * function(share)(model, signals)

    return encode


def class_of_ones_own(share):
    class Mine(TopK):
        def __call__(self, model, signals):
            return share * super().__call__(model, signals)

    return Mine(2)


def keys_of(plan, monkeypatch):
    """The keys of a measurement: of the encoders' own codes, of others, and of controls."""
    keys = {}

    def run(study, *_, **__):
        lines = [line for job in jobs(study) for line in job.lines]
        for line in lines:
            kind = "own" if line.method.name.startswith("own") else "coded"
            kind = "control" if line.method.family == "control" else kind
            kind = "curve" if "times" in line.method.row else kind
            keys.setdefault(kind, []).append(line.key)
        share = [int(line.key[:6], 16) / 2**24 for line in lines]
        told = [{"l0": 1 + number, "dead": False} for number in share]
        return [line.columns | row for line, row in zip(lines, told, strict=True)]

    monkeypatch.setattr(runner, "run", run)
    measure.run(plan, Store("nowhere"), show_progress=False)
    return keys


def of_run(
    folder, monkeypatch, row=None, document=None, held_out=None, given=USUAL, **options
):
    x, documents = data(row, document)
    source = HeldOut(open_activations(x, documents=documents))
    if held_out is not None:
        held = held_out or open_activations(X[:100] + 1)
        source = replace(source, held_out=held)
    rows = {
        name: options.pop(name)
        for name in ("seed", "samples", "keep_outliers")
        if name in options
    }
    plan = measure.Plan([sae(**given)], replace(source, **rows), **options)
    return keys_of(plan, monkeypatch)


def of_measure_sae(folder, monkeypatch, row=None, document=None, atom=0, **flags):
    np.save(folder / "D.npy", ATOMS + 1e-3 * atom)
    given = {
        "activations": write(folder, row, document),
        "dictionary": (str(folder / "D.npy"),),
    }
    options = binary.MeasureOptions(**given, **{"controls": ("random",)} | flags)
    return keys_of(binary.plan_of(options)[0], monkeypatch)


def of_train_real(folder, row=None, document=None, **flags):
    given = {"activations": write(folder, row, document), "results_dir": str(folder)}
    usual = {"methods": ("topk",), "width": WIDTH, "sparsity": 2}
    options = train_real.TrainOptions(**given, **usual | flags)
    source = train_real.source_of(options)
    study = train_real.study_for(options, [source], options.methods)
    (job,) = jobs(study)
    fit = Models(folder).folder(job.learner, job.sources[0])
    return {"row": [line.key for line in job.lines], "fit": fit.name}


def of_probe_real(
    folder,
    monkeypatch,
    row=None,
    topic=None,
    word=None,
    seed=0,
    l0=2.0,
    rows=ROWS,
    given=USUAL,
    other="",
):
    monkeypatch.setattr(concepts, "FEWEST", 2)
    rng = default_rng(1)
    texts = np.array(
        [f"{' ' * rng.integers(2)}{rng.choice([*'abcdefghij'])}" for _ in X]
    )
    topics = np.where(DOCUMENTS % 2, "x", "y")
    if word is not None:
        texts[word] = "k" if texts[word].startswith(" ") else " k"
    if topic is not None:
        topics[np.isin(DOCUMENTS, topic)] = "x"
    held = open_activations(data(row)[0], documents=DOCUMENTS)
    tokens = Tokens(texts, DOCUMENTS, topics)
    x, concepts_of = probe_real.of_pairs(tokens, held, ["topic:x+space"], (seed,), rows)
    ((name, labelled),) = concepts_of.items()
    split = labelled.splits[seed]
    if other in split._fields:
        part = {side: numbers[::-1] for side, numbers in getattr(split, other).items()}
        labelled = labelled._replace(splits={seed: split._replace(**{other: part})})
    labelled = labelled._replace(has=labelled.has ^ (other == "labels"))
    options = probe_real.ProbeOptions(l0=l0, controls=("none",))
    source = Probed(held, held_out=open_activations(x), concepts={name: labelled})
    chosen = study_of(
        "probe_real", [source], probe_real.methods(options, [sae(**given)], DIM)
    )
    keys = {}
    for line in (line for job in jobs(chosen) for line in job.lines):
        kind = line.method.name if line.method.name[:3] in ("own", "act") else "coded"
        keys.setdefault(kind, []).append(line.key)
    return keys


def of_downstream(
    folder,
    row=None,
    document=None,
    token=None,
    model="lm",
    width=WIDTH,
    context=8,
    tokens=15,
    given=USUAL,
    level=2.0,
    control="random",
    **flags,
):
    """The source, and the keys of codes of an SAE and of a control."""
    numbers = np.arange(ROWS) % 50
    positions = np.arange(ROWS) % 10 % context
    if token is not None:
        numbers[token::7] = 51
    about = (
        folder,
        "lm",
        model,
        context,
        (1,),
        "float32",
        numbers,
        DOCUMENTS,
        positions,
    )
    recorded = Recorded(*about, tuple("d" * 40), None)
    lm = SimpleNamespace(identity=model)
    x, named = data(row, document)
    usual = {"layer": 1, "first": 2, "documents_seed": 0, "seed": 0, "keep": False}
    chosen = usual | flags
    rows = HeldOut(
        open_activations(x, documents=named),
        width,
        keep_outliers=chosen.pop("keep"),
        split_seed=0,
    )
    source = OnNetwork(recorded, lm, rows=rows, tokens=tokens, **chosen)

    def keys(learner):
        methods = [*methods_of(learner, ("own", "lasso", "weighted"), level)]
        study = Study(
            "downstream", (source,), methods, lam=None, metrics=(nats.METRIC,)
        )
        return [line.key for job in jobs(study) for line in job.lines]

    learner = learner_at(control, width, level, DIM)
    texts = digests.key(source.asdict())
    return {"texts": texts, "score": keys(sae(**given).given), "control": keys(learner)}


def of_record(
    folder, monkeypatch, text=None, name=None, topic=None, model="lm", **options
):
    about = {}
    monkeypatch.setattr(
        recording, "_agreed", lambda _, given, *__: about.update(given) or stop()
    )
    texts = [
        ["the cat", text or "sat", "on the mat"],
        ["a", "b", name or "c"],
        ["x", topic, "y"],
    ]
    lm = SimpleNamespace(
        name="lm",
        identity=model,
        model=SimpleNamespace(num_blocks=3, context=64),
        tokenise=lambda given, context: [
            np.array([*each.encode()], np.int32) for each in given
        ],
    )
    with raises(StoppedError):
        recording.record(
            lm, Texts(*map(tuple, texts)), folder, (1,), **{"context": 4} | options
        )
    return {"recording": digests.key(about)}


# Of each door: what is changed, and which keys change with it.
CHANGES = {
    of_run: {
        ("own", "coded"): [
            {"row": 137},
            {"row": 399},
            {"document": 5},
            {"seed": 1},
            {"samples": 20},
            {"keep_outliers": True},
            {"held_out": 0},
            {"held_out": 0.2},
            {"given": {"k": 1}},
            {"given": {"scale": 2.0}},
            {"given": {"encode": function(0.5)}},
        ],
        ("coded",): [{"given": {"signed": True}}],
        ("curve",): [{"l0": 1.0}],
    },
    of_measure_sae: {
        ("coded", "control"): [
            {"row": 137},
            {"document": 5},
            {"seed": 1},
            {"samples": 20},
            {"outliers": "keep"},
            {"atom": 1},
            {"l0": (0.7,)},
            {"held_out": "0.2"},
        ],
        ("control",): [{"controls": ("samples",)}],
    },
    of_train_real: {
        ("row", "fit"): [
            {"row": 137},
            {"document": 5},
            {"seed": 1},
            {"width": 13},
            {"sparsity": 3},
            {"epochs": 9},
            {"batch_size": 128},
            {"outliers": "keep"},
            {"methods": ("relu",)},
        ],
        ("row",): [{"samples": 20}],
    },
    of_probe_real: {
        ("activations", "own", "coded"): [
            {"row": 137},
            {"topic": 4},
            {"word": 51},
            {"seed": 1},
            {"rows": 150},
            {"other": "train"},
            {"other": "test"},
            {"other": "labels"},
        ],
        ("coded",): [{"l0": 3.0}],
        ("own", "own_refit"): [{"given": {"k": 1}}],
    },
    of_downstream: {
        ("texts", "score", "control"): [
            {"token": 3},
            {"model": "other"},
            {"context": 6},
            {"tokens": 25},
            {"row": 137},
            {"document": 5},
            {"layer": 2},
            {"first": 3},
            {"keep": True},
            {"width": 13},
            {"documents_seed": 1},
            {"seed": 1},
        ],
        ("control",): [{"control": "samples"}, {"control": "online_dl"}],
        ("score",): [{"given": {"k": 1}}, {"given": {"scale": 2.0}}],
    },
    of_record: {
        ("recording",): [
            {"text": "sits"},
            {"name": "d"},
            {"topic": "y"},
            {"model": "other"},
            {"seed": 1},
            {"tokens": 17},
            {"context": 5},
            {"dtype": "float32"},
        ]
    },
}
CASES = [
    param(door, {}, parts, change, id=f"{door.__name__[3:]}-{'-'.join(change)}")
    for door, changed in CHANGES.items()
    for parts, changes in changed.items()
    for change in changes
]
# Two encoders of one name.
CASES += [
    param(
        door,
        {"given": {"encode": make(1)}},
        ("score" if door is of_downstream else "own",),
        {"given": {"encode": make(2)}},
        id=f"{door.__name__[3:]}-{make.__name__}",
    )
    for door, make in [
        (of_run, function_on_rows),
        *itertools.product((of_run, of_downstream), (function, class_of_ones_own)),
    ]
]


@mark.parametrize(("door", "usual", "parts", "change"), CASES)
def test_another_input_is_another_key(
    door, usual, parts, change, tmp_path, monkeypatch
):
    patch = (
        {"monkeypatch": monkeypatch}
        if "monkeypatch" in door.__code__.co_varnames
        else {}
    )
    before, again, after = (
        door(tmp_path, **patch, **each) for each in (usual, usual, change)
    )
    assert before == again and ("fit" in parts or before.get("fit") == after.get("fit"))
    for part in parts:
        assert not {*map(str, np.ravel(before[part]))} & {
            *map(str, np.ravel(after[part]))
        }


# Of each field of a source two values that are not the default.
SETTING = Setting(100, 3, 200)
WORLD = World(num_latents=400, input_dim=20, roots=1, num_samples=400)
LAW = {
    "roots": (2, 4),
    "branching": (2, 3),
    "depth": (1, 2),
    "exponent": (0.4, 0.6),
    "most": (0.3, 0.5),
    "least": (1e-3, 2e-3),
    "rank": (3, 4),
    "correlation": (0.2, 0.3),
    "loudest": (6.0, 7.0),
    "softest": (3.0, 2.0),
    "spread": ((0.5, 0.4), (0.4, 0.5)),
    "lognormal": (0.1, 0.2),
    "dense": (1, 2),
    "antipodal": (1, 2),
    "drift": (0.1, 0.2),
    "exclusive": (False,),
    "scale_children": (False,),
    "orthogonal_steps": (9, 10),
    "bias": (0.1, 0.2),
}
SIZES = {
    "num_latents": (410, 420),
    "input_dim": (23, 24),
    "seed": (1, 2),
    "width": (30, 40),
}
SIZES |= {"num_samples": (404, 408), "noise_db": (20.0, 30.0)}
ACTIVATIONS = open_activations(X, documents=DOCUMENTS)
SCORED = {"samples": (20, 30), "held_out": (0.2, 0.3, open_activations(X[:100] + 1))}
SEEN = {
    "width": (7, 8),
    "sparsity": (2, 3),
    "keep_outliers": (True,),
    "seed": (1, 2),
    "split_seed": (5, 6),
    "learn_outliers": (True,),
    "learn_from": (50, 60),
    "activations": (open_activations(X[:300]), open_activations(X[:310])),
    "inputs": (open_activations(X[:, :5]), open_activations(X[:, :6])),
}
# A source, the fields that decide a row and, where fits are told apart, those that decide a fit.
SOURCES = [
    (
        SETTING,
        SIZES | {"sparsity": (2, 4), "stream": (True,), "padded_dim": (30, 40)},
        None,
    ),
    (WORLD, SIZES | LAW | {"scored": (50, 60)}, None),
    (
        HeldOut(ACTIVATIONS),
        SEEN | SCORED | {"together": (True,)},
        {*SEEN, "held_out", "together"},
    ),
]
# Files are known by their contents, and a published world by its digest.
NAMED_BY_CONTENT = {"folder", "digest"}


@mark.parametrize(("source", "values", "of_fit"), SOURCES)
def test_each_field_of_a_source_is_in_its_key(source, values, of_fit):
    names = {field.name for field in dataclasses.fields(source)} - NAMED_BY_CONTENT
    assert {*values} == names, "say which values of a new field have keys of their own"
    others = [
        (name, replace(source, **{name: value}))
        for name, given in values.items()
        for value in given
    ]
    keys = [
        digests.key(one.asdict()) for one in (source, *(other for _, other in others))
    ]
    assert len({*keys}) == len(keys)
    if of_fit is not None:
        fit = digests.key(source.seen())
        for name, other in others:
            assert (digests.key(other.seen()) != fit) == (name in of_fit), name


# Fields that tests of keys change; labels and what only costs time stay out of keys.
DECIDES = {
    Study: (
        {"name", "sources", "methods", "lam", "protocol", "metrics", "calibrate_on"},
        {"optimum", "timed", "spread", "seconds"},
    ),
    Method: ({"name", "learner", "encoder", "row", "at"}, {"family"}),
    Recording: ({"path", "width", "sparsity", "seed"}, set()),
    Probed: ({"concepts", *SEEN, *SCORED, "together"}, set()),
    OnNetwork: (
        {
            "recorded",
            "lm",
            "layer",
            "rows",
            "tokens",
            "first",
            "documents_seed",
            "seed",
        },
        set(),
    ),
}


@mark.parametrize("kind", DECIDES)
def test_a_new_field_is_decided_on(kind):
    decides, labels = DECIDES[kind]
    assert {field.name for field in dataclasses.fields(kind)} == decides | labels


def test_labels_and_costs_are_in_no_key():
    method = Method("oracle", "oracle", Oracle(), TopK(3))
    study = Study("one", [SETTING], [method])
    renamed = replace(study, methods=[replace(method, family="other")])
    changed = (
        {"optimum": False},
        {"timed": True},
        {"spread": "rows"},
        {"seconds": False},
    )
    others = [replace(study, **change) for change in changed]
    keys = [
        line.key
        for one in (study, renamed, *others)
        for job in jobs(one)
        for line in job.lines
    ]
    assert len(keys) == 6 and len({*keys}) == 1


PARTS = [*catalogue.encoders().values(), *catalogue.learners().values()]
NEEDED = {"encoders": (TopK(3),), "base": Oracle()}


@mark.parametrize("kind", PARTS)
def test_each_field_of_a_learner_and_an_encoder_is_described(kind):
    """A rare one at its default is not."""
    encoder = LISTA(1) if kind is Lista else TopK(3)
    part = catalogue.make(kind, encoder=encoder, **NEEDED)
    told = identity.describe(part)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    usual = {name for name, field in fields.items() if not field.metadata.get("rare")}
    assert usual | {*kind.constants} | {"class", "version"} == {*told}
    for name in fields.keys() - usual:
        other = object.__new__(kind)
        for field in fields:
            value = "other" if field == name else getattr(part, field)
            object.__setattr__(other, field, value)
        assert identity.describe(other)[name] == "other"
