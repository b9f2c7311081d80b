"""Concepts that a token has or has not, exactly: from its letters and from the topic of its document."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

# A token of letters, with the space that begins a word or without.
_LETTERS = re.compile(" ?[A-Za-z]+")
# A word of fewer letters than this beyond a suffix has none: "bed" is no past tense.
_STEM = 2


class Tokens(NamedTuple):
    """The tokens of activations, a row each, in the order of documents and then of tokens.

    Attributes:
      texts: of each token, with the space that it begins with, (n,) strings.
      documents: of each, (n,).
      topics: of each one's document, (n,) strings; None where documents have none.
    """

    texts: np.ndarray
    documents: Int[np.ndarray, " n"]
    topics: np.ndarray | None = None

    def at(self, rows: np.ndarray) -> "Tokens":
        """Some of the rows. Whether a word ends there is lost with its neighbour, so concepts are found before."""
        return Tokens(self.texts[rows], self.documents[rows], None if self.topics is None else self.topics[rows])

    @property
    def words(self) -> np.ndarray:
        """The letters of each token in lower case, which is its word type, (n,) strings."""
        return np.array([text.strip().lower() for text in self.texts])


class Concept(NamedTuple):
    """A binary concept of tokens.

    Attributes:
      name: as `concept` takes it.
      has: which tokens have it, (n,).
      defined: which tokens have it or not, (n,); of the others it says nothing.
      of_words: whether the word decides, so that training and test must not share words.
    """

    name: str
    has: Bool[np.ndarray, " n"]
    defined: Bool[np.ndarray, " n"]
    of_words: bool

    def at(self, rows: np.ndarray) -> "Concept":
        """The same concept of some of the rows."""
        return self._replace(has=self.has[rows], defined=self.defined[rows])


def concept(name: str, tokens: Tokens) -> Concept:
    """A concept by its name.

    - `letters:abc`: the word begins with one of these letters, of words that are one token.
    - `suffix:ing`: the word ends so after two letters or more, of words that are one token.
    - `capital`: the first letter is a capital, of tokens of letters.
    - `space`: a space goes before, of tokens of letters: a word begins here.
    - `topic:sport`: the document is of this topic, of tokens of letters.

    Args:
      name: one of these.
      tokens: all tokens, none left out between two that stand side by side.

    Returns:
      The concept.

    Raises:
      ValueError: there is no such concept, or documents have no such topic.
    """
    kind, _, value = name.partition(":")
    letters = np.array([_LETTERS.fullmatch(text) is not None for text in tokens.texts])
    whole = letters & _begins(tokens) & _ends(tokens)
    if kind == "letters" and re.fullmatch("[a-z]+", value):
        return Concept(name, np.array([word[:1] in value and bool(word) for word in tokens.words]), whole, True)
    if kind == "suffix" and re.fullmatch("[a-z]+", value):
        return Concept(name, _has_suffix(tokens.words, value), whole, True)
    if name == "capital":
        return Concept(name, np.array([text.strip()[:1].isupper() for text in tokens.texts]), letters, True)
    if name == "space":
        return Concept(name, _begins(tokens), letters, True)
    if kind == "topic":
        topics = [] if tokens.topics is None else sorted(set(tokens.topics.tolist()))
        if value in topics:
            return Concept(name, tokens.topics == value, letters, False)  # type: ignore[arg-type]
        raise ValueError(f"no document is of the topic {value!r}; choose from {', '.join(topics) or 'other concepts'}.")
    raise ValueError(f"{name!r} is no concept; choose letters:abc, suffix:ing, capital, space or topic:NAME.")


def read_pair(text: str) -> tuple[str, str]:
    """The names of a pair that is written A+B, where A is probed and its meeting with B is withheld.

    Raises:
      ValueError: it is not one.
    """
    first, plus, second = text.partition("+")
    if not (first and plus and second) or "+" in second or first == second:
        raise ValueError(f"{text!r} is no pair; write two different concepts as A+B, such as topic:sport+capital.")
    return first, second


def _begins(tokens: Tokens) -> Bool[np.ndarray, " n"]:
    return np.array([text.startswith(" ") for text in tokens.texts])


def _ends(tokens: Tokens) -> Bool[np.ndarray, " n"]:
    """Whether the token after, if its document has one, goes on with no letter."""
    goes_on: Sequence[bool] = [text[:1].isalpha() for text in tokens.texts[1:]]
    same = tokens.documents[1:] == tokens.documents[:-1]
    return ~np.append(np.array(goes_on, bool) & same, False)


def _has_suffix(words: np.ndarray, suffix: str) -> Bool[np.ndarray, " n"]:
    return np.array([word.endswith(suffix) and len(word) >= len(suffix) + _STEM for word in words])
