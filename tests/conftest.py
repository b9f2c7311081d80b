"""Nothing of a user's cache or accelerator may reach the tests, and what is dear to make is made
once.
"""

import contextlib
import csv
import dataclasses
import fcntl
import functools
import gc
import hashlib
import importlib
import io
import os
import pathlib
import platform
import shutil
import sys
from importlib import metadata
from unittest import mock

import numpy as np
import pytest
from matplotlib.figure import Figure
from pytest import fixture

from sae_gap.figures import style

ROOT = pathlib.Path(__file__).parents[1]
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Of the processes that tests start: see benchmarks/__init__.py.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Most of the tests' time is XLA's, which compiles thousands of small programs that run once or
# twice. Without its optimisations and each in one piece they compile in a fifth of it. The programs
# that users run are tested by `JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS= make test`. An XLA that
# does not know one of the flags ends at once and names it, as that of 0.12 does the second.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_OLD = tuple(int(part) for part in metadata.version("jaxlib").split(".")[:2]) < (0, 12)
_ONE_PIECE = "--xla_cpu_parallel_codegen_split_count=1"
os.environ.setdefault(
    "XLA_FLAGS",
    f"{_ONE_PIECE} --xla_cpu_use_fusion_emitters=false" if _OLD else _ONE_PIECE,
)


def kind_of_machine():
    """Names what XLA compiles for: the version of jaxlib, the processor and its instructions."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    kinds = {
        line for line in lines if line.startswith(("model name", "flags", "Features"))
    }
    text = repr((platform.uname().machine, platform.processor(), sorted(kinds)))
    return (
        f"{metadata.version('jaxlib')}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    )


# Shared with the workers, with the processes that tests start and with the next run, so that a
# program of one shape is compiled once in all. Another processor may lack its instructions.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
    ROOT / ".cache" / f"xla-{kind_of_machine()}"
)


# Tracing makes many objects that stay, and Python would look through them for garbage again and
# again.
gc.set_threshold(50_000, 20, 50)

# The kind of fonts in the PDF files of users. Cutting a font to the letters of a figure takes
# longer than drawing the figure: tests use the kind that is not cut.
FONTS = style.STYLE["pdf.fonttype"]
style.STYLE["pdf.fonttype"] = 3
# A sixteenth of the pixels of users.
style.STYLE["savefig.dpi"] = 50


def pytest_xdist_auto_num_workers(config):
    """One worker more than cores, as tests wait for other processes and for the disk."""
    return (os.cpu_count() or 1) + 1


def pytest_addoption(parser):
    words = "lasso problems whose certificates are judged, for each solver"
    parser.addoption("--problems", type=int, default=700, help=words)


def pytest_configure():
    import jax
    import scipy.linalg  # noqa: F401
    import threadpoolctl

    from sae_gap.runtime import devices

    # Many small steps on the host, beside another worker. NumPy and SciPy, each with a BLAS of its
    # own, are loaded by now, and read no variable any more.
    threadpoolctl.threadpool_limits(1, user_api="blas")

    # Read when JAX was imported, which the plugins of pytest may have done.
    plain = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0"
    jax.config.update("jax_disable_most_optimizations", plain)
    # Before the first program is compiled: JAX decides once whether it keeps them.
    devices.enable_compilation_cache()


# The modules that take longest, which workers begin with, so that they end together, after the one
# that drops all programs.
LONGEST = (
    "test_lowering",
    "test_notebooks",
    "test_studies",
    "test_host",
    "test_check",
    "test_distributed",
    "test_learned",
    "test_sparse_autoencoder",
    "test_sharding",
    "test_project",
    "test_shapes",
    "test_online_dictionary",
    "test_families",
    "test_downstream",
    "test_jobs",
    "test_versions",
    "test_real",
)


def pytest_collection_modifyitems(items):
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@fixture(scope="module", autouse=True)
def few_programs():
    """Drops programs where they are many: Linux lets a process map 65,530 pieces of memory, of
    which one takes four.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        import jax

        jax.clear_caches()


@fixture(scope="session")
def setting():
    """The cell that most tests run on. Its three splits have one shape, and it is the cell of the
    smoke preset.
    """
    from tests.tiny import SETTING

    return SETTING


@fixture(scope="session")
def task(setting):
    from sae_gap import draw

    return draw(setting)


@fixture(scope="session")
def arrays(task):
    """The same data by the names that a file gives them."""
    splits = {"train": task.train, "val": task.id, "ood": task.ood}
    signals = {f"Y_{name}": np.asarray(split.signals) for name, split in splits.items()}
    codes = {f"Z_{name}": np.asarray(split.codes) for name, split in splits.items()}
    return signals | codes | {"A": np.asarray(task.dictionary)}


def binary_of(name):
    """The module of a binary, whichever folder it lies in."""
    from sae_gap import __main__ as command

    return importlib.import_module(
        ".".join(
            command.binaries()[name].relative_to(command.home()).with_suffix("").parts
        )
    )


def flags_of(name):
    """The flags of a binary by its name."""
    from benchmarks import cli, options
    from benchmarks.harness import main

    module = binary_of(name)
    return options.define(
        main.options_of(module.BENCH)
        if hasattr(module, "BENCH")
        else cli.options_of(module.main)
    )


def page_of(folder):
    """The folder of the only page of a study."""
    (page,) = pathlib.Path(folder).rglob("page.json")
    return page.parent


def copy_tree(folder):
    """Copies what a wheel is built from."""
    leave = shutil.ignore_patterns(
        ".*", "results", "build", "dist", "*.egg-info", "__pycache__", "tests"
    )
    return shutil.copytree(ROOT, folder, ignore=leave)


def save_picture(figure, file, *, format, savefig=Figure.savefig, **options):
    """Draws no PDF file, which takes as long as the PNG file of the same figure, and lays nothing
    out, which takes as long as to draw; binaries in processes of their own and the tests of the
    style do.
    """
    if format == "pdf":
        file.write(b"%PDF")
    else:
        figure.set_layout_engine("none")
        savefig(figure, file, format=format, **options)


def call_binary(name, *arguments):
    """Runs a binary in this process as a shell would: its exit code, and what it wrote on stdout
    and stderr.
    """
    from benchmarks import cli
    from benchmarks.harness import main

    module = binary_of(name)
    out = io.StringIO()
    err = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [name, *map(str, arguments)]),
        mock.patch.object(Figure, "savefig", save_picture),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        if hasattr(module, "BENCH"):
            main.run(module.BENCH)
        cli.run(module.main)
    return stop.value.code or 0, out.getvalue(), err.getvalue()


def succeed(name, *arguments):
    """What a binary prints, which neither fails nor complains."""
    code, out, err = call_binary(name, *arguments)
    assert (code, err) == (0, ""), err
    return out


def refused(words, name, *arguments):
    """Holds that a binary ends with code 2 and one sentence, which has the words."""
    code, out, err = call_binary(name, *arguments)
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1, (out, err)


def lines_of(path):
    """The lines of a table."""
    with open(path, newline="") as file:
        return [*csv.DictReader(file)]


# Runs commands in one process, which loads and compiles once what they share: the words of each, with
# "then" between them, as between what they print.
IN_ONE = """
import itertools, sys
from sae_gap.__main__ import main
for between, words in itertools.groupby(sys.argv[1:], "then".__eq__):
    try:
        print("then", flush=True) if between else main([*words])
    except SystemExit as end:
        assert not end.code
"""


@dataclasses.dataclass(frozen=True)
class Smoke:
    """A finished run of the smoke preset.

    Attributes:
      directory: of the study, with its rows.
      page: of its tables, figures and page.
      models: of its fitted models.
      printed: what it wrote on stdout.
      rows: of all methods and seeds.
    """

    directory: pathlib.Path
    page: pathlib.Path
    models: pathlib.Path
    printed: str
    rows: list[dict]


@fixture(scope="session")
def smokes(tmp_path_factory):
    """Finished runs of the smoke preset by study, each run when a worker first asks for it, over
    one folder of models.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "smokes"
    folder.mkdir(exist_ok=True)

    @functools.cache
    def smoke(name):
        from sae_gap import Store

        results = folder / name
        with results.with_suffix(".txt").open("a+") as printed:
            # Whoever comes second waits for the first, and finds what that one printed.
            fcntl.flock(printed, fcntl.LOCK_EX)
            printed.seek(0)
            out = printed.read()
            if not out:
                options = (
                    f"--results_dir={results}",
                    f"--models_dir={folder / 'models'}",
                )
                out = succeed(name, "--preset=smoke", "--methods=all", *options)
                printed.write(out)
        directory = results / name
        return Smoke(
            directory,
            page_of(directory),
            folder / "models",
            out,
            Store(directory).rows(),
        )

    return smoke


@fixture(scope="session")
def smoke(smokes):
    return smokes("amortisation_gap")
