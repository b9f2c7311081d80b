"""Many devices equal one: a process of eight virtual devices runs the tests of files that are not
collected otherwise.
"""

import os
import subprocess
import sys

from tests.conftest import ROOT

FILES = "tests/on_eight_devices.py", "tests/learners/on_many_devices.py"


def test_eight_virtual_devices():
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    options = ["-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--durations=5"]
    process = subprocess.run(
        [sys.executable, *options, *FILES],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": flags},
        cwd=ROOT,
    )
    assert process.returncode == 0 and "passed" in process.stdout, (
        process.stdout + process.stderr
    )
