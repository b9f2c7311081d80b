"""Words of the code, of the tests and of the pages, below their ceilings: `make lint` runs it.

A word of code is a name, a number, a string or an operator. Punctuation, docstrings, imports and
annotations are free, so that one statement a line and a named type cost nothing. An f-string is one
word on every Python. No commit raises a ceiling.
"""

import ast
import collections
import pathlib
import re
import sys
import tokenize
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]
CEILINGS = {"code": 96_300, "tests": 95_000, "pages": 30_000, "README.md": 1_000}
COUNTED = {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING}
PUNCTUATION = {"(", ")", "[", "]", "{", "}", ",", ":", ".", "=", "->"}
# From Python 3.12 on the tokenizer takes f-strings apart.
OPENS = getattr(tokenize, "FSTRING_START", None)
CLOSES = getattr(tokenize, "FSTRING_END", None)
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def free_nodes(tree: ast.Module) -> Iterator[ast.stmt | ast.expr]:
    """The imports, docstrings and annotations of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.AnnAssign) or (
            isinstance(node, ast.arg) and node.annotation
        ):
            yield node.annotation
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns:
            yield node.returns
        if (
            isinstance(node, DOCUMENTED)
            and ast.get_docstring(node, clean=False) is not None
        ):
            yield node.body[0]


def words_of_code(path: pathlib.Path) -> int:
    """The words of code of a file."""
    source = path.read_bytes()
    lines = source.decode().splitlines(keepends=True)
    spans = []
    for node in free_nodes(ast.parse(source)):
        start = node.lineno, node.col_offset
        end = node.end_lineno, node.end_col_offset
        spans.append((start, end))
    count = 0
    depth = 0
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == CLOSES:
                depth -= 1
            if (token.type in COUNTED or token.type == OPENS) and not depth:
                row, column = token.start
                # Nodes count columns in bytes, tokens in characters.
                place = row, len(lines[row - 1][:column].encode())
                is_free = any(start <= place < end for start, end in spans)
                if token.string not in PUNCTUATION and not is_free:
                    count += 1
            if token.type == OPENS:
                depth += 1
    return count


def words_of_text(text: str) -> int:
    """The words of a page between white space, without its blocks of code."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return len(prose.split())


def count_words(root: pathlib.Path) -> collections.Counter[str]:
    """The words of each folder of code two levels deep, of all code, the tests and the pages."""
    found = collections.Counter[str]()
    for top in ("sae_gap", "benchmarks", "tests"):
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).parts
            count = words_of_code(path)
            if top == "tests":
                found["tests"] += count
                continue
            found["/".join(parts[:2]) if len(parts) > 2 else top] += count
            found["code"] += count
    pages = [*root.glob("*.md")]
    for top in ("sae_gap", "benchmarks", "tests", "notebooks"):
        pages += (root / top).rglob("*.md")
    found["pages"] = sum(len(page.read_text().split()) for page in pages)
    found["README.md"] = words_of_text((root / "README.md").read_text())
    return found


def main() -> None:
    found = count_words(ROOT)
    for name in sorted(found):
        ceiling = f" of {CEILINGS[name]:,}" if name in CEILINGS else ""
        print(f"{found[name]:>9,} words  {name}{ceiling}")
    above = [name for name, ceiling in CEILINGS.items() if found[name] > ceiling]
    if above:
        sys.exit(
            f"{', '.join(above)}: above the ceiling in tests/budget.py; retire as much."
        )


if __name__ == "__main__":
    main()
