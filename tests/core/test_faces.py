"""Each name of a folder's face is there."""

import importlib
import pathlib
import re

import pytest

import sae_gap

ROOT = pathlib.Path(sae_gap.__file__).parent


@pytest.mark.parametrize("stub", sorted(ROOT.rglob("__init__.pyi")))
def test_a_face_has_the_names_of_its_stub_from_where_they_are_defined(stub):
    face = importlib.import_module(".".join(stub.parent.relative_to(ROOT.parent).parts))
    for name in dir(face):
        home = re.search(rf"from (\S+) import \(?\s*{name} as", stub.read_text())[1]
        assert getattr(face, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        _ = face.nope
