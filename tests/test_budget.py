"""The counter of words counts what it says, and nothing hides from it in a stub."""

import ast
from pathlib import Path

from pytest import mark

from tests import budget

ROOT = Path(__file__).parents[1]


@mark.parametrize(
    ("source", "words"),
    [
        ("a = b + 1", 4),
        ("f(x, y=2)[0].z", 6),
        ('def f():\n    """Docstring."""\n    return 1', 4),
        ("import os\nfrom a import (\n    b as c,\n)\nc", 1),
        ("def f(x: int | None = None, *, y: list[str]) -> dict[str, int]: ...", 7),
        ("x: dict[str, int] = 1", 2),
        ("x = f'{a + b!r:>{width}}'", 2),
        ('é = "é"; b: int = 2', 5),
    ],
)
def test_words_are_names_numbers_strings_and_operators(source, words, tmp_path):
    path = tmp_path / "module.py"
    path.write_text(source)
    assert budget.words_of_code(path) == words


def test_blocks_of_code_are_no_words_of_a_page():
    assert budget.words_of_text("one two\n```sh\nmake bench\n```\nthree `four`\n") == 4


def test_stubs_hold_imports_alone():
    """The only name that a stub declares otherwise is the version."""
    stubs = [
        path
        for top in ("sae_gap", "benchmarks")
        for path in (ROOT / top).rglob("*.pyi")
    ]
    assert len(stubs) > 10
    others = []
    for path in stubs:
        for node in ast.parse(path.read_bytes()).body:
            if not isinstance(node, ast.ImportFrom):
                others.append(ast.unparse(node))
    assert others == ["__version__: str"]


def test_folders_add_up_and_tests_are_apart(tmp_path):
    for name in (
        "sae_gap/core/a.py",
        "sae_gap/b.py",
        "benchmarks/real/c.py",
        "tests/core/d.py",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x + y")
    (tmp_path / "README.md").write_text("one\n```\ntwo\n```\n")
    (tmp_path / "sae_gap" / "README.md").write_text("three four")
    assert budget.count_words(tmp_path) == {
        "sae_gap/core": 3,
        "sae_gap": 3,
        "benchmarks/real": 3,
        "code": 9,
        "tests": 3,
        "pages": 6,
        "README.md": 1,
    }
