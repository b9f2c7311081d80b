"""Numbers that rows are known by do not change unless a version does.

Each learner, encoder and metric of the suite is run on one tiny input and compared with
tests/versions.json. Where numbers were meant to change, raise the class's `version` and record them
anew:

  python -m tests.test_versions

What is not recorded, such as a file that was just dropped in, passes.
"""

import functools
import json
import pathlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from numpy.random import default_rng
from pytest import approx, mark

from sae_gap import Setting, catalogue, draw, fit
from sae_gap.core import Model, Tree
from sae_gap.encoders import Affine, AmortisedEncoder, Lasso, LookupParameters, TopK
from sae_gap.learners import Oracle, Peer, takes_steps
from sae_gap.metrics import Inferred

RECORD = pathlib.Path(__file__).with_name("versions.json")
# What some are made with, beside a few steps: what they cannot do without, and shorter steps.
WITH = {
    "amortised": {"encoders": (TopK(2),), "base": Oracle()},
    "families": {"base": Oracle(), "num_steps": 4, "visits": 5},
    "least_squares": {"encoder": TopK(2)},
    "lista": {"base": Oracle()},
    "online_dl": {"visits": 10, "num_steps": 3},
    "pruned": {"base": Oracle()},
    "softplus_adam": {"block": 20},
    "sparseautoencoder": {"encoder": TopK(2)},
    "sparsetranscoder": {"encoder": TopK(2), "skip": True, "learning_rate": None},
    "support": {"encoder": TopK(2)},
    "surgery": {"base": Oracle()},
}
# What other libraries learn is theirs.
LEARNERS = {
    name: kind
    for name, kind in catalogue.learners().items()
    if not issubclass(kind, Peer)
}
THINGS = {
    "learners": LEARNERS,
    "encoders": catalogue.encoders(),
    "metrics": catalogue.metrics(),
}


@functools.cache
def task():
    """With what a transcoder reads beside what is explained."""
    drawn = draw(Setting(12, 2, 80))
    train = replace(drawn.train, inputs=drawn.train.signals[:, 1:])
    return replace(drawn, train=train)


def fingerprint(*arrays):
    """Two sums over magnitudes, which no sign of a singular vector changes."""
    values = np.concatenate(
        [np.abs(np.ravel(np.asarray(array, np.float64))) for array in arrays]
    )
    return [values.sum(), values @ np.linspace(1, 2, len(values))]


def learner_of(name):
    kind = catalogue.learners()[name]
    steps = {"num_steps": 2} if takes_steps(kind) else {}
    return catalogue.make(kind, **steps | WITH.get(name, {}))


def learned(name):
    learner = learner_of(name)
    bases = (
        None
        if learner.base is None
        else [Model(task().dictionary * 1.1, jnp.zeros(task().input_dim))]
    )
    model = fit(learner, [task()], [jax.random.key(0)], bases=bases)[0].end.model
    return fingerprint(*jax.tree.leaves(model))


def model():
    rng = default_rng(0)
    atoms = jnp.asarray(rng.standard_normal(task().dictionary.shape), jnp.float32)
    return Model(0.5 * atoms, jnp.full(len(atoms), 0.1)), task().id.signals[:20]


def encoder_of(name):
    return catalogue.make(
        catalogue.encoders()[name], k=2, lam=0.05, **WITH.get(name, {})
    )


def crossed(name):
    """An encoder, a model with parameters for it, and signals."""
    encoder = encoder_of(name)
    bare, signals = model()
    parameters = Affine.create(bare.dictionary)
    if name == "lookup":
        parameters = LookupParameters(signals, signals @ bare.dictionary)
    elif isinstance(encoder, AmortisedEncoder):
        parameters = encoder.parameters(bare.dictionary, jax.random.key(0))
    return encoder, Model(bare.dictionary, bare.bias, parameters), signals


def seen(encoder, model, signals):
    """What training sees of an encoder is its gradient."""
    if not isinstance(encoder, AmortisedEncoder):
        return encoder(model, signals)
    slope = jax.grad(lambda model: jnp.sum(encoder.loss(model, signals, 0.1)[0]))(model)
    return encoder(model, signals), slope


def inferred(name):
    encoder, *given = crossed(name)
    return fingerprint(
        *jax.tree.leaves(jax.jit(functools.partial(seen, encoder))(*given))
    )


@functools.cache
def scored():
    """The codes of a TopK on a disturbed dictionary, against the optima on it."""
    # Some latents that fire with the first are its children, others are not.
    parent = np.array([-1, 0, 0, 0, 0, *[-1] * 7])
    whole = replace(draw(Setting(12, 2, 400)), tree=Tree(parent, 1 + parent))
    rng = default_rng(1)
    dictionary = whole.dictionary + 0.3 * jnp.asarray(
        rng.standard_normal(whole.dictionary.shape), jnp.float32
    )
    learned = Model(dictionary, jnp.zeros(len(dictionary)), Affine.create(dictionary))
    splits = {name: getattr(whole, name) for name in ("train", "id", "ood")}
    codes = {
        name: np.asarray(TopK(2)(learned, split.signals))
        for name, split in splits.items()
    }
    optimum = {
        name: Lasso(0.1).infer(learned, splits[name].signals) for name in ("id", "ood")
    }
    return Inferred(whole, learned, codes, optimum, 0.1, "strict")


def numbers(kind, name):
    if kind != "metrics":
        return (learned if kind == "learners" else inferred)(name)
    found = catalogue.metrics()[name](scored())
    return {
        column: value for column, value in found.items() if not isinstance(value, list)
    }


@mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind, things in THINGS.items() for name in things],
)
def test_numbers_change_with_the_version_alone(kind, name):
    recorded = json.loads(RECORD.read_text())[kind].get(name)
    if recorded is not None:
        assert THINGS[kind][name].version == recorded["version"], (
            "record it: python -m tests.test_versions"
        )
        found = numbers(kind, name)
        assert found == approx(recorded["numbers"], rel=1e-4, abs=1e-5), (
            f"raise the version of {name}"
        )


if __name__ == "__main__":
    every = {
        kind: {
            name: {"version": thing.version, "numbers": numbers(kind, name)}
            for name, thing in things.items()
        }
        for kind, things in THINGS.items()
    }
    RECORD.write_text(json.dumps(every, indent=1) + "\n")
