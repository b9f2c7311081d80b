"""Nothing of a user's cache or accelerator may reach the tests, and what is dear to make is made once."""

import contextlib
import dataclasses
import io
import os
import pathlib
import subprocess
import sys
import tempfile
from unittest import mock

import numpy as np
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Shared with the processes that tests start, so that a program of one shape is compiled once in all.
CACHE = tempfile.TemporaryDirectory(prefix="sae_gap-tests-", ignore_cleanup_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE.name


@pytest.fixture(scope="session")
def setting():
    """The cell that most tests run on. Its three splits have one shape, and it is the cell of the smoke preset."""
    from sae_gap import Setting

    return Setting(num_latents=20, sparsity=3, num_samples=200)


@pytest.fixture(scope="session")
def task(setting):
    from sae_gap import draw

    return draw(setting)


@pytest.fixture(scope="session")
def arrays(task):
    """The same data by the names that a file gives them."""
    splits = {"train": task.train, "val": task.id, "ood": task.ood}
    signals = {f"Y_{name}": np.asarray(split.signals) for name, split in splits.items()}
    codes = {f"Z_{name}": np.asarray(split.codes) for name, split in splits.items()}
    return signals | codes | {"A": np.asarray(task.dictionary)}


def start_headline(*arguments):
    """Starts the headline in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.amortisation_gap", *map(str, arguments)],
        cwd=pathlib.Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@dataclasses.dataclass(frozen=True)
class Smoke:
    """A finished run of the smoke preset.

    Attributes:
      directory: of its files.
      printed: what it wrote on stdout.
      logged: what it wrote on stderr.
      rows: of all methods and seeds.
    """

    directory: pathlib.Path
    printed: str
    logged: str
    rows: list[dict]


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    from sae_gap import Store

    folder = tmp_path_factory.mktemp("smoke")
    process = start_headline("--preset=smoke", f"--results_dir={folder}")
    out, err = process.communicate()
    assert process.returncode == 0, err
    return Smoke(folder / "amortisation_gap", out, err, Store(folder / "amortisation_gap").rows())


@pytest.fixture(scope="session")
def start():
    return start_headline


@pytest.fixture(scope="session")
def headline():
    """Runs the headline in this process as a shell would: its exit code, and what it wrote on stdout and stderr."""
    from absl.testing import flagsaver

    from benchmarks import amortisation_gap, cli

    def call(*arguments):
        out, err = io.StringIO(), io.StringIO()
        saved = flagsaver.save_flag_values(amortisation_gap.FLAGS)
        with (
            mock.patch.object(sys, "argv", ["amortisation_gap", *map(str, arguments)]),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as stop,
        ):
            cli.run(amortisation_gap.main, amortisation_gap.FLAGS)
        flagsaver.restore_flag_values(saved, amortisation_gap.FLAGS)
        return stop.value.code or 0, out.getvalue(), err.getvalue()

    return call
