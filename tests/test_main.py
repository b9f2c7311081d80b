"""The command `sae-gap` and the wheel that brings it."""

import importlib.metadata
import os
import re
import runpy
import subprocess
import sys
import zipfile

from pytest import fixture, mark, raises

import sae_gap
from benchmarks import studies
from benchmarks.harness import main
from sae_gap import __main__ as command
from tests.conftest import ROOT, copy_tree


@fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what the wheel holds, built from a copy of the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling import build; build.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(folder)],
        cwd=copy_tree(folder / "tree"),
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("sae_gap-*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_every_module_and_table_and_one_package_at_the_top(installed):
    there = {
        str(path.relative_to(installed))
        for path in installed.rglob("*")
        if path.is_file()
    }
    suite = [path.relative_to(ROOT) for path in (ROOT / "sae_gap").rglob("*.py")]
    binaries = [
        path.relative_to(ROOT)
        for path in (ROOT / "benchmarks").rglob("*")
        if path.suffix in (".py", ".csv")
    ]
    wanted = {*map(str, suite)} | {f"sae_gap/binaries/{path}" for path in binaries}
    assert wanted <= there and "sae_gap/analysis/published.csv" in there
    assert {path.split("/")[0] for path in there} == {
        "sae_gap",
        f"sae_gap-{sae_gap.__version__}.dist-info",
    }


def test_the_wheel_s_command_runs_its_own_binaries_from_any_folder(installed, tmp_path):
    (point,) = importlib.metadata.Distribution.at(
        next(installed.glob("*.dist-info"))
    ).entry_points.select(name="sae-gap")
    assert (point.group, point.value) == ("console_scripts", "sae_gap.__main__:main")
    # The help would wait longer for them than for its own text.
    seen = "{'optax', 'scipy.stats'} & {*sys.modules}"
    watch = f"import atexit, sys; atexit.register(lambda: print({seen}))"
    run = f"{watch}; from sae_gap.__main__ import main; main(['bench', '--help'])"
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", run],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "python -m sae_gap amortisation_gap --preset=quick" in done.stdout
        and "--num_latents" in done.stdout
    )
    assert done.stdout.splitlines()[-1] == "set()"


@fixture
def ran(monkeypatch):
    """What the command would run: the module and its words."""
    calls = []
    monkeypatch.setattr(
        runpy,
        "run_module",
        lambda name, **options: calls.append((name, sys.argv, options)),
    )
    monkeypatch.setattr(sys, "argv", ["sae-gap"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(command, "_end_on_signals", lambda: None)
    return calls


def test_the_list_has_every_binary_with_its_purpose(capsys):
    for words in ([], ["--help"], ["-h"]):
        command.main(words)
        lines = {
            line.split()[0]: line
            for line in capsys.readouterr().out.splitlines()
            if re.match(r"  \w", line)
        }
        assert (
            {*lines}
            == {*command.binaries()}
            >= {*studies.found(), "measure", "report", "solver_speed"}
        )
        assert (
            "The headline benchmark: is it the encoder or the dictionary?"
            in lines["amortisation_gap"]
        )
        assert all(
            re.search(r"[.?]( \(also: \w+\))?$", line) for line in lines.values()
        )


def test_a_study_is_run_with_the_words_that_follow_its_name(ran, monkeypatch):
    monkeypatch.setattr(main, "run", lambda bench: ran.append((bench.name, sys.argv)))
    command.main(["bench", "--preset=smoke"])
    monkeypatch.setattr(sys, "argv", ["sae-gap", "amortisation_gap", "--preset=smoke"])
    command.main()
    assert ran == [
        ("amortisation_gap", ["amortisation_gap", "--preset=smoke"])
    ] * 2 and sys.path[0] == str(ROOT)


@mark.parametrize(
    "typed", ["nonsense", "cli", "measur", "--preset=smoke", "../report", ""]
)
def test_an_unknown_name_is_refused_in_one_sentence(typed, ran, capsys):
    with raises(SystemExit) as stop:
        command.main([typed])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, ran) == (2, "", [])
    assert (
        err.startswith(f"{typed!r} is no binary of sae_gap; ")
        and err.endswith("lists them all.\n")
        and err.count("\n") == 1
    )
    assert ("did you mean measure?" in err) == (typed == "measur")
