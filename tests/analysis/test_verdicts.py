"""Verdicts: the answer on drawn tasks whose truth is known, and their words."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.linalg import norm
from numpy.random import default_rng
from pytest import approx, fixture, mark

import sae_gap
from sae_gap import measure
from sae_gap.analysis import RIVAL, Comparison, Verdict, compare_dictionaries
from sae_gap.core import Model
from sae_gap.learners import Given, Held
from sae_gap.measure import methods, verdict
from sae_gap.saes import SAE
from sae_gap.solvers import sparse_code
from tests import tiny


@fixture(scope="module")
def rows(tmp_path_factory):
    """Two encoders on the true dictionary, one that chooses at random and one that only shrinks;
    best codes on random atoms.
    """
    task = sae_gap.draw(sae_gap.Setting(num_latents=20, sparsity=3, num_samples=2_000))
    x = tiny.signals(task)
    activations = sae_gap.open_activations(x, documents=np.arange(len(x)) // 20)
    rng = default_rng(1)
    bias = jnp.asarray(x.mean(axis=0))
    true = task.dictionary
    atoms = rng.normal(size=true.shape)
    atoms = jnp.asarray(atoms / norm(atoms, axis=0), jnp.float32)

    def best(model, signals):
        return sparse_code(signals - model.bias, model.dictionary, 0.2).codes

    def random(model, signals):
        order = (
            default_rng(0).random((len(signals), 20)).argsort(axis=1).argsort(axis=1)
        )
        return jnp.asarray(np.where(order < 3, 0.3, 0.0), jnp.float32)

    def rarely(model, signals):
        codes = best(model, signals)
        return jnp.where(codes > 0.8 * codes.max(), 1.0, 0.0)

    encoders = {
        "dead": (true, rarely),
        "bad_encoder": (true, random),
        "shrunk": (true, lambda model, signals: 0.5 * best(model, signals)),
        "bad_dictionary": (atoms, best),
    }
    saes = [
        SAE.of_model(Model(atoms, bias, encode=encode), name=name)
        for name, (atoms, encode) in encoders.items()
    ]
    store = sae_gap.Store(tmp_path_factory.mktemp("rows"))
    # A learner that finds the truth.
    truth = Given(Held(Model(true, bias)), RIVAL, "control")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(methods, "learner_at", lambda *_: truth)
        return measure.run(measure.Plan(saes, activations, controls=(RIVAL,)), store)


def test_the_culprit_is_found(rows):
    found = {each.dictionary: each for each in verdict(rows)}
    shrunk, encoder, dictionary = (
        found[name] for name in ("shrunk", "bad_encoder", "bad_dictionary")
    )
    assert (
        encoder.losses["support"].low > 0.3 and encoder.losses["dictionary"].sign == 0
    )
    assert "Dictionary: neither better nor worse beyond doubt than one" in str(encoder)
    assert "Encoder: better codes exist" in str(encoder)
    # It has the supports of the lasso, beyond which a pursuit finds a little on random atoms.
    assert (
        0
        < dictionary.losses["support"].more
        < 0.1
        < dictionary.losses["dictionary"].low
    )
    assert "Dictionary: worse than" in str(dictionary)
    # Next to nothing is lost by its choice of latents, and much by the scale of its codes alone.
    assert shrunk.losses["support"].more == approx(0, abs=2e-2)
    assert shrunk.losses["values"].low > 0.1
    line = encoder.line
    assert line["best"] == RIVAL and line["own_best_codes"] == encoder.best["codes"]
    whole = line["amortisation_part"] + line["dictionary_part"] + line["rest"]
    assert line["total"] == approx(whole) == approx(encoder.own["fvu"])
    # All dictionaries are compared at the L0 of the first that is not dead.
    for each in found.values():
        assert each.common["l0"] == approx(3, rel=0.02)
    assert found["dead"].dead and not found["dead"].losses
    assert "its encoder is dead" in found["dead"].lines["Dictionary"]


def test_several_are_ranked_and_a_lead_that_may_be_none_is_told(rows):
    verdicts = verdict(rows)
    ordered, sentence = measure.ranking(verdicts)
    # The dead one is no part of it, and the first two have one dictionary.
    assert [each.dictionary for each in ordered][2:] == ["bad_dictionary", "dead"]
    assert "none is the best beyond doubt" in sentence
    _, sentence = measure.ranking(
        [each for each in verdicts if each.dictionary != "shrunk"]
    )
    assert (
        "bad_encoder is the best." in sentence
        and "those of bad_dictionary (at L0 3" in sentence
    )
    assert sentence.endswith(
        f"{compare_dictionaries(rows, 'bad_encoder', 'bad_dictionary')}."
    )
    first, *others = ordered
    skip = replace(first, common=first.common | {"skip": True})
    assert "since only some have a skip" in measure.ranking([skip, *others])[1]


@mark.parametrize(("one", "other", "sign"), [(32.1, 32, 1), (34.2, 32, 0), (20, 32, 1)])
def test_more_latents_are_better_only_beyond_what_they_can_explain(one, other, sign):
    """Of 6 % more latents, 0.8 times 6 % may be theirs."""
    found = POINTS._replace(l0s=(one, other))
    turned = Comparison(
        POINTS.other, POINTS.one, -POINTS.high, -POINTS.low, (other, one)
    )
    assert (found.sign, turned.sign) == (sign, -sign)
    assert str(found).startswith("10.0 points more" if sign else "10.0 points (5.0")
    assert str(turned).startswith("10.0 points less" if sign else "-10.0 points (-15.0")


def coded(l0, codes="own", learned_from=8_000, **others):
    scores = {
        "fired": 60,
        "num_latents": 64,
        "num_scored": 300,
        "dead": False,
        "fvu": 0.2,
    }
    errors = {"errors": [1.0, 1.1, 0.9], "variance": [5.0, 5.0, 5.0]}
    about = {"codes": codes, "l0": l0, "learned_from": learned_from}
    return about | {"dictionary": "mine", "family": "sae"} | scores | errors | others


def test_denser_codes_are_no_better_in_any_line():
    """Half as many latents more may explain the 40 % of the variance that they gain."""
    rows = [
        coded(2.0),
        coded(3.0, "screened", errors=[0.1] * 3),
        coded(2.0, "own_refit"),
    ]
    (mine,) = verdict(rows)
    assert mine.lines["Encoder"].startswith(
        "not judged: unequal L0, 3.00 and 2.00; its own"
    )
    assert (
        not mine.losses["values"].reason and "unequal" in mine.losses["support"].reason
    )
    # An SAE of the user's that is called as the rival is none.
    assert verdict([each | {"dictionary": RIVAL} for each in rows])[0].rival is None


NETWORK = (
    (0.2, 1_280, ": at least 10.0 (10.0 to 10.0) in amortisation, at most 10.0"),
    (0.2, 1_279, "network of its input, since it learned from 1,279 rows, too"),
    (0.31, 1_280, "since its codes are worse than the encoder's"),
)


@mark.parametrize(("fvu", "rows", "words"), NETWORK)
def test_a_network_bounds_the_loss_of_a_transcoder_or_says_nothing(fvu, rows, words):
    codes = {
        "own": 0.3,
        "own_refit": 0.3,
        "predicted": fvu,
        "screened": 0.1,
        "retrained": 0.28,
        "hidden_4": 0.25,
    }
    found = [
        coded(2.0, name, fvu=fvu, network_rows=rows, errors=[5 * fvu] * 3)
        for name, fvu in codes.items()
    ]
    (mine,) = verdict(found)
    assert words in str(mine)
    assert ("unreached" in mine.losses) == ("at most" in words)
    assert mine.losses["form"].more == approx(0.03)


POINTS = Comparison(0.9, 0.8, 0.05, 0.15)
LEAD = Comparison(0.8, 0.9, -0.15, -0.05)
LOST = dict.fromkeys(("encoder", "values", "support"), POINTS)
ALONE = dict.fromkeys((*LOST, "dictionary"), POINTS._replace(low=-np.inf, high=np.inf))
BEST = coded(144.0, "screened")
TOLD = Verdict("mine", ("no scale.", "turned."), coded(200.0), BEST, BEST, None, LOST)


def against(lead, **rival):
    return {"rival": coded(144.0, **rival), "losses": {**LOST, "dictionary": lead}}


SAID = [
    ("Loading", "suspicious, because no scale (and 1 more)", {}),
    ("Loading", "nothing found", {"suspicions": ()}),
    (
        "Encoder",
        "better codes exist: its own explain 80.0 % of the variance, the best",
        {},
    ),
    ("Encoder", "the best at L0 144.00 (not 200.00) 90.0 % (a screened pursuit)", {}),
    (
        "Encoder",
        "not judged: ",
        {"losses": LOST | {"encoder": Comparison(0, 0, -1, 1)}},
    ),
    # The mean of 300 rows is no finer than a 300th.
    (
        "Encoder",
        "its own L0 (0.1) 90",
        {"own": coded(0.1), "best": coded(0.103, "screened")},
    ),
    (
        "Encoder",
        "L0 0.10 (not 0.10)",
        {"own": coded(0.1), "best": coded(0.105, "screened")},
    ),
    ("Encoder", "there is none, only a decoder", {"own": None}),
    (
        "Encoder",
        "dead, and not judged: it fires 0 latents",
        {"own": coded(0.0, dead=True)},
    ),
    ("Encoder", "not judged: one document has no interval; its own", {"losses": ALONE}),
    ("Dictionary", "not judged, since online_dl was left out", {}),
    (
        "Dictionary",
        "worse than one (online_dl) learned from 8,000 other rows; at",
        against(POINTS),
    ),
    ("Dictionary", "better than one (online_dl) learned from 8,000", against(LEAD)),
    ("Dictionary", "(online_dl, 32 atoms)", against(LEAD, num_latents=32)),
    (
        "Dictionary",
        "too few: 64 atoms need 1,280; at",
        against(LEAD, learned_from=1_279),
    ),
    (
        "Dictionary",
        "too few: 64 atoms need 1,280; at",
        against(POINTS._replace(low=-0.05), learned_from=1_279),
    ),
    # With more to learn from, it would be better still.
    ("Dictionary", "worse than", against(POINTS, learned_from=1_279)),
    (
        "Dictionary",
        "other rows: unequal L0, 100.00 and 144.00; at",
        against(LEAD._replace(l0s=(100.0, 144.0))),
    ),
]


@mark.parametrize(("line", "part", "change"), SAID)
def test_what_is_said(line, part, change):
    assert part in replace(TOLD, **change).lines[line]
