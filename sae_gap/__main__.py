"""The command `sae-gap`: says which binaries there are, and runs one.

Names and purposes are read from the binaries' text, so that a list costs no import of JAX.
"""

import ast
import os
import signal
import sys
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from runpy import run_module
from threading import Thread

import sae_gap
from sae_gap.core import BrokenFileError

# A command that is used most has a second, shorter name.
ALIASES = {"bench": "amortisation_gap"}
_USAGE = """{}

usage: sae-gap NAME [--flag=value ...]
       sae-gap NAME --help     the flags of one
       sae-gap --version
"""
_HEADINGS = {
    "real": "Your own SAEs, activations and language model:",
    "studies": "Studies of drawn data:",
    "": "The suite's own checks:",
}
# Folders of binaries that are listed with those of another.
_LIKE = {"benchmarks": "studies", "report": "studies"}
_ENDS = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143)}


def home() -> Path:
    """Returns the folder that holds the package `benchmarks`: `sae_gap` in an installed wheel, the
    folder beside it in a checkout.
    """
    here = Path(__file__).parent
    return next(
        folder
        for folder in (here / "binaries", here.parent)
        if (folder / "benchmarks").is_dir()
    )


def binaries() -> dict[str, Path]:
    """Returns the file of each binary by its name, from all folders."""
    files = sorted((home() / "benchmarks").rglob("*.py"), key=lambda path: path.stem)
    return {
        path.stem: path
        for path in files
        if is_study(path) or "\nif __name__ ==" in path.read_text(encoding="utf-8")
    }


def is_study(path: Path) -> bool:
    """True if the file of a binary declares a study."""
    return path.parent.name == "studies" and "\nBENCH = " in path.read_text(
        encoding="utf-8"
    )


def listing() -> str:
    """Returns the text of `sae-gap --help`: each binary with its docstring's first sentence, by
    what it is for.
    """
    shorter = {name: f" (also: {alias})" for alias, name in ALIASES.items()}
    groups: dict[str, list[str]] = {name: [] for name in _HEADINGS}
    for name, path in binaries().items():
        # A folder that is not listed has the suite's own checks.
        folder = _LIKE.get(path.parent.name, path.parent.name)
        line = f"  {name:<22}{_purpose(path)}{shorter.get(name, '')}"
        groups[folder if folder in groups else ""].append(line)
    listed = (
        f"{_HEADINGS[name]}\n" + "\n".join(lines) for name, lines in groups.items()
    )
    return "\n".join(
        [_USAGE.format(_purpose(Path(sae_gap.__file__))), "\n\n".join(listed)]
    )


def _purpose(path: Path) -> str:
    """Returns the first sentence of a module's docstring, in one line."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"), path)) or ""
    return " ".join(text.partition("\n\n")[0].split())


def main(arguments: list[str] | None = None) -> None:
    """Runs the binary that the first argument names, in this process; exits with 2 if there is
    none.

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
        near = get_close_matches(name, [*known, *ALIASES], n=1)
        mend = f"did you mean {near[0]}? " if near else ""
        sys.stderr.write(
            f"{name!r} is no binary of sae_gap; {mend}sae-gap --help lists them all.\n"
        )
        sys.exit(2)
    _end_on_signals()
    sys.path.insert(0, str(home()))
    sys.argv = [name, *rest]
    module = ".".join(known[name].relative_to(home()).with_suffix("").parts)
    try:
        if is_study(known[name]):
            bench = import_module(module).BENCH
            import_module("benchmarks.harness.main").run(bench)
        else:
            run_module(module, run_name="__main__", alter_sys=True)
    except BrokenFileError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def _end_on_signals() -> None:
    """Makes Ctrl-C and SIGTERM end this process at once, with a sentence.

    Python would wait for an import or a compiled loop to end. Files are always whole, so nothing
    needs to be cleaned up.
    """

    def wait() -> None:
        word, code = _ENDS[signal.Signals(signal.sigwait(_ENDS))]
        # Python's own streams have locks, which another thread may hold.
        os.write(2, f"{word}; the same command goes on from what is saved.\n".encode())
        os._exit(code)

    # Threads that start later inherit the mask, so that only the waiting thread gets the signal.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    main()
