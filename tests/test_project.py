"""What a stranger meets first: the README's code runs, and names only what is there; versions and pins agree."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import sae_gap
from benchmarks import amortisation_gap, dictionary_challenge

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


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
    words = [word for block in blocks("sh") for word in shlex.split(block, comments=True)]
    given = {flag for word in words for flag in re.findall(r"--([a-z_]+)=", word)}
    given |= set(re.findall(r"`--([a-z_]+)", README))
    assert {"data", "preset", "protocol", "shard"} <= given <= {*amortisation_gap.FLAGS, *dictionary_challenge.FLAGS}
    named = set(re.findall(r"`([a-z_]+)`", README))
    assert {"dl_fista", "linear_probe", "fista_oracle"} <= named & set(amortisation_gap.METHODS)
    assert {"spams", "sklearn"} <= named & set(dictionary_challenge.METHODS)


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert PROJECT["version"] == sae_gap.__version__
    assert f"\nversion: {sae_gap.__version__}\n" in citation
    assert f"## [{sae_gap.__version__}]" in changelog


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][0-9a-z.]*)", line) or pytest.fail(line) for line in lines]


def test_constraints_are_exact_and_cover_every_dependency():
    pinned = {match[1].lower().replace("_", "-"): Version(match[2]) for match in pins()}
    wanted = [Requirement(line) for line in PROJECT["dependencies"]]
    for extra in ("peers", "notebooks", "test"):
        wanted += [Requirement(line) for line in PROJECT["optional-dependencies"][extra]]
    for requirement in wanted:
        if requirement.name != PROJECT["name"]:
            assert requirement.specifier.contains(pinned[requirement.name.lower().replace("_", "-")]), requirement
