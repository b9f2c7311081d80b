"""Tokens of the code and of the tests, below two ceilings: `make lint` runs it.

A token is a name, an operator, a number or a string outside docstrings; an f-string is one token
on every Python. Ceilings only fall: a commit that removes code lowers them, none raises them.
"""

import ast
import collections
import pathlib
import sys
import tokenize

ROOT = pathlib.Path(__file__).resolve().parents[1]
CEILINGS = {"code": 205_000, "tests": 185_000}
COUNTED = {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING}
# From Python 3.12 on the tokenizer takes f-strings apart.
OPENS = getattr(tokenize, "FSTRING_START", None)
CLOSES = getattr(tokenize, "FSTRING_END", None)
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def tokens(path: pathlib.Path) -> int:
    """The tokens of a file outside docstrings."""
    tree = ast.parse(path.read_bytes())
    nodes = [node for node in ast.walk(tree) if isinstance(node, DOCUMENTED)]
    docstrings = {node.body[0].lineno for node in nodes if ast.get_docstring(node, clean=False)}
    total = depth = 0
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == CLOSES:
                depth -= 1
            counted = token.type in COUNTED or token.type == OPENS
            total += counted and not depth and token.start[0] not in docstrings
            if token.type == OPENS:
                depth += 1
    return total


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
    found = by_folder(ROOT)
    for folder in sorted(found):
        ceiling = f" of {CEILINGS[folder]:,}" if folder in CEILINGS else ""
        print(f"{found[folder]:>9,} tokens  {folder}{ceiling}")
    above = [name for name, ceiling in CEILINGS.items() if found[name] > ceiling]
    if above:
        sys.exit(f"{', '.join(above)}: above the ceiling in tests/budget.py; retire as much.")


if __name__ == "__main__":
    main()
