"""All that the catalogue names passes the checks that ship, and each fault is told by its mend."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from pytest import mark, raises

from sae_gap import catalogue, testing
from sae_gap.core import Coded, Model, dense_chunks
from sae_gap.encoders import (
    LISTA,
    OMP,
    BatchPursuit,
    JumpReLU,
    Lasso,
    MatchingPursuit,
    OnSupport,
    Pruned,
    ReLU,
    TopK,
)
from sae_gap.learners import HostLearner
from sae_gap.metrics import Metric
from sae_gap.saes import AbsTopK
from tests.test_versions import encoder_of, learner_of

# Its codes are those of signals that it has seen: tests/encoders/test_lasso.py.
ENCODERS = [name for name in catalogue.encoders() if name != "lookup"]
# Other forms of these, and what has no name.
FORMS = [
    MatchingPursuit(3, nonneg=True),
    OMP(3, nonneg=True),
    Lasso(0.1, TopK(3), nonneg=False),
    BatchPursuit(3, l0=2.5),
    LISTA(3, factored=False),
    JumpReLU(threshold=0.5),
    AbsTopK(3),
    Pruned(OnSupport(TopK(3), 0.0), 2.0),
]


@mark.parametrize("encoder", [*ENCODERS, *FORMS], ids=str)
def test_encoders(encoder):
    if isinstance(encoder, str):
        encoder = encoder_of(encoder)
    testing.check_encoder(encoder)


@mark.parametrize("name", catalogue.learners())
def test_learners(name):
    testing.check_learner(learner_of(name))


@mark.parametrize("metric", catalogue.metrics().values(), ids=catalogue.metrics())
def test_metrics(metric):
    testing.check_metric(metric)


RELU = ReLU()


def lengths(model):
    norms = jnp.linalg.norm(model.decoder, axis=0)
    return norms / norms.max()


def in_other_units(self, model, y):
    return RELU(model, y) * jnp.linalg.norm(model.decoder)


# Codes, or other members of a ReLU.
ENCODER_FAULTS = {
    "must give codes (n, num": lambda model, y: RELU(model, y)[:, 1:],
    "not all zero": lambda model, y: 0 * RELU(model, y),
    "below zero": lambda model, y: -RELU(model, y),
    "another shape": lambda model, y: RELU(
        model, jnp.resize(y, (len(y), len(model.bias)))
    ),
    "of any size": lambda model, y: RELU(model, y) / (1 + (len(y) > 10_000)),
    "code a row alike": lambda model, y: RELU(model, y) * (1 + (len(y) == 1)),
    "in every batch": lambda model, y: RELU(model, y) / RELU(model, y).max(),
    "lose a NaN": lambda model, y: jnp.nan_to_num(RELU(model, y)),
    "change other rows": lambda model, y: RELU(model, y) * jnp.isfinite(y).all(),
    "mind dimensions": lambda model, y: RELU(model, y) * y.shape[1],
    "mind the unit": lambda model, y: (
        RELU(model, y) * jnp.linalg.norm(y, axis=1, keepdims=True)
    ),
    "compute in float64": lambda model, y: RELU(model, y).astype(jnp.float32),
    "same codes in float64": lambda model, y: RELU(model, y) * (1 + (y.dtype == float)),
    "finite codes beside": lambda model, y: RELU(model, y) / lengths(model),
    "zeros no code": lambda model, y: RELU(model, y) + 1,
    "called as by": {"infer": lambda self, model, y: Coded(2 * RELU(model, y))},
    "positive integer": {"flops": lambda *_: 1.5},
    "origin": {
        "recipe": None,
        "__call__": lambda self, model, y: RELU(model, y + model.bias),
    },
    "on_unit_atoms": {"recipe": None, "__call__": in_other_units},
    "finite gradient": {"loss": lambda self, model, y, penalty: (lengths(model), None)},
    "shapes of parameters": {"observe": lambda self, model, seen: model.bias},
    "name of a-z": {"name": "A"},
    "label that is not empty": {"label": ""},
    "colour such as": {"colour": "red"},
    "plain numbers and words": {"coordinates": {"size": np.ones(2)}},
}


def drawn(signals, width):
    return Model(signals[:width].T, jnp.zeros(signals.shape[1]))


class Drawn(HostLearner):
    atoms = staticmethod(drawn)

    def learn(self, data, *, num_latents, key):
        return type(self).atoms(jax.random.permutation(key, data.signals), num_latents)


def blind(self, data, *, num_latents, key):
    return drawn(jax.random.normal(key, data.signals.shape), num_latents)


def keyless(self, data, *, num_latents, key):
    return drawn(data.signals, num_latents)


# Models, or other members of a learner.
LEARNER_FAULTS = {
    "finite numbers": lambda signals, width: drawn(jnp.nan * signals, width),
    "type of its data": lambda signals, width: drawn(
        signals.astype(jnp.float16), width
    ),
    "as many atoms": lambda signals, width: drawn(signals, width - 1),
    "learn from its data": {"learn": blind},
    "draw by its key": {"learn": keyless},
    "at zero": lambda signals, width: drawn(signals + 1, width),
    "in words": {"needs": lambda self, task: 3},
    "same bits": {"select": lambda self, task: task.id},
}


KINDS = {
    ReLU: (testing.check_encoder, "__call__", ENCODER_FAULTS),
    Drawn: (testing.check_learner, "atoms", LEARNER_FAULTS),
}


@mark.parametrize(
    ("base", "words"), [(kind, name) for kind in KINDS for name in KINDS[kind][2]]
)
def test_a_fault_of_an_encoder_or_a_learner_is_named(base, words):
    check, member, faults = KINDS[base]
    fault = faults[words]
    kind = type(base)("Faulty", (base,), {})
    members = fault if isinstance(fault, dict) else {member: staticmethod(fault)}
    for name, value in members.items():
        setattr(kind, name, value)
    with raises(AssertionError, match=re.escape(words)):
        check(kind())


def dense(inferred, split):
    return np.concatenate([codes for _, codes in dense_chunks(inferred.codes[split])])


def zeroed(inferred):
    inferred.codes["id"][:] = 0
    return {}


def unbiased(inferred):
    if inferred.model.dictionary is None:
        return {}
    left = inferred.task.id.signals - dense(inferred, "id") @ inferred.model.decoder.T
    return {"score_id": float(jnp.sum(left**2))}


METRIC_FAULTS = {
    "codes in place": zeroed,
    "count the decoder's bias": unbiased,
    "all rows": lambda inferred: {"score_id": (dense(inferred, "id")[:10] != 0).mean()},
    "in score the rows": lambda inferred: {
        "score": (dense(inferred, "train") != 0).mean()
    },
    "in score_id the rows": lambda inferred: {
        "score_id": (dense(inferred, "ood") != 0).mean()
    },
    "in score_ood the rows": lambda inferred: {
        "score_ood": (dense(inferred, "id") != 0).mean()
    },
    "finite numbers": lambda inferred: {"score": np.nan},
    "same of sparse": lambda inferred: {
        "score": isinstance(inferred.codes["id"], np.ndarray)
    },
    "dimensions of zeros": lambda inferred: {"score": inferred.task.input_dim},
    "order of latents": lambda inferred: {"score": float(inferred.model.decoder[0, 0])},
    "leave out": lambda inferred: {} if inferred.optimum else {"score": 1.0},
    "without dictionary": lambda inferred: {
        "score_id": float(inferred.reconstruction.sum())
    },
}


@mark.parametrize("words", METRIC_FAULTS)
def test_a_fault_of_a_metric_is_named(words):
    with raises(AssertionError, match=words):
        testing.check_metric(Metric("faulty", METRIC_FAULTS[words]))


@mark.parametrize("check", [testing.check_encoder, testing.check_learner])
def test_a_class_in_the_place_of_an_instance_is_named(check):
    with raises(TypeError, match="give an instance of an encoder or a learner"):
        check(TopK)
