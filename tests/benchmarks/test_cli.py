"""What every binary shares: ends by signals and errors in one sentence, help with exit code 0, and
flags that are checked.
"""

import errno
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import cli
from sae_gap import __main__ as command
from tests.conftest import flags_of

WORK = ("-m", "sae_gap", "learning_dynamics", "--num_latents=200", "--methods=sae_mp")


def test_a_signal_ends_a_run_at_once(tmp_path):
    process = subprocess.Popen(
        [sys.executable, *WORK, f"--results_dir={tmp_path}"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    # At work in a compiled loop.
    assert any("fitting for sae_mp" in line for line in process.stderr)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 143
    assert "terminated; the same command goes on from what is saved.\n" in said


MEMORY = "there is not enough memory"


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (MemoryError(), MEMORY),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory\n  in a page\n  of lines"), MEMORY),
        (RuntimeError("INTERNAL: Out of memory while trying to allocate"), MEMORY),
        (OSError(errno.ENOSPC, "No space left"), "a file could not be .* \\(No space left\\)"),
        (PermissionError(errno.EACCES, "Denied", "a/b"), "a/b could not be .* \\(Denied\\)"),
        (OSError("gs://a/b cannot be written (gone)."), "gs://a/b cannot be"),
        (ValueError("give more."), "give more"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(call, monkeypatch, tmp_path, error, sentence):
    def draw(cell):
        raise error

    monkeypatch.setattr("benchmarks.speed.problems.draw", draw)
    code, out, err = call("solver_speed", f"--results_dir={tmp_path}")
    assert (code, out, err.count("\n")) == (2, "", 1) and re.match(sentence, err)


@pytest.mark.parametrize("raised", [RuntimeError("Unable to initialize backend"), AssertionError()])
def test_a_device_that_is_not_there_is_one_sentence(call, monkeypatch, tmp_path, raised):
    def none():
        raise raised

    # As JAX does it, the second for a platform without its plugin.
    monkeypatch.setattr("jax.local_devices", none)
    monkeypatch.setattr("benchmarks.speed.problems.draw", lambda cell: none())
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    code, out, err = call("solver_speed", f"--results_dir={tmp_path}")
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("JAX finds no device of")


def test_a_fault_of_the_suite_keeps_its_traceback(call, monkeypatch, tmp_path):
    monkeypatch.setattr("benchmarks.speed.problems.draw", lambda cell: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call("solver_speed", f"--results_dir={tmp_path}")


@pytest.mark.parametrize("name", command.binaries())
def test_help_names_the_purpose_and_every_flag(call, name):
    words = [call(name, word) for word in ("--help", "-h")]
    assert words[0] == words[1] and words[0][::2] == (0, "")
    out = words[0][1]
    purpose, *_ = out.split("\n\n")
    assert purpose[0].isupper() and purpose[-1] in ".?"
    named = {*re.findall(r"^  --(?:\[no\])?([a-z_0-9]+):", out, flags=re.MULTILINE)}
    assert {*flags_of(name)} - {"help"} == named


@pytest.mark.parametrize("text", ["2/2", "-1/2", "0/0", "one", "0/1/2", ""])
def test_shards_are_read_and_refused(text):
    assert cli.parse_shard("2/3") == (2, 3)
    with pytest.raises(ValueError, match=r"^--shard must .*\.$"):
        cli.parse_shard(text)


def test_a_flag_that_is_given_more_than_once_is_told(call, caplog):
    code, _, err = call("record", "--layers=1", "--layers=2", "--model=one", "--tokens=0")
    assert code == 2 and "tokens" in err.splitlines()[-1]
    assert caplog.messages == ["--layers is given more than once; the last one counts."]
