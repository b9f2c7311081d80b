"""What draws at random draws the same again by its seed and otherwise by another, and no row that
is learned from is scored.
"""

import functools
import itertools
from dataclasses import replace

import jax
import numpy as np
from numpy.random import default_rng
from numpy.testing import assert_array_equal
from pytest import mark

import sae_gap
from sae_gap import Models, Setting, World, open_activations, probing
from sae_gap.data import HeldOut
from sae_gap.encoders import TopK
from sae_gap.learners import OnlineDictionary, Random, Samples, SparseAutoencoder
from tests.probing.test_probing import drawn

LEARNERS = {
    "online": OnlineDictionary(num_steps=2, visits=5),
    "sae": SparseAutoencoder(encoder=TopK(2), num_steps=1),
}
SETTING = {"num_latents": 12, "sparsity": 2, "num_samples": 120}
WORLD = {
    "num_latents": 30,
    "input_dim": 10,
    "roots": 0,
    "orthogonal_steps": 2,
    "scored": 50,
}
X = default_rng(0).normal(1, 1, (300, 8)).astype(np.float32)
X[7] *= 300
DOCUMENTS = np.arange(300) // 5


@functools.cache
def task():
    return sae_gap.draw(Setting(**SETTING))


@functools.cache
def activations():
    return open_activations(X, documents=DOCUMENTS)


@functools.cache
def learned(seed=0):
    return sae_gap.learn(activations(), 12, 2, seed=seed, visits=3)


def held_out(seed):
    return HeldOut(activations(), width=12, seed=seed)


def fitted(learner, source):
    return Models().fit(learner, [source], [source.task()])[0].end.model.dictionary


def parts_of(task):
    return [*signals_of(task), task.dictionary]


def of_one_split(seed):
    return fitted(LEARNERS["sae"], replace(held_out(seed), split_seed=0))


SEEDED = {
    "draw": lambda seed: parts_of(sae_gap.draw(Setting(**SETTING, seed=seed))),
    "stream": lambda seed: parts_of(
        sae_gap.draw(Setting(**SETTING, seed=seed, stream=True))
    ),
    "world": lambda seed: parts_of(World(**WORLD, num_samples=50, seed=seed).task()),
    "fit_stream": lambda seed: (
        sae_gap.fit_stream(
            LEARNERS["online"], X[:120], num_latents=12, key=jax.random.key(seed)
        ).dictionary
    ),
    "of one split": of_one_split,
    "split": lambda seed: activations().split(0.2, seed)[1].numbers,
    "held out": lambda seed: held_out(seed).parts[1].numbers,
    "random": lambda seed: fitted(Random(), held_out(seed)),
    "samples": lambda seed: fitted(Samples(), held_out(seed)),
    "learn": lambda seed: learned(seed).atoms,
    "export": lambda seed: learned().sae(k=2, epochs=1, seed=seed).model.encoder.weight,
    "cells": lambda seed: probing.split_cells(*drawn()[1:], drawn()[0], seed).train[
        "withheld"
    ],
    "rows": lambda seed: probing.choose_rows([drawn()[1:]], drawn()[0], 400, seed),
    **{
        f"fit {name}": lambda seed, learner=learner: (
            sae_gap.fit(learner, [task()], [seed])[0].end.model.dictionary
        )
        for name, learner in LEARNERS.items()
    },
}


@mark.parametrize("door", SEEDED)
def test_a_seed_draws_the_same_again_and_another_something_else(door):
    drawn = (jax.tree.leaves(SEEDED[door](seed)) for seed in (0, 1, 0))
    for first, other, again in zip(*drawn, strict=True):
        assert_array_equal(first, again)
        assert np.shape(first) != np.shape(other) or np.abs(first - other).max() > 1e-3


def signals_of(task):
    return [task.train.signals, task.id.signals, task.ood.signals]


APART = {
    "draw": lambda: signals_of(task()),
    "stream": lambda: signals_of(sae_gap.draw(Setting(**SETTING, stream=True))),
    # Where nothing fires, noise alone tells rows apart.
    "world": lambda: signals_of(World(**WORLD, num_samples=50, noise_db=20.0).task()),
    "learn": lambda: [
        part.take(np.arange(part.num_samples))
        for part in (learned().train, learned().held_out)
    ],
    "held out": lambda: signals_of(held_out(0).task())[:2],
}


def test_the_outliers_that_are_coded_are_those_of_the_documents_held_out():
    # Also where few rows are scored.
    scored = [HeldOut(activations(), samples=20, seed=seed) for seed in range(20)]
    told = [7 in activations().split(seed=seed)[1].numbers for seed in range(20)]
    assert any(told) and told == [len(each.left_out) == 1 for each in scored]


@mark.parametrize("door", APART)
def test_no_row_is_learned_from_and_scored(door):
    parts = [{*map(tuple, np.asarray(part).tolist())} for part in APART[door]()]
    assert all(parts) and not any(
        one & other for one, other in itertools.combinations(parts, 2)
    )
