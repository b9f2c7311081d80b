"""Verdicts: the interval against all draws of few documents, and the answer on drawn tasks whose
truth is known.
"""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import sae_gap
from sae_gap import measure
from sae_gap.core.types import Model
from sae_gap.measure.controls import CONTROLS, Control
from sae_gap.measure.verdict import RIVAL, Comparison, Verdict, compare_dictionaries
from sae_gap.saes.loaded_sae import SAE
from sae_gap.solvers import sparse_code


def test_the_interval_is_that_of_every_draw_of_few_documents():
    own, best, far = np.array([[5.0, 1.0, 3.0, 2.0], [3.0, 0.9, 1.0, 1.9], [9.0, 4.0, 5.0, 6.0]])
    found = measure.compare(best, own, far)
    draws = [list(each) for each in itertools.product(range(4), repeat=4)]
    every = [(own[each].sum() - best[each].sum()) / far[each].sum() for each in draws]
    # Draws are of few values, beside which some of two thousand fall to the other side of a
    # percentile.
    spread = np.percentile(every, (1.5, 3.5, 96.5, 98.5))
    assert spread[0] <= found.low <= spread[1] < spread[2] <= found.high <= spread[3]
    assert found.one == pytest.approx(1 - best.sum() / far.sum()) and found.more == pytest.approx(
        4.2 / 24
    )
    assert (
        found.sign == 1
        and measure.compare(own, best, far).sign == -1
        and measure.compare(own, own, far).sign == 0
    )


@pytest.mark.parametrize(
    ("comparison", "text"),
    [
        (Comparison(0.935, 0.912, 0.019, 0.027), "2.3 points more (1.9 to 2.7)"),
        (Comparison(0.935, 0.948, -0.017, -0.009), "1.3 points less (0.9 to 1.7)"),
        (Comparison(0.93, 0.93, -0.002, 0.001), "0.0 points (-0.2 to 0.1)"),
        (Comparison(0.9304, 0.93, 0.0003, 0.0005), "0.04 points more (0.03 to 0.05)"),
        (Comparison(0.932, 0.93, 0.0001, 0.004), "0.20 points more (0.01 to 0.40)"),
    ],
)
def test_a_difference_is_told_in_points(comparison, text):
    assert str(comparison) == text


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
    encoders = {
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
    assert encoder.encoder.sign == 1 and encoder.encoder.more > 0.3 and encoder.learned.sign == 0
    assert "Dictionary: no different from" in str(encoder)
    assert abs(encoder.l0 - 3) < 0.1 and "better codes at its own L0 (3.0) explain" in str(encoder)
    assert (
        abs(dictionary.encoder.more) < 0.01
        and dictionary.learned.more < -0.1
        and dictionary.learned.sign == -1
    )
    assert "Dictionary: worse than" in str(dictionary)
    # Nothing is lost by its choice of latents, and much by the scale of its codes alone.
    assert shrunk.encoder.more == pytest.approx(0, abs=2e-3) and "Encoder: no loss" in str(shrunk)
    assert shrunk.own_explained < shrunk.encoder.other - 0.1
    assert shrunk.gap["scale_share"] == pytest.approx(shrunk.gap["relative_gap"], rel=0.05)
    # All dictionaries are compared at the L0 of the first.
    assert {each.common_l0 for each in found.values()} == {encoder.l0}
    assert all(
        l0 == pytest.approx(3, rel=0.02) for each in found.values() for l0 in each.reached_l0
    )


def test_several_are_ranked_and_a_lead_that_may_be_none_is_told(rows):
    ordered, sentence = measure.ranking(rows)
    assert [each.dictionary for each in ordered][-1] == "bad_dictionary"
    # The first two have one dictionary.
    assert "no dictionary is the best beyond doubt" in sentence
    _, sentence = measure.ranking([row for row in rows if row.get("dictionary") != "shrunk"])
    assert (
        "of bad_encoder is the best" in sentence
        and "those of bad_dictionary (at L0 3.0)" in sentence
    )
    assert sentence.endswith(f"{compare_dictionaries(rows, 'bad_encoder', 'bad_dictionary')}.")


def test_what_was_not_measured_is_said():
    told = Verdict(
        dictionary="mine",
        samples=300,
        documents="30 documents",
        suspicions=("it lacks a scale.", "it is turned."),
        own_l0=200.0,
        l0=144.0,
        encoder=Comparison(0.9, 0.8, 0.05, 0.15),
        own_explained=0.7,
        gap={"optimum_l0": 0.4, "lam": 3.0},
        common_l0=200.0,
        reached_l0=(144.0,),
        explained=0.9,
        learned=None,
        atoms=(64,),
    )
    for line, part in {
        "Loading": "suspicious, because it lacks a scale (and 1 more)",
        # More is explained with fewer latents, but less of it would say nothing.
        "Encoder": "better codes at L0 144.0 (its own, 200.0, is beyond what sparse codes have)",
        "Values": "nearly empty (L0 0.40)",
        "Dictionary": "L0 144.0 (200.0 was not reached)",
        "Samples": "only 300 rows of 30 documents",
    }.items():
        assert part in told.lines[line]
    learned = Comparison(0.9, 0.8, 0.05, 0.15)
    for change, line, part in (
        (
            {"encoder": Comparison(0.7, 0.8, -0.15, -0.05)},
            "Encoder",
            "not judged; the best codes at L0 144.0",
        ),
        ({"suspicions": ()}, "Loading", "fine"),
        ({"own_l0": None, "l0": None, "encoder": None}, "Encoder", "there is none, only a decoder"),
        (
            {"own_l0": 0.0, "l0": None, "encoder": None},
            "Encoder",
            "it fires no latent on these activations",
        ),
        (
            {"learned": learned, "reached_l0": (144.0, 180.0), "atoms": (64, 32)},
            "Dictionary",
            "atoms to its 64) at another L0, 180.0 to its 144.0",
        ),
    ):
        assert part in dataclasses.replace(told, **change).lines[line]
    assert set(dataclasses.replace(told, suspicions=None, encoder=None, samples=500).lines) == {
        "Encoder",
        "Dictionary",
    }
