"""The four cells of a pair of concepts, split into training and test so that nothing but the concepts is shared.

A cell is named by whether its rows have A and whether they have B: "10" has A without B. Training and test never share a
document and, where a word decides on one of the concepts, never a word type.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from sae_gap.measure.probing.concepts import Concept, Tokens

CELLS = ("11", "10", "01", "00")
# Rows of a cell in a training set of so many of A and as many without, if all cells are there and if one is withheld.
SHARES = {"all": {"11": 1, "10": 1, "01": 1, "00": 1}, "withheld": {"10": 2, "01": 1, "00": 1}}
# Share of the documents, and of the word types, that train.
TRAIN = 0.6
# Rows of one word type that are looked at, so that no frequent word makes up a cell.
WORD_ROWS = 50
# A cell of fewer rows in a training or test set says nothing.
FEWEST = 20


class Split(NamedTuple):
    """Rows of one pair and one seed.

    Attributes:
      train: for "all" and for "withheld", as many rows with A as without.
      test: for each cell, equally many rows.
    """

    train: Mapping[str, Int[np.ndarray, " n"]]
    test: Mapping[str, Int[np.ndarray, " n"]]


def cells(a: Concept, b: Concept) -> dict[str, Bool[np.ndarray, " n"]]:
    """Which rows are in each cell; in none where one of the concepts says nothing."""
    known = a.defined & b.defined
    return {name: known & (a.has == (name[0] == "1")) & (b.has == (name[1] == "1")) for name in CELLS}


def choose_rows(
    pairs: Sequence[tuple[Concept, Concept]], tokens: Tokens, most: int, seed: int = 0
) -> Int[np.ndarray, " chosen"]:
    """At most so many rows, of which every cell of every pair has as equal a number as there are.

    Of each word type at most `WORD_ROWS` are looked at, drawn at random.

    Args:
      pairs: of concepts of all tokens.
      tokens: all of them.
      most: rows to choose.
      seed: of the draw.

    Returns:
      Their numbers, ascending.
    """
    order = np.random.default_rng(seed).permutation(len(tokens.texts))
    _, word = np.unique(tokens.words[order], return_inverse=True)
    few = order[_place_among_its_like(word) < WORD_ROWS]
    ranked = [few[inside[few]] for a, b in pairs for inside in cells(a, b).values()]

    def first(count: int) -> Int[np.ndarray, " some"]:
        return np.unique(np.concatenate([rows[:count] for rows in ranked]))

    low, high = 0, max(map(len, ranked))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(first(middle)) <= most else (low, middle - 1)
    return first(low)


def split_cells(a: Concept, b: Concept, tokens: Tokens, seed: int) -> Split:
    """Draws training and test rows of a pair.

    With t rows of each cell for training at hand, both training sets have 2m rows of A and 2m without, of

    - "all": m each of 11, 10, 01 and 00;
    - "withheld": 2m of 10, m of 01 and m of 00, none of 11,

    where m is the largest number that all cells allow. Test sets have equally many rows of each cell.

    Args:
      a: the concept that is probed, of these tokens.
      b: the other, of these tokens.
      tokens: the rows to draw from.
      seed: of the split and of the draw.

    Returns:
      The rows, by their numbers among `tokens`.

    Raises:
      ValueError: a cell is too small.
    """
    rng = np.random.default_rng(seed)
    train, test = _halves(tokens.documents, rng)
    if a.of_words or b.of_words:
        seen, unseen = _halves(tokens.words, rng)
        train, test = train & seen, test & unseen
    inside = cells(a, b)
    learned = {name: rng.permutation(np.flatnonzero(inside[name] & train)) for name in CELLS}
    held = {name: rng.permutation(np.flatnonzero(inside[name] & test)) for name in CELLS}
    unit = min(len(learned[name]) // SHARES[kind][name] for kind in SHARES for name in SHARES[kind])
    fewest = min(map(len, held.values()))
    if min(unit, fewest) < FEWEST:
        sizes = ", ".join(f"{name} has {len(learned[name])} and {len(held[name])}" for name in CELLS)
        raise ValueError(
            f"the cells of {a.name}+{b.name} are too small: of rows to train and to test on {sizes}, "
            f"where {FEWEST} are the least; give more documents or leave the pair out."
        )
    sets = {kind: np.concatenate([learned[name][: share * unit] for name, share in SHARES[kind].items()]) for kind in SHARES}
    return Split(sets, {name: held[name][:fewest] for name in CELLS})


def _halves(names: np.ndarray, rng: np.random.Generator) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """The rows of the names that train, and those of the others."""
    every, member = np.unique(names, return_inverse=True)
    chosen = np.zeros(len(every), bool)
    chosen[rng.permutation(len(every))[: round(TRAIN * len(every))]] = True
    return chosen[member], ~chosen[member]


def _place_among_its_like(groups: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """How many of its own group go before each entry."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.searchsorted(ordered, ordered)
    place = np.empty(len(groups), int)
    place[order] = np.arange(len(groups)) - starts
    return place
