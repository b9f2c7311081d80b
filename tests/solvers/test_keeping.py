"""Compiled functions are kept on disk, whatever is wrong with it."""

import importlib.util
import os

import numba
import pytest

from sae_gap.solvers.keeping import kept


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Compiles a function as a new process would, with its cache in a folder of its own."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "module.py").write_text("def double(x):\n    return 2 * x\n")

    def compiled():
        spec = importlib.util.spec_from_file_location("module", tmp_path / "module.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return kept(module.double)

    return compiled


def hits(function):
    assert function(2) == 4
    return sum(function.stats.cache_hits.values())


def test_a_second_process_compiles_nothing(compiled):
    assert hits(compiled()) == 0 and hits(compiled()) == 1


def test_a_change_of_another_file_of_the_folder_compiles_anew(compiled, tmp_path):
    hits(compiled())
    (tmp_path / "routines.py").write_text("")
    assert hits(compiled()) == 0 and hits(compiled()) == 1


@pytest.mark.parametrize("length", [0, 40])
@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_a_file_that_was_cut_short_is_compiled_anew_and_mended(compiled, tmp_path, ending, length):
    hits(compiled())
    (file,) = (tmp_path / "cache").rglob(f"*.{ending}")
    file.write_bytes(file.read_bytes()[:length])
    assert hits(compiled()) == 0 and hits(compiled()) == 1


@pytest.mark.parametrize("damaged", [False, True])
def test_a_full_disk_is_only_warned_of(compiled, tmp_path, monkeypatch, caplog, damaged):
    if damaged:
        hits(compiled())
        (index,) = (tmp_path / "cache").rglob("*.nbi")
        index.write_bytes(b"")

    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert hits(compiled()) == 0 and "cannot be kept" in caplog.text
    assert damaged or "No space left" in caplog.text


def test_what_has_no_file_is_compiled_all_the_same():
    assert kept(eval("lambda x: 2 * x"))(2) == 4
