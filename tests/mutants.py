"""One-line bugs, planted one at a time, and whether a test of the module falls.

A bug is a file, a piece of its text that stands there once, what to put in its place, and the tests that should notice. Each is
planted in a copy of the tree, and those tests are run until the first fails; a bug that all of them pass has survived. Prints a
line a bug and their share, and ends with 1 where any survived. It takes an hour, and is no part of the tests.

  python -m tests.mutants
  python -m tests.mutants sae_gap/metrics sae_gap/matching.py
"""

import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from sae_gap.cores import cores
from tests.bugs import BUGS

ROOT = pathlib.Path(__file__).parents[1]
# Seconds after which a loop that a bug has made endless counts as noticed.
PATIENCE = 600


class Verdict(NamedTuple):
    """What became of a bug."""

    fate: str
    seconds: float


def try_bug(folder: pathlib.Path, path: str, old: str, new: str, tests: str) -> Verdict:
    """Plants a bug in a copy of the tree and takes it out again; programs that it does not change are compiled once in all."""
    file, began = folder / path, time.perf_counter()
    text = file.read_text()
    if text.count(old) != 1:
        return Verdict(f"stands {text.count(old)} times", 0.0)
    file.write_text(text.replace(old, new))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", *tests.split()]
    surroundings = {**os.environ, "SAE_GAP_TESTS_CACHE": str(folder.parent / "programs")}
    try:
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PATIENCE, env=surroundings)
        fate = {0: "survived", 1: "noticed"}.get(process.returncode, f"cannot be tested: {process.stdout.strip()[-200:]}")
        # A module that cannot be imported tells nothing of the tests.
        if process.returncode == 2:
            fate = "noticed on import"
    except subprocess.TimeoutExpired:
        fate = "noticed by its time"
    file.write_text(text)
    return Verdict(fate, time.perf_counter() - began)


def main(chosen: list[str]) -> int:
    bugs = [bug for bug in BUGS if not chosen or any(bug[0].startswith(part) for part in chosen)]
    workers = cores()
    with tempfile.TemporaryDirectory(prefix="sae_gap-mutants-") as made:
        copies = []
        for number in range(workers):
            copy = pathlib.Path(made) / str(number)
            for part in ("sae_gap", "benchmarks", "tests", "notebooks"):
                shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            for file in ("pyproject.toml", "README.md", "constraints.txt", "LICENSE"):
                shutil.copy(ROOT / file, copy)
            copies.append(copy)

        def work(number: int) -> list[str]:
            fates = []
            for bug in bugs[number::workers]:
                verdict = try_bug(copies[number], *bug)
                fates.append(verdict.fate)
                shown = f"{bug[0]}: {bug[1].strip()[:60]!r} -> {bug[2].strip()[:60]!r}"
                sys.stdout.write(f"{verdict.fate:20} {verdict.seconds:5.0f} s  {shown}\n")
                sys.stdout.flush()
            return fates

        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            fates = [fate for part in pool.map(work, range(workers)) for fate in part]
    noticed = sum(fate.startswith("noticed") for fate in fates)
    late = fates.count("noticed by its time")
    sys.stdout.write(f"{noticed} of {len(fates)} noticed, {late} of them by their time alone\n")
    return int(noticed < len(fates))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
