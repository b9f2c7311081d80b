"""Nothing of a user's cache or accelerator may reach the tests, and what is dear to make is made once."""

import os
import tempfile

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
