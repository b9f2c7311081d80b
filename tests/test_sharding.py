"""Many devices equal one: see `on_eight_devices.py`, whose tests a process of eight virtual devices runs."""

import os
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).with_name("on_eight_devices.py")


def test_eight_virtual_devices():
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--durations=5", str(FILE)],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        cwd=FILE.parents[1],
    )
    assert process.returncode == 0 and "passed" in process.stdout, process.stdout + process.stderr
