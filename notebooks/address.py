"""Writes the repository's address, which pyproject.toml alone knows, into every notebook, so that
each opens alone in Colab.

The owner fills in `Repository` under `[project.urls]`. The first cell of a notebook, a form and an
import, then installs the suite from there if it is missing. Where the address is on GitHub, a badge
opens the notebook in Colab.

  python notebooks/address.py
"""

import json
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLAB = "https://colab.research.google.com"
_BADGE = f"[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({COLAB}/github/"
_INSTALL = (
    "try:\n    {line}\nexcept ImportError:\n    %pip install -q {source}\n    {line}"
)


def address(root: Path) -> str:
    """The repository's address, or nothing where the owner has named none."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    return (
        project.get("urls", {})
        .get("Repository", "")
        .removesuffix("/")
        .removesuffix(".git")
    )


def addressed(notebook: dict, name: str, repository: str) -> dict:
    """A notebook that installs the suite from an address, if there is one, in its first cell of
    code and, of a repository on GitHub, has a badge under its title.
    """
    title, setup = notebook["cells"][:2]
    lines = list(title["source"])
    if lines[2].startswith(_BADGE):
        del lines[1:3]
    github = re.fullmatch(r"https://github\.com/([^/]+/[^/]+)", repository)
    if github:
        lines[1:1] = ["\n", f"{_BADGE}{github[1]}/blob/main/notebooks/{name})\n"]
    form, _, imported = "".join(setup["source"]).partition("\n\n")
    line = imported.splitlines()[-1].strip()
    if repository:
        source = f"git+{repository}" if "://" in repository else repository
        line = _INSTALL.format(line=line, source=source)
    cell = setup | {"source": f"{form}\n\n{line}".splitlines(keepends=True)}
    cells = [title | {"source": lines}, cell, *notebook["cells"][2:]]
    return notebook | {"cells": cells}


def main(root: Path = ROOT) -> None:
    repository = address(root)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        notebook = addressed(
            json.loads(path.read_text(encoding="utf-8")), path.name, repository
        )
        path.write_text(
            json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )
    sys.stdout.write(
        f"{repository or 'no address: name one under [project.urls] in pyproject.toml'}\n"
    )


if __name__ == "__main__":
    main()
