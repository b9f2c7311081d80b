"""Every public door refuses what makes no sense in one sentence, before it computes, compiles or
writes anything.
"""

import dataclasses
import functools
import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from numpy.random import default_rng
from pytest import mark

import sae_gap
from sae_gap import Method, Model, Setting, Split, Study, Task, catalogue
from sae_gap.core import options
from sae_gap.encoders import LISTA, Affine, BatchPursuit, Lasso, ReLU, TopK
from sae_gap.learners import (
    Amortised,
    Families,
    Lista,
    OnlineDictionary,
    Oracle,
    Pruned,
    Surgery,
)
from sae_gap.saes import SAE
from tests.core.test_checks import said

NAN = float("nan")
KEY = jax.random.key(0)
RNG = default_rng(0)
D = RNG.normal(size=(4, 6)).astype(np.float32)
Y = RNG.normal(size=(8, 4)).astype(np.float32)
Z = np.abs(RNG.normal(size=(8, 6))).astype(np.float32)
MODEL = Model(
    jnp.asarray(D), jnp.zeros(4), Affine(jnp.asarray(D), jnp.zeros(6)), ReLU()
)
ONLINE = OnlineDictionary(num_steps=2)


def refused(door, match=""):
    text = said(door)
    assert re.search(match, text), text


# Values that no range tells, whatever has an option of this name.
OPTIONS = {
    "frozen": (True,),
    "num_slots": (6,),
    "encoders": ((), (3,)),
    "encoder": (3, Lasso),
    "base": (3, "oracle"),
    "start": (3, "topk"),
}
PARTS = [*catalogue.encoders().values(), *catalogue.learners().values()]
NEEDED = {"encoder": TopK(3), "encoders": (TopK(3),), "of": None}
BASED = (Amortised, Lista, Families, Pruned, Surgery)


ENDS = ("least", -math.inf), ("most", math.inf)


def beyond(hint, limits):
    """Values of no such type, and those that lie just outside of limits."""
    allowed = options.kinds(hint)
    listed = options.entries(hint)
    if listed:
        count = 1 if ... in listed else len(listed)
        return [
            (),
            0.5,
            (1,) * (count + 1),
            *((value,) * count for value in beyond(listed[0], limits)),
        ]
    absent = [] if type(None) in allowed else [None]
    if bool in allowed:
        return [1, *absent]
    if float in allowed:
        assert limits, "a number has a range"
        ends = [value for name, value in limits.items() if name in ("above", "below")]
        ends += [
            math.nextafter(limits[name], end) for name, end in ENDS if name in limits
        ]
        return ["x", True, NAN, *ends, *absent]
    if int in allowed:
        return [
            True,
            1.5,
            limits.get("least", 1) - 1,
            limits.get("most", 2**31 - 1) + 1,
            *absent,
        ]
    return ["x", *absent]


@mark.parametrize("kind", PARTS, ids=lambda kind: kind.__name__)
def test_no_learner_or_encoder_takes_an_option_that_makes_no_sense(kind):
    needed = NEEDED | {"base": Oracle()} if kind in BASED else NEEDED
    part = catalogue.make(
        kind, **needed | ({"encoder": LISTA(2)} if kind is Lista else {})
    )
    for field in dataclasses.fields(kind):
        values = OPTIONS.get(field.name, ())
        if "limits" in field.metadata:
            values += (
                *beyond(options.hints(kind)[field.name], field.metadata["limits"]),
            )
        for value in values:
            change = functools.partial(dataclasses.replace, part, **{field.name: value})
            refused(change, f"takes? no steps|needs a base|{field.name}")
        # The least and the most themselves are valid.
        limits = field.metadata.get("limits", {})
        single = not options.entries(options.hints(kind)[field.name])
        for end in ("least", "most"):
            if end in limits and single and field.name != "num_steps":
                replace(part, **{field.name: limits[end]})


def test_a_lasso_of_more_iterations_is_the_same_program():
    assert jax.tree.structure(Lasso()) == jax.tree.structure(Lasso(max_iterations=1))


# Equinox warns of an array in a static field before it can be refused.
@mark.filterwarnings("ignore:A JAX array is being set as static")
@mark.parametrize("kind", [np.array, jnp.asarray])
def test_static_options_that_cannot_be_hashed_are_refused(kind):
    for name, call in (
        ("share", lambda: Pruned(share=kind(0.5), base=ONLINE)),
        ("visits", lambda: OnlineDictionary(visits=kind(50))),
        ("k", lambda: TopK(k=kind(3))),
    ):
        refused(call, f"^{name} must be a plain Python value")


def test_a_pursuit_without_its_threshold_is_refused():
    refused(lambda: BatchPursuit(2)(MODEL, Y), "calibrate")


# Codes and dictionaries that no metric and no solver may take.
WRONG = {
    "complex": lambda a: a + 1j,
    "objects": lambda a: a.astype(object),
    "nan": lambda a: np.where(a == a[1, 1], np.nan, a),
    "vector": lambda a: a[0],
    "ragged": lambda a: [[1.0], [1.0, 2.0]],
    "none": lambda a: None,
    "masked": lambda a: np.ma.masked_array(
        a, mask=np.arange(a.size).reshape(a.shape) == 1
    ),
}


@mark.parametrize("kind", WRONG)
def test_no_door_takes_what_is_no_finite_real_matrix(kind, tmp_path):
    wrong = WRONG[kind]
    for door in (
        lambda: sae_gap.match_atoms(wrong(D), D),
        lambda: sae_gap.match_atoms(D, wrong(D)),
        lambda: sae_gap.mcc(wrong(Z), Z),
        lambda: sae_gap.mcc(Z, wrong(Z)),
        lambda: sae_gap.mcc_paper(Z, wrong(Z), "id"),
        lambda: sae_gap.sparse_code(wrong(Y), D, 0.1),
        lambda: sae_gap.sparse_code(Y, wrong(D), 0.1),
        lambda: sae_gap.amortisation_gap(MODEL, wrong(Y), 0.1),
        lambda: sae_gap.amortisation_gap(replace(MODEL, dictionary=wrong(D)), Y, 0.1),
        lambda: sae_gap.amortisation_gap(
            MODEL, Y, 0.1, encode=lambda model, signals: wrong(Z)
        ),
        lambda: SAE.of_model(replace(MODEL, dictionary=wrong(D)), name="mine"),
        lambda: sae_gap.save_activations(tmp_path / "new" / "rows.npz", wrong(Y)),
    ):
        refused(door)
    assert not (tmp_path / "new").exists()


@mark.parametrize(("kind", "match"), [("masked", "has masked entries"), ("nan", "NaN")])
def test_no_door_of_an_sae_takes_rows_with_entries_that_are_no_numbers(kind, match):
    rows = WRONG[kind](Y)
    sae = SAE.of_model(MODEL, name="mine")
    for door in (
        lambda: sae_gap.fvu(Y, rows),
        lambda: sae.encode(rows),
        lambda: sae_gap.check(sae, rows),
        lambda: sae_gap.learn(rows, 6, 2.0),
    ):
        refused(door, match)


def task(num_samples=4, input_dim=4, num_latents=6, **parts):
    split = Split(jnp.asarray(RNG.normal(size=(num_samples, input_dim)), jnp.float32))
    return replace(Task(split, split, split, width=num_latents), **parts)


def gap(model=MODEL, **options):
    return lambda: sae_gap.amortisation_gap(model, Y, **{"lam": 0.1} | options)


def replaced(**parts):
    return replace(MODEL, **parts)


def fit(learner=ONLINE, tasks=None, keys=(KEY,), **options):
    return lambda: sae_gap.fit(
        learner, [task()] if tasks is None else tasks, list(keys), **options
    )


def learnt_from(signals):
    return fit(tasks=[task(train=Split(signals))])


def study(**parts):
    given = {
        "name": "one",
        "sources": [Setting(20, 3, 8)],
        "methods": lambda source: [Method("m", "f", ONLINE, Lasso())],
    }
    return Study(**given | parts)


def stream(source=Y, **options):
    return lambda: sae_gap.fit_stream(
        **{"learner": ONLINE, "source": source, "num_latents": 6, "key": KEY} | options
    )


DOORS = {
    "weight in PyTorch's layout": (
        gap(replaced(encoder=Affine(jnp.asarray(D.T), jnp.zeros(4)))),
        "transpose the weight",
    ),
    "offset of wrong length": (
        lambda: Affine(jnp.asarray(D), jnp.zeros(4)),
        "an affine map must have",
    ),
    "bias that broadcasts": (gap(replaced(bias=jnp.zeros((1, 4)))), "bias must be"),
    "encoder without weights": (gap(replaced(encoder=None)), "ReLU reads Affine"),
    "no model": (gap("model"), "model must be of class Model"),
    "codes that broadcast": (
        gap(encode=lambda model, signals: Z[:, :1]),
        "encode must give codes of shape",
    ),
    "codes too large for the type": (
        gap(encode=lambda model, signals: 1e200 * Z.astype(float)),
        "must be finite in float32",
    ),
    "lam that is no number": (gap(lam="x"), "lam must be real numbers"),
    "lam of fewer samples": (gap(lam=Y[1:, 0]), "lam has shape"),
    "signed that is no flag": (gap(signed="no"), "signed must be True or False"),
    "atoms that vanish": (
        gap(replaced(dictionary=jnp.asarray(1e-42 * D))),
        "an atom whose largest entry",
    ),
    "atoms that vanish in a solver": (
        lambda: sae_gap.sparse_code(Y, 1e-200 * D.astype(float), 0.1),
        "an atom whose largest",
    ),
    "a target that is no number": (
        lambda: sae_gap.match_l0(Y, D, "two"),
        "target must be",
    ),
    "tasks of two lengths": (
        fit(tasks=[task(), task(5)], keys=[KEY] * 2),
        "tasks must have one shape",
    ),
    "a width that is none": (fit(tasks=[task(num_latents=0)]), "must be"),
    "a NaN to learn from": (
        learnt_from(jnp.full((4, 4), NAN)),
        "have a NaN or an infinity",
    ),
    "a list to learn from": (learnt_from([[1.0]]), "must be a matrix"),
    "a key that is no integer": (
        fit(keys=[0.5]),
        "a key must be an integer or one random key",
    ),
    "a step before the first": (fit(at=[-1]), "at must be an integer"),
    "a stream's source": (stream(3), "source must be an array"),
    "a stream without columns": (stream(Y[:, :0]), "must be a non-empty matrix"),
    "a stream of nothing": (
        stream(lambda start, count: None, num_samples=8),
        "from sample 0 on must be a matrix",
    ),
    "a study's source": (lambda: study(sources=[3]), r"sources\[0\] must be a setting"),
    "a method's columns": (
        lambda: Method("m", "f", ONLINE, Lasso(), row=3),
        "row must be of class Mapping",
    ),
    "activations nowhere": (
        lambda: sae_gap.open_activations(None),
        "but it is None; give",
    ),
    "documents for other rows": (
        lambda: sae_gap.save_activations("never.npz", Y, np.zeros(7, int)),
        "documents of the array must be 8 integers",
    ),
    "rows beyond float32": (
        lambda: sae_gap.save_activations("never.npz", 1e200 * Y.astype(float)),
        "as float32; drop or mend such rows",
    ),
}


@mark.parametrize("case", DOORS)
def test_every_door_refuses_in_one_sentence(case):
    door, match = DOORS[case]
    refused(door, match)
