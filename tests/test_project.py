"""What a stranger meets first: code, commands and links of the README and the guides; versions and
pins agree.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version
from pytest import approx, mark

import sae_gap
from benchmarks import studies
from benchmarks.harness import methods
from sae_gap import Store
from sae_gap import __main__ as command
from sae_gap.analysis import published
from tests.conftest import IN_ONE, ROOT, binary_of, flags_of, page_of

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
# The README, and every guide beside the code that it explains. The page of the job files is about
# other programs, and is tested by tests/benchmarks/test_jobs.py.
FOLDERS = ("benchmarks", "notebooks", "sae_gap")
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(
        path
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("README.md"))
    ),
]
PAGES.remove(ROOT / "benchmarks" / "jobs" / "README.md")
GUIDES = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}
README = GUIDES["README.md"]
BINARIES = command.binaries()
# The files that the page of the library has its reader add, by their place.
ADDED = dict(
    re.findall(
        r"`([\w/]+\.py)`:\n\n```python\n(.*?)^```$",
        GUIDES["sae_gap/README.md"],
        re.DOTALL | re.MULTILINE,
    )
)
NEW = {Path(path).stem for path in ADDED}


def blocks(language, text):
    return re.findall(
        rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE
    )


def commands(text):
    """Every line for a shell, without what follows it in the line."""
    for block in blocks("sh", text):
        for line in block.replace("\\\n", " ").splitlines():
            for part in line.split("&&"):
                if words := shlex.split(part, comments=True):
                    yield words


@mark.parametrize(
    "name", [name for name, text in GUIDES.items() if blocks("python", text)]
)
def test_the_code_of_a_page_runs_from_top_to_bottom(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    # What a newcomer runs again may not stop at the files of the first time.
    turns = 2 if name == "README.md" else 1
    for block in turns * blocks("python", GUIDES[name]):
        # Its 500 epochs would take most of the time of all pages.
        block = block.replace(
            "SparseAutoencoder(ReLU())", "SparseAutoencoder(ReLU(), num_steps=5)"
        )
        exec(compile(block, name, "exec"), namespace)
    if name == "sae_gap/README.md":
        assert {row["method"] for row in namespace["rows"]} == {
            "sae_squared",
            "frozen_squared",
            "kmeans",
        }
        assert "effective_ood" in capsys.readouterr().out


def anchors(text):
    """The anchors that GitHub gives to headings."""
    headings = re.findall(
        r"^#+ (.+)$",
        re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE),
        flags=re.MULTILINE,
    )
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


@mark.parametrize("name", [*GUIDES, "RESULTS.md", "CHANGELOG.md"])
def test_links_and_images_of_a_page_are_there(name):
    text = GUIDES.get(name) or (ROOT / name).read_text()
    missing = []
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        other = (ROOT / name).parent / path if path else ROOT / name
        if "://" not in target and (
            not other.exists()
            or (
                anchor
                and other.suffix == ".md"
                and anchor not in anchors(other.read_text())
            )
        ):
            missing.append(target)
    assert missing == []


def test_the_makefile_has_every_target_that_a_page_calls():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    for text in GUIDES.values():
        called = {words[1] for words in commands(text) if words[0] == "make"}
        assert called | set(re.findall(r"`make ([a-z]+)", text)) <= targets
    assert targets - {"format", "lint", "clean"} <= set(
        re.findall(r"make ([a-z]+)", "".join(GUIDES.values()))
    )


def test_all_studies_run_with_the_same_flags_though_one_fails(tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("bin/python", ".ready"):
        (tmp_path / name).touch()
    (tmp_path / "run").write_text('echo "$@"; test $2 != attribution')
    done = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "studies",
            "ARGS=--dry_run",
            f"VENV={tmp_path}",
            f"RUN=@sh {tmp_path / 'run'}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        f"sae_gap {name} --dry_run" for name in studies.found()
    ]
    assert done.returncode and "attribution" in done.stderr


def called(words):
    """The binary that a command calls, and its words; None for another program."""
    for at, word in enumerate(words[:-1]):
        if Path(word).name == "sae-gap" or words[at - 1 : at + 1] == ["-m", "sae_gap"]:
            return command.ALIASES.get(words[at + 1], words[at + 1]), words[at + 2 :]
    return None


def methods_of(bench, source, preset):
    return {method.name: method for method in bench.methods(source, preset)}


def check_methods(bench, names, words):
    """Every name is one of the study's methods, or a crossing of what there is or what the page
    adds.
    """
    preset = bench.presets["quick"]
    source = preset.sources()[0]
    own = methods_of(bench, source, preset)
    for name in names:
        parts = {part.removeprefix("sae_") for part in name.split(":")}
        if name != "all" and name not in own and not parts & NEW:
            assert (
                methods.method_of(name, list(own.values()), source, preset).name == name
            ), words


def test_every_command_of_a_page_parses():
    parsed = 0
    for name, text in GUIDES.items():
        for words in commands(text):
            if words[0] == "make" and (
                given := [word[5:] for word in words if word.startswith("ARGS=")]
            ):
                target = {
                    "bench": "amortisation_gap",
                    "studies": "amortisation_gap",
                }.get(words[1], words[1])
                words = ["-m", "sae_gap", target, *shlex.split(given[0])]
            found = called(words)
            if found is None or found[0] in NEW:
                continue
            bench = getattr(binary_of(found[0]), "BENCH", None)
            flags = flags_of(found[0])
            alone = (
                [word for word in found[1] if word[0] != "-"]
                if found[0] == "check"
                else []
            )
            assert flags([found[0], *found[1]]) == [found[0], *alone], (name, words)
            if bench:
                check_methods(bench, flags["methods"].value or (), words)
                assert flags["preset"].value in (None, *bench.presets), (name, words)
            parsed += 1
    assert parsed >= 15


def test_the_files_of_the_page_run_where_they_are_dropped_with_nothing_else_touched(
    tmp_path,
):
    tree = tmp_path / "tree"
    # With what Numba has compiled, which takes half a minute.
    for folder in ("sae_gap", "benchmarks"):
        shutil.copytree(ROOT / folder, tree / folder)
    for path, text in ADDED.items():
        (tree / path).write_text(text)

    names = "sae_squared,fista_oracle,kmeans,kmeans:squared,oracle:squared,squared:omp"
    sizes = "--world=pairs --num_latents=16 --num_samples=400 --seeds=0 --lam=1"
    smoke = ["--preset=smoke", f"--results_dir={tmp_path}"]
    commands = [
        "--help",
        "then",
        "squared_relu",
        *smoke,
        *sizes.split(),
        f"--methods={names}",
    ]
    commands += ["then", "squared_relu", "--dry_run", *smoke, "--seeds=1", "then"]
    pyplot = "sys.stdout.write(str('matplotlib.pyplot' in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", IN_ONE + pyplot, *commands],
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    listed, out, planned, pyplot = done.stdout.split("then\n")
    assert "squared_relu          Does a squared ReLU" in listed
    lines = [line.split()[0] for line in out.split("\n\n")[0].splitlines()[3:]]
    assert (
        lines == names.split(",")
        and "Further metrics" in out
        and "effective L0 ID  effective L0 OOD" in out
    )
    rows = {row["method"]: row for row in Store(tmp_path / "squared_relu").rows()}
    assert all(0 < row["effective_ood"] <= row["l0_above_ood"] for row in rows.values())
    assert (rows["kmeans"]["inference"], rows["kmeans"]["family"]) == (
        "lasso",
        "dictionary_learning",
    )
    assert rows["kmeans:squared"]["cosine"] == approx(
        rows["kmeans"]["cosine"], abs=1e-6
    )
    page = (page_of(tmp_path / "squared_relu") / "README.md").read_text()
    assert (
        "A squared ReLU" in page and "sae_squared" in page and "kmeans:squared" in page
    )
    assert "sae_squared: 0/1 rows there, 1 to fit" in planned
    # Figures are drawn without it, which would choose a window system.
    assert pyplot == "False"


def test_every_flag_method_and_study_that_a_page_names_is_there():
    flags = {flag for name in BINARIES for flag in flags_of(name)}
    for name, text in GUIDES.items():
        assert set(re.findall(r"`--([a-z_]+)", text)) - {"help", "version"} <= flags, (
            name
        )
    text = GUIDES["benchmarks/README.md"]
    presets = [(bench, bench.presets["quick"]) for bench in studies.found().values()]
    named = {
        name
        for bench, preset in presets
        for name in methods_of(bench, preset.sources()[0], preset)
    }
    assert {"dl_fista", "linear_probe", "fista_oracle", "spams", "sklearn"} <= set(
        re.findall(r"`([a-z_]+)`", text)
    ) & named
    # A study of one's own need not be on the page.
    listed = {
        "amortisation_gap",
        *(line["study"] for line in published.published()),
        *(name for name, path in BINARIES.items() if not command.is_study(path)),
    }
    assert {name for name in listed if f"`{name}`" not in text} == set()


def test_versions_agree():
    citation = (ROOT / "CITATION.cff").read_text()
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert PROJECT["dynamic"] == ["version"]
    assert f"\nversion: {sae_gap.__version__}\n" in citation
    assert all(f"name: {author['name']}\n" in citation for author in PROJECT["authors"])
    assert f"## [{sae_gap.__version__}]" in changelog


def test_constraints_are_exact_and_cover_every_dependency():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, version = line.split("==")
        pinned[name.lower().replace("_", "-")] = Version(version)
    wanted = [Requirement(line) for line in PROJECT["dependencies"]]
    for extra in ("docs", "peers", "notebooks", "test"):
        wanted += [
            Requirement(line) for line in PROJECT["optional-dependencies"][extra]
        ]
    for requirement in wanted:
        if requirement.name != PROJECT["name"]:
            assert requirement.specifier.contains(
                pinned[requirement.name.lower().replace("_", "-")]
            ), requirement
