"""What a stranger meets first: the README's code runs, and names only what is there; versions and pins agree."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import sae_gap
from benchmarks import all as every
from benchmarks import measure_sae

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "readme"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert {row["method"] for row in namespace["rows"]} == {"sae_squared", "frozen_squared", "samples"}
    assert "dead_ood" in capsys.readouterr().out


def test_links_and_images_of_the_readme_are_there():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert targets and missing == []


def test_the_makefile_has_every_target_that_the_readme_calls():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    called = {line.split()[1] for block in blocks("sh") for line in block.splitlines() if line.startswith("make ")}
    assert called | set(re.findall(r"`make ([a-z]+)", README)) <= targets


def test_the_benchmarks_have_every_flag_and_method_that_the_readme_names():
    benches = [every.bench_of(name) for name in every.STUDIES]
    flags = {flag for bench in benches for flag in bench.flags} | {*every.FLAGS, *measure_sae.FLAGS}
    named = {name for bench in benches for name in bench.names}
    # Whatever a line of a shell gives to a module of ours is a flag of that very module, with a value that it takes.
    for block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            modules = [word.removeprefix("benchmarks.") for word in words if word.startswith("benchmarks.")]
            if not modules:
                continue
            module = importlib.import_module(f"benchmarks.{modules[0]}")
            own = module.BENCH.flags if hasattr(module, "BENCH") else module.FLAGS
            given = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
            assert set(given) <= {*own}, line
            flags |= {*own}
            if hasattr(module, "BENCH"):
                assert {*filter(None, given.get("methods", "").split(","))} <= {*module.BENCH.names, "all"}, line
                assert given.get("preset", "quick") in module.BENCH.presets, line
    assert {"data", "preset", "protocol", "shard", "dry_run"} <= set(re.findall(r"--([a-z_]+)", README)) & flags
    given = {flag for block in blocks("sh") for flag in re.findall(r"--([a-z_]+)=", block)}
    assert given | set(re.findall(r"`--([a-z_]+)", README)) <= flags
    methods = set(re.findall(r"`([a-z_]+)`", README)) & named
    assert {"dl_fista", "linear_probe", "fista_oracle", "spams", "sklearn"} <= methods


def test_the_readme_names_every_study():
    assert {name for name in every.STUDIES if f"`{name}`" not in README and f"benchmarks.{name}" not in README} == set()


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    # setuptools reads it from the package, without importing that.
    assert PROJECT["dynamic"] == ["version"] and SETUPTOOLS["dynamic"]["version"] == {"attr": "sae_gap.__version__"}
    assert f"\nversion: {sae_gap.__version__}\n" in citation
    assert f"## [{sae_gap.__version__}]" in changelog


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][0-9a-z.]*)", line) or pytest.fail(line) for line in lines]


def test_constraints_are_exact_and_cover_every_dependency():
    pinned = {match[1].lower().replace("_", "-"): Version(match[2]) for match in pins()}
    wanted = [Requirement(line) for line in PROJECT["dependencies"]]
    for extra in ("docs", "peers", "notebooks", "test"):
        wanted += [Requirement(line) for line in PROJECT["optional-dependencies"][extra]]
    for requirement in wanted:
        if requirement.name != PROJECT["name"]:
            assert requirement.specifier.contains(pinned[requirement.name.lower().replace("_", "-")]), requirement
