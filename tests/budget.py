"""Tokens of code by folder, held against the budget in pyproject.toml: `make lint` runs it.

A token is a name, an operator, a number or a string outside docstrings. A commit that raises a
number of the budget names what it retires.
"""

import ast
import collections
import pathlib
import sys
import tokenize
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
COUNTED = {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING}
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def tokens(path: pathlib.Path) -> int:
    """The tokens of a file outside docstrings."""
    tree = ast.parse(path.read_bytes())
    nodes = [node for node in ast.walk(tree) if isinstance(node, DOCUMENTED)]
    docstrings = {node.body[0].lineno for node in nodes if ast.get_docstring(node, clean=False)}
    with path.open("rb") as file:
        found = [*tokenize.tokenize(file.readline)]
    return sum(token.type in COUNTED and token.start[0] not in docstrings for token in found)


def by_folder(root: pathlib.Path) -> collections.Counter[str]:
    """The tokens of each folder of the code two levels deep, of the code, and of the tests."""
    found = collections.Counter[str]()
    for top in ("sae_gap", "benchmarks", "tests"):
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).parts
            folder = "/".join(parts[:2]) if len(parts) > 2 and top != "tests" else top
            count = tokens(path)
            found[folder] += count
            if top != "tests":
                found["code"] += count
    return found


def main() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        budget = tomllib.load(file)["tool"]["sae_gap"]["budget"]
    found = by_folder(ROOT)
    for folder in sorted({*budget, *found}):
        print(f"{found[folder]:>9,} of {budget.get(folder, 0):>9,} tokens  {folder}")
    beyond = [folder for folder in found if found[folder] > budget.get(folder, 0)]
    if beyond:
        sys.exit(
            f"{', '.join(beyond)}: beyond the budget of [tool.sae_gap.budget] in pyproject.toml; "
            "retire as much elsewhere, or raise the number and name what that retires."
        )


if __name__ == "__main__":
    main()
