"""Nothing of a user's cache or accelerator may reach the tests, and what is dear to make is made once."""

import contextlib
import dataclasses
import io
import os
import pathlib
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


def run_benchmark(*arguments):
    """Runs the headline in this process as a shell would: its exit code, and what it wrote on stdout and stderr."""
    from absl.testing import flagsaver

    from benchmarks import amortisation_gap, cli

    out, err = io.StringIO(), io.StringIO()
    with (
        flagsaver.flagsaver(),
        mock.patch.object(sys, "argv", ["amortisation_gap", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        cli.run(amortisation_gap.main)
    return stop.value.code or 0, out.getvalue(), err.getvalue()


@pytest.fixture(scope="session")
def benchmark():
    return run_benchmark


@dataclasses.dataclass(frozen=True)
class Smoke:
    """A finished run of the smoke preset.

    Attributes:
      directory: of its files.
      printed: what it wrote on stdout.
      rows: of all methods and seeds.
      killable: methods that make up whole jobs.
    """

    directory: pathlib.Path
    printed: str
    rows: list[dict]
    killable = ("linear_probe", "sae_topk", "frozen_topk", "refined_topk", "fista_oracle")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    from sae_gap import Store

    folder = tmp_path_factory.mktemp("smoke")
    code, out, err = run_benchmark("--preset=smoke", f"--results_dir={folder}")
    assert (code, err) == (0, "")
    return Smoke(folder / "amortisation_gap", out, Store(folder / "amortisation_gap").rows())
