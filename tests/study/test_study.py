"""Methods and studies are data, checked where they are made. Whatever changes a result changes its key,
and nothing else does.
"""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import jax
from pytest import mark, raises

from sae_gap import Method, Setting, Study
from sae_gap.core import identity
from sae_gap.encoders import (
    FISTA,
    ISTA,
    Encoder,
    Lasso,
    Linear,
    ListaMatryoshka,
    MatryoshkaBatchTopK,
    TopK,
)
from sae_gap.learners import (
    DLFista,
    Families,
    LinearProbe,
    Oracle,
    SoftplusAdam,
    SparseAutoencoder,
)
from sae_gap.metrics import Metric
from sae_gap.study import Stored, jobs
from tests.study.test_models import OnHost
from tests.tiny import METHODS, SAE, SETTING, make


def keys_of(a_study):
    return [line.key for one in jobs(a_study) for line in one.lines]


METHOD = Method("sae", "sae", SAE, TopK(3))
METRICS = [Metric(f"m{version}", lambda _: {}, version=version) for version in (1, 2)]
METRICS += [Metric("m1", lambda _: {}, version=version) for version in (2, 3)]


def study(part=None, **changes):
    """The study of one row with a part of it changed: a method, its learner or encoder, or the study."""
    changed = part and replace(part, **changes)
    method = changed if isinstance(part, Method) else METHOD
    if isinstance(part, SparseAutoencoder):
        method = replace(METHOD, learner=changed)
    if isinstance(part, Encoder):
        method = replace(METHOD, encoder=changed)
    return make(SETTING, methods=[method], **({} if part else changes))


# Values that are not the default. tests/test_keys.py has each field of sources, learners and
# encoders.
CHANGES = [
    (
        SAE,
        {"num_steps": (3, 4), "learning_rate": (1e-3, 2e-3), "base": (Oracle(), SAE)},
    ),
    (TopK(3), {"k": (4, 5)}),
    (METHOD, {"name": ("other", "another"), "at": ((0,), (1,), (2,))}),
    (METHOD, {"row": ({"start": "warm"}, {"start": "cold"})}),
    (
        Lasso(),
        {"lam": (0.1, 0.2, 0.3), "start": (TopK(3), TopK(4)), "nonneg": (False,)},
    ),
    (
        None,
        {"lam": (0.2, 0.3, None), "protocol": ("paper",), "calibrate_on": ("train",)},
    ),
    (
        None,
        {
            "metrics": [METRICS[:count] for count in range(4)]
            + [METRICS[2:3], METRICS[3:]]
        },
    ),
]
OTHERS = [
    study(part, **{name: value})
    for part, fields in CHANGES
    for name, values in fields.items()
    for value in values
]
OTHERS += [replace(study(), name=name) for name in ("other", "another")]


def test_whatever_changes_a_result_changes_its_key(monkeypatch):
    found = [keys_of(one) for one in (study(), *OTHERS)]
    with jax.default_matmul_precision("bfloat16"):
        found.append(keys_of(study()))
    with jax.enable_x64(True):
        found.append(keys_of(study()))
    for place, name, value in (
        (jax, "default_backend", lambda: "gpu"),
        (identity, "NUMERICS", identity.NUMERICS + 1),
        (TopK, "version", 7),
        (TopK, "version", 8),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value, raising=False)
            found.append(keys_of(study()))
    keys = [*itertools.chain(*found)]
    assert len(set(keys)) == len(keys) == len(found) == len(OTHERS) + 7


def test_what_else_is_run_and_where_a_class_lies_do_not_change_a_key(monkeypatch):
    (key,) = keys_of(study())
    every = keys_of(make(SETTING, Setting(20, 3, 200, seed=1), Setting(30, 3, 200)))
    assert key in every and len(set(every)) == 12
    some, more = (keys_of(study(METHOD, at=at)) for at in ((0,), (0, 1)))
    assert {*some} < {*more}
    monkeypatch.setattr(TopK, "__module__", "sae_gap.elsewhere")
    assert keys_of(study()) == [key]


@mark.parametrize("order", [1, -1])
def test_the_latest_measurement_of_each_metric_counts(order):
    metrics = [Metric(name, lambda _: {}) for name in "abc"]
    first = study(metrics=metrics[:2])
    every = [*jobs(first)]
    (line,) = every[0].lines
    shared = {"study": "tiny", "cell": line.cell, "encode_seconds": 1.0}
    rows = [
        shared
        | {
            "date": str(day),
            "key": str(day),
            "measured": {f"{name} 1": [name]},
            name: day,
        }
        for day, name in enumerate("aba")
    ]
    store = SimpleNamespace(rows=lambda: rows[::order])
    for some, lacking in (
        (metrics[:1], None),
        (metrics[:2], None),
        (metrics, metrics[2:]),
    ):
        stored = Stored(study(metrics=some), store)
        assert stored.lacking(line) == lacking and bool(
            stored.rest(every[0]).lines
        ) == bool(lacking)
        (row,) = stored.rows(every)
        assert (row["a"], row.get("b"), row["date"]) == (
            2,
            1 if len(some) > 1 else None,
            "2",
        )


# Of what was an option once, keys of earlier rows and fits have the value.
ONCE = {
    LinearProbe(): {"alphas": [1e-6, 1e-4, 1e-2, 1, 10]},
    SoftplusAdam(): {"patience": 5_000, "improvement": 1e-6, "least_updates": 10_000},
    DLFista(): {"num_iterations": 100, "ridge": 1e-6},
    Families(base=Oracle()): {"floor": 0.18, "ridge": 0.01},
    MatryoshkaBatchTopK(3): {"prefixes": [1 / 32, 3 / 32, 7 / 32, 15 / 32, 1]},
    ListaMatryoshka(3): {"prefixes": [1 / 32, 3 / 32, 7 / 32, 15 / 32, 1]},
}


@mark.parametrize("thing", ONCE)
def test_what_was_an_option_stays_in_keys(thing):
    assert ONCE[thing].items() <= identity.describe(thing).items()
    for name in ONCE[thing]:
        with raises(TypeError, match=name):
            replace(thing, **{name: 1})


@mark.parametrize(
    ("learner", "encoder", "columns"),
    [
        (SAE, TopK(3), "dictionary=topk inference=own"),
        # Another k is no longer the encoder that was trained.
        (SAE, TopK(4), "dictionary=topk inference=topk"),
        (SAE, Lasso(), "dictionary=topk inference=lasso start=cold lam=0.1"),
        (
            SAE,
            Lasso(start=TopK(3)),
            "dictionary=topk inference=lasso start=warm lam=0.1",
        ),
        (
            SAE,
            FISTA(iterations=5),
            "dictionary=topk inference=fista start=cold iterations=5 lam=0.1",
        ),
        (
            SAE,
            ISTA(iterations=5),
            "dictionary=topk inference=ista start=cold iterations=5 lam=0.1",
        ),
        (Oracle(), Lasso(0.2), "dictionary=oracle inference=lasso start=cold lam=0.2"),
        (LinearProbe(), Linear(), "dictionary=linear_probe inference=linear"),
    ],
)
def test_what_a_method_varies_are_columns(learner, encoder, columns):
    found = Method("a", "family", learner, encoder).coordinates
    assert {f"{name}={value}" for name, value in found.items()} == {*columns.split()}
    own = Method(
        "a", "family", learner, encoder, {"start": "mine", "depth": 3}
    ).coordinates
    assert own == found | {"start": "mine", "depth": 3}


@mark.parametrize(
    ("learner", "at"),
    [*((SAE, at) for at in ((1, 1), (3,), (-1,))), (Oracle(), (1,)), (OnHost(), (2,))],
)
def test_steps_that_are_not_there_are_refused(learner, at):
    with raises(ValueError, match=r"^method 'mine' .* at is .*\.$"):
        Method("mine", "sae", learner, Lasso(), at=at)
    Method("mine", "sae", learner, Lasso(), at=(learner.num_steps,))
    Method("mine", "sae", SAE, Lasso(), at=(0, 2))


TWICE = [Method("frozen", "frozen", SAE, Lasso(tol=tol)) for tol in (1e-5, 1e-6)]


@mark.parametrize(
    ("make_wrong", "words"),
    [
        (
            lambda: Method("mine", "sae", SAE, lambda model, signals: signals),
            "the encoder of 'mine'",
        ),
        (
            lambda: Method("mine", "sae", lambda: None, TopK(3)),
            "the learner of 'mine'",
        ),
        (lambda: make(protocol="Paper"), "protocol must be one of strict, paper"),
        (lambda: make(calibrate_on="id"), "calibrate_on must be one of scored, train"),
        (lambda: make(spread="seeds"), "spread must be one of jobs, rows"),
        (lambda: make(lam=-1.0), "lam must be a finite number"),
        (
            lambda: make(methods=TWICE),
            "methods must have different names .* frozen, frozen",
        ),
        (lambda: make(SETTING, SETTING), "sources must be different"),
        (lambda: Study("tiny", (), METHODS), "sources must have at least one"),
    ],
)
def test_methods_and_studies_are_checked_where_they_are_made(make_wrong, words):
    with raises((ValueError, TypeError), match=words):
        make_wrong()
