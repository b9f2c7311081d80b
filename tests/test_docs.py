"""The reference: everything public says what it is, and the pages made of that hold together."""

import ast
import importlib
import inspect
import re
import sys

import pytest
import reference

WITH_FAULTS = '''"""A module."""

from typing import NamedTuple

# Told.
TOLD, ALSO = 1, 2
SHARED = 3

SILENT = 4
BELOW = 5
"""Told below."""


class Bare(NamedTuple):
    field: int


class Base:
    """Told."""

    def told(self):
        """Told."""

    def silent(self):
        return self

    @property
    def quiet(self):
        return 0

    def _inner(self):
        return 0


class Child(Base):
    """Told."""

    def told(self):
        return 1


def silent():
    return 0


def _inner():
    return 0
'''


@pytest.fixture
def invented(tmp_path, monkeypatch):
    """Names a module of a text."""

    def invent(text):
        (tmp_path / "invented.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "invented", raising=False)
        return "invented"

    return invent


def test_every_public_name_says_what_it_is():
    names = reference.module_names()
    assert {"sae_gap", "sae_gap.solvers.coding", "sae_gap.measure.curve"} <= {*names}
    assert not [name for name in names if "__main__" in name]
    assert [fault for name in names for fault in reference.undocumented(name)] == []


def test_mathematics_is_written_in_one_way():
    """In Unicode, between single backticks: ½‖y − D z‖², neither ASCII nor LaTeX."""
    others = re.compile(r"``|\|\||\^[T0-9{]|:math:|\\[a-z]+\{|\$[^$\n]+\$")
    faults = []
    for name in reference.module_names():
        tree = ast.parse(inspect.getsource(importlib.import_module(name)))
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
        texts = [
            ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds)
        ]
        faults += [f"{name}: {text}" for text in texts if others.search(text)]
    assert faults == []


def test_what_says_nothing_is_found(invented):
    found = reference.undocumented(invented(WITH_FAULTS))
    assert {*found} == {
        f"invented.{name}" for name in ("SILENT", "Bare", "Base.silent", "Base.quiet", "silent")
    }


def test_a_public_face_answers_for_what_it_lists(invented):
    assert reference.undocumented(invented(f"{WITH_FAULTS}\n\n__all__ = ['TOLD', 'silent']\n")) == [
        "invented.silent"
    ]
    assert reference.undocumented(invented("x = 1\n__all__ = []\n")) == ["invented"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    reference.build(
        folder,
        [
            "sae_gap",
            "sae_gap.core",
            "sae_gap.core.lasso_problem",
            "sae_gap.core.types",
            "sae_gap.solvers.coding",
            "sae_gap.solvers",
            "sae_gap.metrics.gap",
        ],
    )
    return folder


def test_a_page_has_arguments_types_and_mathematics_and_needs_no_network(pages):
    page = (pages / "sae_gap/solvers/coding.html").read_text()
    for section in ("Arguments:", "Returns:", "Raises:"):
        assert f">{section}</h6>" in page
    assert re.search(r"<strong>lam:</strong>\s+\w+", page)
    others = [
        (pages / f"sae_gap/{name}.html").read_text()
        for name in ("core/lasso_problem", "core/types", "metrics/gap")
    ]
    for text in (page, *others):
        assert "jaxlib._jax" not in text and "Union[jax" not in text
        assert "field number" not in text and "new instance of" not in text
        assert 'src="http' not in text and "<em>" not in text
    assert "ArrayLike" in page
    face = (pages / "sae_gap.html").read_text()
    assert re.search("½ ?‖y", face)
    assert 'id="sparse_code"' in face and 'href="sae_gap/core.html"' in face
    assert re.search(
        "sae_gap.core.lasso_problem</a></code>:\\s+The lasso",
        (pages / "sae_gap/core.html").read_text(),
    )
    # Fields of a dataclass are told by its text.
    assert 'id="Setting.num_latents"' not in face and re.search(
        r"<strong>num_latents:</strong>\s+number of concepts", face
    )


def test_links_lead_somewhere_and_broken_ones_are_found(pages):
    assert reference.broken(pages) == []
    (pages / "more.html").write_text(
        '<a id="here" href="#here"></a><a href="index.html"></a><a href="gone.html"></a>'
        '<a href="sae_gap/core.html#gone"></a><a href="#gone"></a><a href="https://example.org/gone"></a><img src="gone.png">'
    )
    assert reference.broken(pages) == [
        f"more.html: {target}"
        for target in ("gone.html", "sae_gap/core.html#gone", "#gone", "gone.png")
    ]


def test_types_are_spelled_as_in_the_source():
    import numpy as np
    from jax.typing import ArrayLike
    from jaxtyping import Array, Float

    spelled = {
        "ArrayLike": ArrayLike,
        "ArrayLike | None": ArrayLike | None,
        "Float[ArrayLike, 'n d']": Float[ArrayLike, "n d"],
        "Float[ArrayLike, 'n d'] | None": Float[ArrayLike, "n d"] | None,
        "Float[Array, 'n d']": Float[Array, "n d"],
        "Float[ndarray, 'n d'] | None": Float[np.ndarray, "n d"] | None,
        "int | None": int | None,
    }
    assert [repr(reference.spell(annotation)) for annotation in spelled.values()] == [*spelled]
