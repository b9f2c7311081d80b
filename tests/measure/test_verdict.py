"""Verdicts: the answer on drawn tasks whose truth is known, and their words."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import sae_gap
from sae_gap import measure
from sae_gap.core.types import Model
from sae_gap.measure.comparison import Comparison
from sae_gap.measure.controls import CONTROLS, Control
from sae_gap.measure.verdict import RIVAL, Loss, Verdict, compare_dictionaries
from sae_gap.saes.loaded_sae import SAE
from sae_gap.solvers import sparse_code


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Two encoders on the true dictionary, one that chooses at random and one that only shrinks;
    best codes on random atoms.
    """
    task = sae_gap.draw(sae_gap.Setting(num_latents=20, sparsity=3, num_samples=2_000))
    x = np.concatenate([task.train.signals, task.id.signals, task.ood.signals])
    activations = sae_gap.open_activations(x, documents=np.arange(len(x)) // 20)
    rng, bias = np.random.default_rng(1), jnp.asarray(x.mean(axis=0))

    def best(model, signals):
        return sparse_code(signals - model.bias, model.dictionary, 0.2).codes

    def random(model, signals):
        codes = rng.random((len(signals), 20))
        return jnp.asarray(
            np.where(codes.argsort(axis=1).argsort(axis=1) < 3, 0.3, 0.0), jnp.float32
        )

    atoms = rng.normal(size=task.dictionary.shape)
    atoms = jnp.asarray(atoms / np.linalg.norm(atoms, axis=0), jnp.float32)

    def rarely(model, signals):
        codes = best(model, signals)
        return jnp.where(codes > 0.8 * codes.max(), 1.0, 0.0)

    encoders = {
        "dead": (task.dictionary, rarely),
        "bad_encoder": (task.dictionary, random),
        "shrunk": (task.dictionary, lambda model, signals: 0.5 * best(model, signals)),
        "bad_dictionary": (atoms, best),
    }
    saes = [
        SAE.of_model(Model(atoms, bias, encode=encode), name=name)
        for name, (atoms, encode) in encoders.items()
    ]
    store = sae_gap.Store(tmp_path_factory.mktemp("rows"))
    with pytest.MonkeyPatch.context() as patched:
        # A learner that finds the truth.
        patched.setitem(
            CONTROLS,
            RIVAL,
            Control(lambda signals, num_latents, l0, key: Model(task.dictionary, bias)),
        )
        measure.run(measure.Plan(saes, activations, controls=(RIVAL,)), store)
    # A page is made of rows as they are stored.
    return sae_gap.Store(store.folder).rows()


def test_the_culprit_is_found(rows):
    found = {each.dictionary: each for each in measure.verdict(rows)}
    shrunk, encoder, dictionary = (
        found[name] for name in ("shrunk", "bad_encoder", "bad_dictionary")
    )
    assert (
        encoder.encoder.support.sign == 1
        and encoder.encoder.support.more > 0.3
        and encoder.learned.sign == 0
    )
    assert "Dictionary: neither better nor worse beyond doubt than one" in str(encoder)
    assert abs(encoder.l0 - 3) < 0.1 and "better codes exist" in str(encoder)
    assert (
        # It has the supports of the lasso, beyond which a pursuit finds a little on random atoms.
        abs(dictionary.encoder.support.more) < 0.05
        and dictionary.learned.more < -0.1
        and dictionary.learned.sign == -1
    )
    assert "Dictionary: worse than" in str(dictionary)
    # Nothing is lost by its choice of latents, and much by the scale of its codes alone.
    assert (
        shrunk.encoder.support.more == pytest.approx(0, abs=1e-2)
        and shrunk.encoder.values.low > 0.1
    )
    for each in (encoder, dictionary, shrunk):
        total, values, support, *_ = each.encoder
        assert total.more == pytest.approx(values.more + support.more)
        assert values.points in each.lines["Encoder"] and support.points in each.lines["Encoder"]
    assert shrunk.gap["scale_share"] == pytest.approx(shrunk.gap["relative_gap"], rel=0.05)
    # All dictionaries are compared at the L0 of the first.
    assert {each.common_l0 for each in found.values()} == {encoder.l0}
    assert all(
        l0 == pytest.approx(3, rel=0.02) for each in found.values() for l0 in each.reached_l0
    )


def test_a_dead_encoder_is_named_and_judges_nothing(rows):
    """It is the first, and all others are compared as if it were not there."""
    found = {each.dictionary: each for each in measure.verdict(rows)}
    dead, second = found["dead"], found["bad_encoder"]
    assert [name for name, each in found.items() if each.dead] == ["dead"] and dead.own_l0 < 1
    assert "its encoder is dead" in dead.lines["Dictionary"] and "Objective" not in dead.lines
    assert f"and {dead.fired} of its 20 latents ever fire; look at how" in dead.lines["Encoder"]
    loaded = dataclasses.replace(dead, suspicions=())
    assert loaded.lines["Loading"] == "suspicious, because its encoder is dead"
    assert {each.common_l0 for each in found.values()} == {second.l0}
    assert second.l0 == pytest.approx(3, rel=0.02)


def test_several_are_ranked_and_a_lead_that_may_be_none_is_told(rows):
    ordered, sentence = measure.ranking(rows)
    # The dead one is no part of it.
    assert [each.dictionary for each in ordered][2:] == ["bad_dictionary"]
    # The first two have one dictionary.
    assert "no dictionary is the best beyond doubt" in sentence
    _, sentence = measure.ranking([row for row in rows if row.get("dictionary") != "shrunk"])
    assert (
        "of bad_encoder is the best" in sentence
        and "those of bad_dictionary (at L0 3.0)" in sentence
    )
    assert sentence.endswith(f"{compare_dictionaries(rows, 'bad_encoder', 'bad_dictionary')}.")


POINTS = Comparison(0.9, 0.8, 0.05, 0.15)
TOLD = Verdict(
    dictionary="mine",
    samples=300,
    documents=6,
    named=True,
    suspicions=("it lacks a scale.", "it is turned."),
    own_l0=200.0,
    fired=60,
    dead=False,
    l0=144.0,
    encoder=Loss(POINTS, POINTS, POINTS),
    gap={"optimum_l0": 0.4, "lam": 3.0},
    common_l0=200.0,
    reached_l0=(144.0,),
    explained=0.9,
    learned=None,
    learned_from=(0, 0.0),
    atoms=(64,),
)
LEARNED = {"learned": POINTS, "learned_from": (8_000, 12.0), "reached_l0": (144, 144)}
LEARNED |= {"atoms": (64, 64)}


@pytest.mark.parametrize(
    ("line", "part", "change"),
    [
        ("Loading", "suspicious, because it lacks a scale (and 1 more)", {}),
        ("Loading", "fine", {"suspicions": ()}),
        # More is explained with fewer latents, but less of it would say nothing.
        ("Encoder", "better codes exist: its own explain 80.0 % of the variance, the best", {}),
        ("Encoder", "at L0 144.00 (its own, 200.00, is beyond what sparse codes have)", {}),
        # The mean of 300 rows is no finer than a 300th.
        ("Encoder", "the best at its own L0 (0.1) 90", {"own_l0": 0.1, "l0": 0.103}),
        ("Encoder", "not met by any weight", {"own_l0": 0.1, "l0": 0.105}),
        (
            "Encoder",
            "not judged: ",
            {"encoder": Loss(Comparison(0.7, 0.8, -0.15, -0.05), POINTS, POINTS)},
        ),
        ("Encoder", "there is none, only a decoder", {"own_l0": None, "encoder": None}),
        (
            "Encoder",
            "dead, and not judged: it fires 0 latents a row; look",
            {"own_l0": 0.0, "l0": None, "encoder": None, "dead": True},
        ),
        ("Objective", "nearly empty (L0 0.40)", {}),
        ("Dictionary", "L0 144.0 (200.0 was not reached)", {}),
        ("Dictionary", "better than one (online_dl) learned from 8,000 other rows, 12 passes", {}),
        (
            "Dictionary",
            "atoms to its 64) learned from 8,000 other rows, 1 pass; at L0 144.0 (200.0 was not reached), the learned one at 180.0",
            {"reached_l0": (144, 180), "atoms": (64, 32), "learned_from": (8_000, 1.0)},
        ),
        (
            "Dictionary",
            "not judged against one (online_dl) learned from 1,279 other rows, 12 passes, too few: "
            "64 atoms need 1,280; at",
            {"learned_from": (1_279, 12.0)},
        ),
        # With more to learn from, it would be better still.
        (
            "Dictionary",
            "worse than one",
            {"learned_from": (1_279, 12.0), "learned": Comparison(0.8, 0.9, -0.15, -0.05)},
        ),
        ("Samples", "only 300 rows of 6 documents were scored, so intervals are wide", {}),
        ("Samples", "only 2,458 rows of 9 documents", {"samples": 2_458, "documents": 9}),
        ("Samples", "of 1 contiguous block were scored", {"documents": 1, "named": False}),
    ],
)
def test_what_is_said_and_what_was_not_measured(line, part, change):
    known = LEARNED if {"learned_from", "atoms"} & {*change} or "one (" in part else {}
    assert part in dataclasses.replace(TOLD, **known | change).lines[line]


def test_what_need_not_be_said_is_not():
    quiet = {"suspicions": None, "encoder": None, "samples": 500, "documents": 10}
    assert set(dataclasses.replace(TOLD, **quiet).lines) == {"Encoder", "Dictionary"}
