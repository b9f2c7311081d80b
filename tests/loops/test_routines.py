"""Compiled functions are kept on disk."""

import importlib.util

import numba
from pytest import fixture

from sae_gap.loops.routines import kept


@fixture
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


def test_a_function_is_compiled_anew_when_a_file_of_its_folder_or_a_number_changes(
    compiled, tmp_path
):
    def compiles(**imported):
        function = compiled(**imported)
        assert function(2) == 4
        return not function.stats.cache_hits

    found = [compiles(), compiles(), compiles(LEAST=1e-5), compiles(LEAST=1e-4)]
    (tmp_path / "routines.py").write_text("")
    assert [*found, compiles(), compiles()] == [True, False, True, True, True, False]
    # Without a file.
    assert kept(eval("lambda x: 2 * x"))(2) == 4
