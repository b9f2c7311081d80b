"""Each name of a folder's face is there."""

import ast
import importlib
import pathlib

import pytest

import sae_gap

ROOT = pathlib.Path(sae_gap.__file__).parent
STUBS = sorted(ROOT.rglob("__init__.pyi"))


@pytest.mark.parametrize("stub", STUBS)
def test_a_face_has_the_names_of_its_stub_from_where_they_are_defined(stub):
    face = importlib.import_module(".".join(stub.parent.relative_to(ROOT.parent).parts))
    imports = [node for node in ast.parse(stub.read_text()).body if type(node) is ast.ImportFrom]
    for node in imports:
        home = importlib.import_module(node.module)
        for name in node.names:
            assert getattr(face, name.name) is getattr(home, name.name) and name.name in dir(face)
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        _ = face.nope
    assert len(STUBS) > 10
