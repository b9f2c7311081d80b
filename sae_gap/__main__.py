"""The command `sae-gap`: says which binaries there are, and runs one.

Names and purposes are read from the binaries' text, so that a list costs no import of JAX.
"""

import ast
import difflib
import runpy
import sys
from pathlib import Path
from typing import NoReturn

import sae_gap

# What is asked for most goes by a shorter name too.
ALIASES = {"bench": "amortisation_gap", "measure": "measure_sae"}


def home() -> Path:
    """The folder that holds the package `benchmarks`: an installed wheel has it within `sae_gap`, a checkout beside it."""
    here = Path(__file__).parent
    return next(folder for folder in (here / "binaries", here.parent) if (folder / "benchmarks").is_dir())


def purposes() -> dict[str, str]:
    """Each binary by its name, with the sentence that its text opens with."""
    found = {}
    for name, path in binaries().items():
        found[name] = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]
    return found


def binaries() -> dict[str, Path]:
    """The file of each binary, whichever folder it lies in, by its name."""
    files = sorted((home() / "benchmarks").rglob("*.py"), key=lambda path: path.stem)
    return {path.stem: path for path in files if "\nif __name__ ==" in path.read_text(encoding="utf-8")}


def listing() -> str:
    """What `sae-gap --help` prints."""
    shorter = {name: f" (also: {alias})" for alias, name in ALIASES.items()}
    lines = [f"  {name:<22}{purpose}{shorter.get(name, '')}" for name, purpose in purposes().items()]
    return "\n".join(
        (
            sae_gap.__doc__.partition("\n")[0],
            "\nusage: sae-gap NAME [--flag=value ...]",
            "       sae-gap NAME --help     the flags of one",
            "       sae-gap --version\n",
            *lines,
        )
    )


def main(arguments: list[str] | None = None) -> None:
    """Runs the binary that the first argument names, as a process of its own would; exits with 2 if there is none.

    Args:
      arguments: the words after the command; None takes those of the process.
    """
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name in ("--help", "-h", "-help", "help"):
        sys.stdout.write(listing() + "\n")
        return
    if name == "--version":
        sys.stdout.write(f"sae_gap {sae_gap.__version__}\n")
        return
    known = binaries()
    name = ALIASES.get(name, name)
    if name not in known:
        _refuse(name, [*known, *ALIASES])
    sys.path.insert(0, str(home()))
    from benchmarks import _ends

    _ends.install()
    sys.argv = [name, *rest]
    module = ".".join(known[name].relative_to(home()).with_suffix("").parts)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _refuse(name: str, known: list[str]) -> NoReturn:
    near = difflib.get_close_matches(name, known, n=1)
    mend = f"did you mean {near[0]}? " if near else ""
    sys.stderr.write(f"{name!r} is no binary of sae_gap; {mend}sae-gap --help lists them all.\n")
    sys.exit(2)


if __name__ == "__main__":
    main()
