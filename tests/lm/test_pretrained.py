"""The tokenizer of a file and one from elsewhere, and what is refused."""

import numpy as np
import pytest
import tokenizers

from sae_gap.lm.pretrained import load_lm
from tests import tiny


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return tiny.tiny_lm(tmp_path_factory.mktemp("lm"))


def pieces(lm, text):
    (ids,) = lm.tokenise([text])
    return [lm.tokenizer.id_to_token(number) for number in ids]


def test_merges_are_those_of_the_file_within_words_and_digits_stand_alone(lm):
    # The vocabulary has t h, th e, Ġ the, i n and 1 2, and bytes: Ġ is a space, and é two bytes.
    assert pieces(lm, "then the hint") == ["the", "n", "Ġthe", "Ġ", "h", "in", "t"]
    assert pieces(lm, "in 12") == ["in", "Ġ", "1", "2"]
    assert pieces(lm, "é") == ["Ã", "©"]
    assert lm.tokenizer.decode(lm.tokenise(["the hint, 12 é\n"])[0]) == "the hint, 12 é\n"
    assert lm.name == "tiny" and lm.tokenise([""])[0].dtype == np.int32


def test_a_tokenizer_from_elsewhere_has_its_marks_and_is_part_of_the_identity(lm, tmp_path):
    tiny.write_lm(tmp_path / "tiny.gguf")
    other = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"the": 0, "cat": 1, "<s>": 2}, unk_token="the")
    )
    other.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    other.post_processor = tokenizers.processors.TemplateProcessing(
        "<s> $A", special_tokens=[("<s>", 2)]
    )
    other.enable_truncation(2)
    other.save(str(tmp_path / "tokenizer.json"))
    found = load_lm(tmp_path / "tiny.gguf", tmp_path / "tokenizer.json")
    assert found.tokenise(["cat the cat"])[0].tolist() == [2, 1, 0, 1]
    assert found.identity != lm.identity
    assert load_lm(tmp_path / "tiny.gguf").identity == lm.identity


def test_files_that_differ_have_other_identities(lm, tmp_path):
    tiny.write_lm(tmp_path / "tiny.gguf", seed=1)
    assert load_lm(tmp_path / "tiny.gguf").identity != lm.identity


def test_what_is_no_tokenizer_of_the_model_is_said_in_a_sentence(tmp_path):
    path, own = tmp_path / "tiny.gguf", tmp_path / "tokenizer.json"
    tiny.write_lm(path, pre="llama-bpe")
    with pytest.raises(
        ValueError,
        match=r"kind gpt2/llama-bpe, .*; name the tokenizer\.json of the model as tokenizer\.$",
    ):
        load_lm(path)
    with pytest.raises(
        ValueError, match=r"tokenizer\.json is not a file; check the path, or download it again\.$"
    ):
        load_lm(path, own)
    for large in ({f"word {i}": i for i in range(300)}, {"the": 0, "a gap": 299}):
        tokenizers.Tokenizer(tokenizers.models.WordLevel(large, unk_token="word 0")).save(str(own))
        with pytest.raises(
            ValueError,
            match=r"has 300 tokens, but the model of .* has 261; give the model's own\.$",
        ):
            load_lm(path, own)
