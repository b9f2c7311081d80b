"""Sharded equals single-device, and start-up asks for nothing that the environment does not
offer.
"""

import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
from numpy import ones
from numpy.testing import assert_array_equal
from pytest import mark, raises

from sae_gap.core import Split
from sae_gap.runtime import devices
from tests.conftest import ROOT


def test_the_peak_of_memory_is_in_gib_and_devices_are_named():
    assert 0.05 < devices.peak_memory() < 40
    assert devices.describe().startswith("1 x cpu (")


def test_one_device_leaves_arrays_free_to_move():
    split = devices.place(Split(ones((4, 2), np.float32)), devices.own_mesh())
    assert isinstance(split.signals, jax.Array) and not split.signals.committed
    assert_array_equal(split.signals, ones((4, 2)))
    assert split.codes is None


def mesh(axis, kind):
    return jax.make_mesh((1,), (axis,), axis_types=(kind,))


@mark.parametrize(
    ("wrong", "words"),
    [
        (None, "mesh must be of class Mesh"),
        (mesh("samples", jax.sharding.AxisType.Explicit), "must have axes of type"),
        (mesh("rows", jax.sharding.AxisType.Auto), "the mesh has no axis 'samples'"),
    ],
)
def test_what_is_no_mesh_to_place_on_is_refused(wrong, words):
    with raises(
        (TypeError, ValueError), match=rf"{words}.*make it by sae_gap\.runtime"
    ):
        devices.place(ones((4, 2), np.float32), wrong)


# Prints the folder, and after each call how many programs were compiled so far.
CACHED = """
import jax, numpy as np
from sae_gap.runtime import devices
odd, work = np.ones((7, 3)), jax.jit(lambda rows: rows @ rows.T)
print(devices.enable_compilation_cache(), devices.compilations(), end=" ")
for rows in (odd, odd, odd[:5]):
    work(rows)
    print(devices.compilations(), end=" ")
"""


def test_programs_are_kept_in_the_cache_folder_and_each_counts_once(tmp_path):
    """One from the cache as well: it takes time, so that a run that had it is not timed."""
    folder = tmp_path / "sae_gap" / "jax"
    given = {
        "JAX_COMPILATION_CACHE_DIR": "",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XDG_CACHE_HOME": str(tmp_path),
    }

    def run():
        command = [sys.executable, "-c", CACHED]
        return subprocess.check_output(
            command, env=os.environ | given, cwd=ROOT, text=True
        )

    place, none, compiled, again, other = (first := run()).split()
    assert place == str(folder) and none == "0" < compiled == again < other
    written = {*folder.glob("*-cache")}
    assert written and run() == first and {*folder.glob("*-cache")} == written


def test_a_cache_folder_of_the_users_own_is_kept():
    own = os.environ["JAX_COMPILATION_CACHE_DIR"]
    assert str(devices.enable_compilation_cache()) == own
    assert jax.config.values["jax_compilation_cache_dir"] == own


def test_a_home_that_cannot_be_written_to_is_tolerated(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    with monkeypatch.context() as patch:
        # Nothing is set where nothing can be kept.
        patch.setattr(jax, "config", SimpleNamespace(values={}))
        assert devices.enable_compilation_cache() is None
    assert (tmp_path / "file").read_text() == "mine"
