"""Concepts, cells and probes: what is withheld is withheld, and drops are those that a drawn world
has by construction.
"""

import functools

import numpy as np
from numpy import array
from numpy.random import default_rng
from pytest import approx, mark, raises

from sae_gap import catalogue, open_activations, probing
from sae_gap.core import evenly_spaced
from sae_gap.metrics import SCORES, probes
from sae_gap.probing import concepts
from sae_gap.probing.concepts import split_cells

RNG = default_rng(0)


def drawn(count=4_000, seed=0):
    """Tokens of 40 documents and 200 words, and two independent concepts: of the word, and of the
    document.
    """
    rng = default_rng(seed)
    words = array([f" {a}{b}" for a in "abcdefghij" for b in "klmnopqrstuvwxyzabcd"])
    documents = np.sort(rng.integers(40, size=count))
    tokens = probing.Tokens(
        rng.choice(words, count), documents, array(["even", "odd"])[documents % 2]
    )
    return (
        tokens,
        probing.concept("letters:abcd", tokens),
        probing.concept("topic:odd", tokens),
    )


def test_concepts_are_read_off_the_letters_and_the_document():
    texts = ["The", " bed", " walk", "ing", " walked", ",", " U", ".", " dogs", "S"]
    tokens = probing.Tokens(
        array(texts), array([0] * 9 + [1]), array(["x"] * 9 + ["y"])
    )

    def texts_of(name):
        found = probing.concept(name, tokens)
        return [
            array(texts)[found.defined & (found.has == has)].tolist()
            for has in (True, False)
        ]

    # A word that goes on is not known by its token, and another document does not go on.
    assert texts_of("letters:bu") == [[" bed", " U"], [" walked", " dogs"]]
    assert texts_of("suffix:ed") == [[" walked"], [" bed", " U", " dogs"]]
    assert texts_of("capital") == [
        ["The", " U", "S"],
        [" bed", " walk", "ing", " walked", " dogs"],
    ]
    assert texts_of("space") == [
        [" bed", " walk", " walked", " U", " dogs"],
        ["The", "ing", "S"],
    ]
    assert texts_of("topic:y")[0] == ["S"] and "," not in texts_of("topic:x")[0]
    assert tokens.words.tolist()[:2] == ["the", "bed"]
    for name, words in {
        "letters:A": "is no concept",
        "topic:z": "choose from x, y",
    }.items():
        with raises(ValueError, match=words):
            probing.concept(name, tokens)
    with raises(ValueError, match="write two different concepts as A\\+B"):
        probing.read_pair("capital+capital")


@mark.parametrize("seed", range(3))
def test_the_withheld_cell_never_trains_and_no_document_or_word_is_on_both_sides(seed):
    tokens, a, b = drawn()
    a.defined[:50] = False
    split = split_cells(a, b, tokens, seed)
    assert min(map(min, (*split.train.values(), *split.test.values()))) >= 50
    assert not np.any(a.has[split.train["withheld"]] & b.has[split.train["withheld"]])
    tested = np.concatenate([*split.test.values()])
    for rows in split.train.values():
        for names in (tokens.documents, tokens.words):
            assert not {*names[rows]} & {*names[tested]}
        assert a.has[rows].mean() == 0.5 and len({*rows}) == len(rows) == len(
            split.train["all"]
        )
    for name, rows in split.test.items():
        assert np.all(a.has[rows] == (name[0] == "1")) and np.all(
            b.has[rows] == (name[1] == "1")
        )
    assert len({len(rows) for rows in split.test.values()}) == 1
    rows = split.train["all"]
    assert len({*np.bincount(2 * a.has[rows] + b.has[rows])}) == 1


def test_words_may_be_shared_where_none_decides_and_small_cells_are_refused():
    tokens, a, b = drawn()
    split = split_cells(a._replace(of_words=False), b, tokens, 0)
    assert {*tokens.words[split.train["all"]]} & {*tokens.words[split.test["11"]]}
    a.has[300:] = False
    with raises(
        ValueError, match=r"the cells of letters:abcd\+topic:odd are too small"
    ):
        split_cells(a, b, tokens, 0)


def test_rows_are_chosen_evenly_over_cells_and_words(monkeypatch):
    monkeypatch.setattr(concepts, "WORD_ROWS", 10)
    tokens, a, b = drawn()
    rows = probing.choose_rows([(a, b)], tokens, 400)
    sizes = [inside[rows].sum() for inside in concepts.cells(a, b).values()]
    assert 396 < len(rows) <= 400 and len({*sizes}) == 1 and (np.diff(rows) > 0).all()
    every = probing.choose_rows([(a, b)], tokens, 10_000)
    assert np.unique(tokens.words[every], return_counts=True)[1].tolist() == [10] * 200


@mark.parametrize("k", [1, 2])
def test_drops_are_those_of_the_dictionary(k):
    """With atoms of A and of B nothing drops; an atom of A without B says nothing where B is."""
    tokens, a, b = drawn()
    split = split_cells(a, b, tokens, 0)
    (one, two, three) = 1 + RNG.random((3, len(a.has)))
    both = a.has & b.has
    atoms = (
        [a.has * one, b.has * two]
        if k == 1
        else [(a.has & ~both) * one, both * two, b.has * three]
    )
    noise = RNG.random((len(a.has), 5)) * (RNG.random((len(a.has), 5)) < 0.1)
    codes = np.column_stack([noise, *atoms])
    found = probes.score_pair(
        codes, a.has, split, functools.partial(probes.fit_sparse, k=k)
    )
    assert found["auc_id"] == found["all_auc_ood"] == 1
    assert found["drop"] == 1 - found["auc_ood"] == approx(0.5 * (k == 2), abs=0.1)
    assert (
        found["accuracy_ood"]
        == found["all_accuracy_ood"] - found["accuracy_drop"]
        == 1.5 - 0.5 * k
    )


def test_what_a_requested_l0_decides_is_found_on_some_rows(monkeypatch):
    monkeypatch.setattr(concepts, "MATCHED", 3)
    x = np.arange(24.0).reshape(8, 3)
    held = {"a": probing.Labelled(np.arange(8) > 3, {})}
    source = probing.Probed(
        open_activations(x + 1), held_out=open_activations(x), concepts=held
    )
    task = source.task()
    assert task.id.counted.tolist() == x[evenly_spaced(8, 3)].tolist()
    assert len(task.id.signals) == 8 and task.concepts == held


def test_differences_are_paired_over_pairs(monkeypatch):
    monkeypatch.setattr(catalogue, "default_columns", lambda: ["effective", "absent"])

    def row(dictionary, *drops, codes="own"):
        scores = {f"{name} dense": [0.5] * 3 for name in SCORES} | {
            "drop dense": [*drops]
        }
        told = {
            "dictionary": dictionary,
            "family": "sae",
            "codes": codes,
            "probes": ["dense"],
        }
        return told | scores | {"pairs": ["p", "q", "r"], "splits": 2, "effective": 2.0}

    mine, other, one, _ = probing.overall(
        [
            row("mine", 0.1, 0.5, 0.3),
            row("other", 0.35, 0.75, 0.55),
            row("one", 0.2, None, None),
            row("mine", 1.0, 1.0, 1.0, codes="lasso"),
        ],
        "mine",
    )
    assert (mine["drop"], mine["more_drop"]) == approx((0.3, 0)) and mine["pairs"] == 3
    assert mine["effective"] == 2 and "absent" not in mine
    # Student's t of two degrees of freedom, and a deviation of 0.2.
    assert mine["drop_half"] == approx(4.3027 * 0.2 / 3**0.5, rel=1e-4)
    assert (other["more_drop"], other["more_drop_half"]) == approx((0.25, 0), abs=1e-9)
    assert (one["drop"], one["drop_half"], one["more_drop"]) == (0.2, None, approx(0.1))
