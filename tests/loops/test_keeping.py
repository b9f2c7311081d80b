"""Compiled functions are kept on disk."""

import importlib.util

import numba
import pytest

from sae_gap.loops.keeping import kept


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Compiles a function as a new process would, with its cache in a folder of its own."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "module.py").write_text("def double(x):\n    return 2 * x\n")

    def compiled(**imported):
        spec = importlib.util.spec_from_file_location("module", tmp_path / "module.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        vars(module).update(imported)
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


def test_a_change_of_an_imported_number_compiles_anew(compiled):
    hits(compiled(LEAST=1e-5))
    assert hits(compiled(LEAST=1e-4)) == 0 and hits(compiled(LEAST=1e-4)) == 1


def test_what_has_no_file_is_compiled_all_the_same():
    assert kept(eval("lambda x: 2 * x"))(2) == 4
