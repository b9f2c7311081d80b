"""Concepts that a token exactly has or has not, and training and test rows for pairs of them, as a
source.

A concept is read off the letters of a token or the topic of its document. The rows of two concepts
A and B make four cells, named by whether they have A and whether they have B: "10" has A without
B. Training and test share no document and, where a word decides on a concept, no word type.
"""

import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int
from numpy import arange, argsort, array, concatenate, unique

from sae_gap.core import Task, evenly_spaced
from sae_gap.data import HeldOut
from sae_gap.storage import digest

# Rows with both concepts, with the first or the second alone, and with neither.
CELLS = ("11", "10", "01", "00")
# Rows of each cell in a training set, with all cells and with one withheld.
SHARES = {
    "all": dict.fromkeys(CELLS, 1),
    "withheld": {"10": 2, "01": 1, "00": 1},
}
# Share of the documents, and of the word types, for training.
TRAIN = 0.6
# Rows of one word type to consider, so that no frequent word dominates a cell.
WORD_ROWS = 50
# Rows on which encoders find parameters for a requested L0.
MATCHED = 2_000
# A training or test cell with fewer rows says nothing.
FEWEST = 20
# A token of letters, with the space that begins a word or without.
_LETTERS = re.compile(" ?[A-Za-z]+")


class Tokens(NamedTuple):
    """The tokens of activations, a row each, in the order of documents and then of tokens.

    Attributes:
      texts: text of each token, with a leading space if it has one, (n,) strings.
      documents: document of each token, (n,).
      topics: topic of each token's document, (n,) strings; None if documents have none.
    """

    texts: np.ndarray
    documents: Int[np.ndarray, " n"]
    topics: np.ndarray | None = None

    def at(self, rows: np.ndarray) -> "Tokens":
        """Some of the rows; the neighbours that show whether a word ends are lost."""
        return Tokens(*(None if part is None else part[rows] for part in self))  # type: ignore[arg-type]

    @property
    def words(self) -> np.ndarray:
        """The word type of each token, its letters in lower case, (n,) strings."""
        return array([text.strip().lower() for text in self.texts])


class Concept(NamedTuple):
    """A binary concept of tokens.

    Attributes:
      name: as `concept` takes it.
      has: which tokens have it, (n,).
      defined: for which tokens it is defined, (n,).
      of_words: whether the word decides, so that training and test must not share words.
    """

    name: str
    has: Bool[np.ndarray, " n"]
    defined: Bool[np.ndarray, " n"]
    of_words: bool

    def at(self, rows: np.ndarray) -> "Concept":
        """The same concept for some of the rows."""
        return self._replace(has=self.has[rows], defined=self.defined[rows])


class Split(NamedTuple):
    """Rows of one pair and one seed.

    Attributes:
      train: for "all" and for "withheld", as many rows with A as without.
      test: for each cell, equally many rows.
    """

    train: Mapping[str, Int[np.ndarray, " n"]]
    test: Mapping[str, Int[np.ndarray, " n"]]


class Labelled(NamedTuple):
    """A concept to probe.

    Attributes:
      has: which rows have it, (n,).
      splits: splits of these rows, by seed.
    """

    has: Bool[np.ndarray, " n"]
    splits: Mapping[int, Split]


def concept(name: str, tokens: Tokens) -> Concept:
    """A concept by its name.

    - `letters:abc`: the word begins with one of these letters; for words of one token.
    - `suffix:ing`: the word ends so after two letters or more; for words of one token.
    - `capital`: the first letter is a capital; for tokens of letters.
    - `space`: a space goes before, so that a word begins here; for tokens of letters.
    - `topic:sport`: the document is of this topic; for tokens of letters.

    Args:
      name: one of these.
      tokens: all tokens, without gaps between neighbours.

    Returns:
      The concept.

    Raises:
      ValueError: there is no such concept, or documents have no such topic.
    """
    kind, _, value = name.partition(":")
    texts = tokens.texts.tolist()
    letters = array([_LETTERS.fullmatch(text) is not None for text in texts])
    begins = array([text.startswith(" ") for text in texts])
    if kind in ("letters", "suffix") and re.fullmatch("[a-z]+", value):
        # At least two letters go before a suffix: "bed" is no past tense.
        spelled = re.compile(f"[{value}].*" if kind == "letters" else f".{{2,}}{value}")
        has = array(
            [spelled.fullmatch(word) is not None for word in tokens.words.tolist()]
        )
        return Concept(name, has, letters & begins & _ends(tokens), True)
    if name == "capital":
        has = array([text.strip()[:1].isupper() for text in texts])
        return Concept(name, has, letters, True)
    if name == "space":
        return Concept(name, begins, letters, True)
    if kind == "topic":
        topics = set() if tokens.topics is None else {*tokens.topics.tolist()}
        if value in topics:
            return Concept(name, np.asarray(tokens.topics == value), letters, False)
        raise ValueError(
            f"no document is of the topic {value!r}; choose from "
            f"{', '.join(sorted(topics)) or 'other concepts'}."
        )
    raise ValueError(
        f"{name!r} is no concept; choose letters:abc, suffix:ing, capital, space or topic:NAME."
    )


def _ends(tokens: Tokens) -> Bool[np.ndarray, " n"]:
    """True for tokens that end a word: the document's next token does not begin with a letter."""
    goes_on = array([text[:1].isalpha() for text in tokens.texts[1:].tolist()], bool)
    return ~np.append(goes_on & (np.diff(tokens.documents) == 0), False)


def read_pair(text: str) -> tuple[str, str]:
    """The names in a pair A+B: A is probed, and rows with both are withheld.

    Raises:
      ValueError: it is not a pair.
    """
    a, _, b = text.partition("+")
    if not a or not b or a == b or "+" in b:
        raise ValueError(
            f"{text!r} is no pair; write two different concepts as A+B, such as "
            "topic:sport+capital."
        )
    return a, b


def cells(a: Concept, b: Concept) -> dict[str, Bool[np.ndarray, " n"]]:
    """The rows of each cell of two concepts, as masks by name; rows where one is undefined are in
    none.
    """
    kinds = np.where(a.defined & b.defined, 2 * a.has + b.has, -1)
    return {name: kinds == int(name, 2) for name in CELLS}


def choose_rows(
    pairs: Sequence[tuple[Concept, Concept]], tokens: Tokens, most: int, seed: int = 0
) -> Int[np.ndarray, " chosen"]:
    """At most `most` rows, as far as possible equally many of every cell of every pair.

    At most `WORD_ROWS` random rows of each word type are considered.

    Args:
      pairs: pairs of concepts of all tokens.
      tokens: all tokens.
      most: rows to choose.
      seed: seed of the draw.

    Returns:
      Their numbers, ascending.
    """
    order = np.random.default_rng(seed).permutation(len(tokens.texts))
    _, word = unique(tokens.words[order], return_inverse=True)
    few = order[_rank_in_group(word) < WORD_ROWS]
    ranked = [few[inside[few]] for a, b in pairs for inside in cells(a, b).values()]

    def first(count: int) -> Int[np.ndarray, " chosen"]:
        return unique(concatenate([rows[:count] for rows in ranked]))

    counts = range(1, max(map(len, ranked)) + 1)
    return first(bisect_right(counts, most, key=lambda count: len(first(count))))


def split_cells(a: Concept, b: Concept, tokens: Tokens, seed: int) -> Split:
    """Draws training and test rows of a pair.

    Both training sets have 2m rows with A and 2m without:

    - "all": m each of 11, 10, 01 and 00;
    - "withheld": 2m of 10, m of 01 and m of 00, none of 11,

    where m is the largest number that all cells allow. Test sets have equally many rows of each
    cell.

    Args:
      a: the concept to probe, for these tokens.
      b: the other, for these tokens.
      tokens: the rows to draw from.
      seed: seed of the split and of the draw.

    Returns:
      The numbers of the rows among `tokens`.

    Raises:
      ValueError: a cell is too small.
    """
    rng = np.random.default_rng(seed)
    train, test = _halves(tokens.documents, rng)
    if a.of_words or b.of_words:
        seen, unseen = _halves(tokens.words, rng)
        train = train & seen
        test = test & unseen
    inside = cells(a, b)

    def draw(part: Bool[np.ndarray, " n"]) -> dict[str, Int[np.ndarray, " cell"]]:
        return {
            name: rng.permutation(np.flatnonzero(inside[name] & part)) for name in CELLS
        }

    learned = draw(train)
    held = draw(test)
    unit = min(
        len(learned[name]) // share
        for parts in SHARES.values()
        for name, share in parts.items()
    )
    fewest = min(map(len, held.values()))
    if min(unit, fewest) < FEWEST:
        sizes = (
            f"{name} has {len(learned[name])} and {len(held[name])}" for name in CELLS
        )
        raise ValueError(
            f"the cells of {a.name}+{b.name} are too small: of rows to train and to test on "
            f"{', '.join(sizes)}, where {FEWEST} are the least; "
            "give more documents or leave the pair out."
        )
    sets = {
        kind: concatenate(
            [learned[name][: share * unit] for name, share in parts.items()]
        )
        for kind, parts in SHARES.items()
    }
    return Split(sets, {name: rows[:fewest] for name, rows in held.items()})


def _halves(
    names: np.ndarray, rng: np.random.Generator
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Masks of the rows whose names are drawn for training, and of the others."""
    every, member = unique(names, return_inverse=True)
    train = np.zeros(len(every), bool)
    train[rng.permutation(len(every))[: round(TRAIN * len(every))]] = True
    return train[member], ~train[member]


def _rank_in_group(groups: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """For each entry, how many entries of its group come before it."""
    order = argsort(groups, kind="stable")
    ordered = groups[order]
    ranks = arange(len(groups)) - np.searchsorted(ordered, ordered)
    return ranks[argsort(order)]


@dataclass(frozen=True, eq=False)
class Probed(HeldOut):
    """Rows to code and probe, as `held_out`, beside those for the learners.

    Args:
      concepts: the concepts to probe on all held-out rows, by name. A requested L0 is a mean over
        2,000 of these rows; only they count for the explained variance.
    """

    concepts: Mapping[str, Labelled] = field(default_factory=dict)

    @property
    def counts(self) -> Bool[np.ndarray, " n"]:
        """True for the rows that count, (n,)."""
        every = arange(len(self.scored))
        return np.isin(every, evenly_spaced(len(every), MATCHED))

    def task(self) -> Task:
        """The rows for the learners, and those to probe with their concepts."""
        return replace(super().task(), concepts=self.concepts)

    def asdict(self) -> dict[str, Any]:
        """The settings that decide the data and what is probed."""
        leaves, structure = jax.tree.flatten(self.concepts)
        return super().asdict() | {
            "concepts": digest([*leaves, str(structure), *self.concepts])
        }
