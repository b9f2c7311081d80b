"""Ctrl-C and SIGTERM end a run with a sentence and their exit code: while it imports, while it compiles, and at work."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ENDS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}
WORK = ("-m", "benchmarks.studies.learning_dynamics", "--num_latents=200", "--methods=sae_mp")


def ended(sent, awaited, tmp_path, *before):
    """Exit code and last words of a run that is sent a signal once it has written what is awaited."""
    process = subprocess.Popen(
        [sys.executable, *before, *WORK, f"--results_dir={tmp_path}"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if awaited in line:
            break
    process.send_signal(sent)
    _, said = process.communicate(timeout=30)
    return process.returncode, [line for line in said.splitlines() if not line.startswith(("import time:", "I", "W"))]


@pytest.mark.parametrize(
    ("sent", "awaited", "before"),
    [
        # NumPy is the first that the binary imports, and far from the last.
        (signal.SIGINT, " numpy.version", ("-X", "importtime")),
        (signal.SIGTERM, " jax.version", ("-X", "importtime")),
        (signal.SIGINT, "1/1: sae_mp", ()),
        (signal.SIGTERM, "1/1: sae_mp", ()),
    ],
)
def test_a_signal_ends_a_run_at_once(tmp_path, sent, awaited, before):
    code, said = ended(sent, awaited, tmp_path, *before)
    expected, word = ENDS[sent]
    assert (code, said) == (expected, [f"{word}; the same command goes on from what is saved."])


def test_a_process_that_is_no_binary_keeps_its_handlers():
    script = "import signal, benchmarks; assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory\n  in a page\n  of lines")])
def test_too_little_memory_is_one_sentence(tmp_path, call, monkeypatch, error):
    def prepare(*sizes):
        raise error

    monkeypatch.setattr("benchmarks.speed.training_speed.prepare", prepare)
    code, out, err = call("training_speed", f"--results_dir={tmp_path}")
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith("there is not enough memory")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "a file could not be read or written (No space left on device); free",
        ),
        (PermissionError(errno.EACCES, "Denied", "a/b"), "a/b could not be read or written (Denied); mend that, and the same"),
        (OSError("a bucket did not take\n x; try again."), "a bucket did not take x; try again."),
        (TimeoutError(), "a file or a bucket failed (TimeoutError); the same command goes on from there."),
    ],
)
def test_a_file_that_cannot_be_written_is_one_sentence_with_its_name(tmp_path, call, monkeypatch, error, sentence):
    def prepare(*sizes):
        raise error

    monkeypatch.setattr("benchmarks.speed.training_speed.prepare", prepare)
    code, out, err = call("training_speed", f"--results_dir={tmp_path}")
    assert (code, out, err.count("\n")) == (2, "", 1) and err.startswith(sentence)
